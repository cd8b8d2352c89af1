"""Read upstream `.model` files without executing anything in them.

Such a file is a pickle of live objects, source code among them. Here every class in it becomes an
inert record of its attributes: no upstream code runs, no code from the file runs. From the records
the architecture and the tensors are taken, and the model is built anew.
"""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ws.errors import UnsafeFileError, UserError
from ase_ws.potentials.architecture import MACEArchitecture
from ase_ws.potentials.module import ONE_HEAD
from ase_ws.potentials.plausible import check_tensors, reason

# Everything that a MACE file names. A name from elsewhere is refused.
_ALLOWED = (
    "mace.",
    "e3nn.",
    "torch.nn.",
    "torch.fx.",
    "torch.tanh",
    "torch.abs",
    "torch._C._VariableFunctions",
    "builtins.getattr",  # how builtin functions such as torch.tanh are named; inert here
    "builtins.slice",
)


# What zipfile and torch.load raise on damaged or hostile files.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    OSError,
    OverflowError,
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
)

# Modules within modules; a file may claim any number, or a circle.
_MAX_DEPTH, _MAX_MODULES = 50, 100_000


class _Inert:
    """Stands for an object of a class or a call of a function named in the file."""

    path = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        record = super().__new__(cls)
        record.__dict__["args"] = args
        return record

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __getattr__(self, name: str) -> Any:
        for group in ("_buffers", "_parameters", "_modules"):
            members = self.__dict__.get(group) or {}
            if name in members:
                return members[name]
        raise AttributeError(name)

    @property
    def kind(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class UpstreamModel:
    """What an upstream file holds, as plain data.

    Attributes
    ----------
    architecture : MACEArchitecture
    tensors : dict of str to Tensor
        Weights and buffers by name, reference energies excluded.
    e0 : ndarray, (n_heads, n_elements), eV, float64
    """

    architecture: MACEArchitecture
    tensors: dict[str, Tensor]
    e0: np.ndarray


def read_upstream(path: str | os.PathLike[str]) -> UpstreamModel:
    """Read a `.model` file written by mace-torch.

    Raises
    ------
    UnsafeFileError
        The file names something outside the allow-list.
    UserError
        It is not such a file, or a kind of model that is not supported.
    """
    root = _load_inert(Path(path))
    if not isinstance(root, _Inert) or root.kind not in ("MACE", "ScaleShiftMACE"):
        found = root.kind if isinstance(root, _Inert) else type(root).__name__
        raise UserError(
            f"{path}: holds a {found}, expected a MACE or ScaleShiftMACE energy model saved whole "
            "by mace-torch (the file 'NAME.model', not a checkpoint or a compiled one)"
        )
    if "joint_embedding" in (root.__dict__.get("_modules") or {}):
        raise UserError(
            f"{path}: models with charge or spin embeddings are not supported; "
            "use one without extra inputs"
        )
    try:
        return _describe(root)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path}: the model's structure is not understood ({reason(error):.200}); expected a "
            "model saved by mace-torch 0.3"
        ) from error


def _load_inert(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not a model file; expected .safetensors or a mace-torch .model")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(member.filename.endswith("constants.pkl") for member in members):
            raise UserError(
                f"{path}: a compiled TorchScript model; give the '.model' file it was made from"
            )
        # Such files are not compressed: more content than file is damage, or a bomb.
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise UserError(f"{path}: damaged: it says that it holds more than it does")
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        for name in names:
            if not name.startswith(_ALLOWED):
                raise UnsafeFileError(
                    f"{path}: names '{name}', which no MACE model needs; the file is not trusted "
                    "and was not loaded"
                )
        # Each name maps to an inert class of its own, never to what it names.
        stubs: list[Any] = [(type(n.rpartition(".")[2], (_Inert,), {"path": n}), n) for n in names]
        with torch.serialization.safe_globals(stubs):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except _PICKLE_ERRORS as error:
        detail = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read as a mace-torch model ({detail:.200}); it may be damaged or "
            "half a download: get it again"
        ) from error


def _describe(root: _Inert) -> UpstreamModel:
    tensors = dict(_tensors(root))
    check_tensors(tensors)
    heads = _heads(getattr(root, "heads", None))
    e0 = np.atleast_2d(tensors.pop("atomic_energies_fn.atomic_energies").double().numpy())
    if e0.shape != (len(heads), len(tensors["atomic_numbers"])):
        raise UserError(
            f"reference energies of shape {e0.shape} for {len(heads)} head(s) and "
            f"{len(tensors['atomic_numbers'])} element(s)"
        )
    if root.kind == "MACE":
        # Plain MACE is ScaleShiftMACE with scale 1 and shift 0.
        tensors["scale_shift.scale"] = torch.ones(len(heads))
        tensors["scale_shift.shift"] = torch.zeros(len(heads))
    weights = [t for t in tensors.values() if t.is_floating_point()]
    architecture = _architecture(root, tensors, str(weights[0].dtype).removeprefix("torch."), heads)
    return UpstreamModel(architecture, tensors, e0)


def _heads(heads: Any) -> tuple[str, ...]:
    """Names of the heads; older versions know of none, and some files have a bare name."""
    heads = ONE_HEAD if heads is None else (heads,) if isinstance(heads, str) else heads
    if not isinstance(heads, list | tuple) or not all(isinstance(name, str) for name in heads):
        raise ValueError("heads are not a list of names")
    return tuple(heads)


def _tensors(
    record: _Inert, prefix: str = "", depth: int = 0, met: list[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    met = [0] if met is None else met
    met[0] += 1
    if depth > _MAX_DEPTH or met[0] > _MAX_MODULES:
        raise ValueError("modules within modules without end")
    for group in ("_parameters", "_buffers"):
        skip = record.__dict__.get("_non_persistent_buffers_set") or ()
        for name, value in (record.__dict__.get(group) or {}).items():
            if isinstance(value, Tensor) and name not in skip:
                yield f"{prefix}{name}", value.detach()
    for name, child in (record.__dict__.get("_modules") or {}).items():
        if isinstance(child, _Inert):
            yield from _tensors(child, f"{prefix}{name}.", depth + 1, met)


def _architecture(
    root: _Inert, tensors: dict[str, Tensor], dtype: str, heads: tuple[str, ...]
) -> MACEArchitecture:
    interactions = list(root.interactions._modules.values())
    products = list(root.products._modules.values())
    readouts = list(root.readouts._modules.values())
    radial = root.radial_embedding
    if not readouts:
        raise ValueError("no readout: its energy depends on nothing")
    last = readouts[-1]
    contraction = products[0].symmetric_contractions.contractions._modules["0"]
    hidden = _irreps(products[0].linear.irreps_out)
    mlp_irreps, gate = _readout(last, len(heads))
    neighbours = {_number(block.avg_num_neighbors) for block in interactions}
    if len(neighbours) > 1:
        raise ValueError(f"avg_num_neighbors differs between layers: {sorted(neighbours)}")
    # Names that are not known, and numbers out of range, are pydantic's to refuse.
    facts: dict[str, Any] = {
        "atomic_numbers": tuple(_integer(z) for z in tensors["atomic_numbers"].flatten()),
        "r_max": _number(tensors["r_max"]),
        "num_bessel": _integer(radial.out_dim),
        "num_polynomial_cutoff": _integer(radial.cutoff_fn.p),
        "max_ell": _integer(root.spherical_harmonics._lmax),
        "interaction_first": interactions[0].kind,
        "interaction": interactions[-1].kind,
        "num_interactions": len(interactions),
        "hidden_irreps": hidden,
        "MLP_irreps": mlp_irreps,
        "correlation": len(contraction.weights._parameters) + 1,
        "gate": gate,
        "readout": last.kind if last.kind != "LinearReadoutBlock" else "NonLinearReadoutBlock",
        "radial_type": _RADIAL[radial.bessel_fn.kind],
        "radial_MLP": _radial_mlp(interactions[0]),
        "distance_transform": _distance_transform(radial),
        "pair_repulsion": "pair_repulsion_fn" in root._modules,
        "apply_cutoff": _flag(root, "apply_cutoff", True),
        "use_reduced_cg": _flag(root, "use_reduced_cg", False),
        "use_so3": _flag(root, "use_so3", False),
        "use_agnostic_product": _flag(root, "use_agnostic_product", False),
        "use_last_readout_only": _flag(root, "use_last_readout_only", False),
        # Upstream does not keep this one; where there are scalars only it makes no difference.
        "keep_last_layer_irreps": "+" in hidden
        and _irreps(products[-1].linear.irreps_out) == hidden,
        "use_edge_irreps_first": _flag(root, "use_edge_irreps_first", False),
        "edge_irreps": _irreps(root.edge_irreps) if getattr(root, "edge_irreps", None) else None,
        "heads": heads,
        "avg_num_neighbors": neighbours.pop(),
        "scale": tuple(_number(x) for x in tensors["scale_shift.scale"].flatten()),
        "shift": tuple(_number(x) for x in tensors["scale_shift.shift"].flatten()),
        "dtype": dtype,
    }
    return MACEArchitecture(**facts)


def _number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"expected a finite number, found {type(value).__name__}")
    return float(value)


def _integer(value: Any) -> int:
    number = _number(value)
    if number != math.floor(number):
        raise ValueError(f"expected a whole number, found {number}")
    return int(number)


def _flag(root: _Inert, name: str, default: bool) -> bool:
    value = getattr(root, name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, found {type(value).__name__}")
    return value


_RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}


def _readout(last: _Inert, n_heads: int) -> tuple[str, str]:
    """MLP irreps of one head and the name of the gate, from the last readout block."""
    if "hidden_irreps" not in last.__dict__:
        return "16x0e", "silu"
    scalars = sum(mul for mul, _, _ in _irreps_terms(last.hidden_irreps))
    acts = last.non_linearity.acts
    act = acts._modules["0"] if isinstance(acts, _Inert) else acts[0]
    return f"{max(1, scalars // n_heads)}x0e", _function_name(getattr(act, "f", None))


def _function_name(function: Any) -> str:
    """Name of a function in the file: a named one is a stub class, torch's own a getattr call."""
    if function is None:
        return "none"
    if isinstance(function, type) and issubclass(function, _Inert):
        return function.path.rpartition(".")[2]
    if isinstance(function, _Inert) and function.kind == "getattr":
        return function.args[1]
    raise ValueError(f"unknown gate of type {type(function).__name__}")


def _distance_transform(radial: _Inert) -> str:
    if "distance_transform" not in radial._modules:
        return "None"
    return radial.distance_transform.kind.removesuffix("Transform")


def _radial_mlp(interaction: _Inert) -> tuple[int, ...]:
    layers = interaction.conv_tp_weights
    if "hs" in layers.__dict__:
        return tuple(_integer(width) for width in layers.hs[1:-1])
    # The newer RadialMLP: a Sequential of Linear, LayerNorm and gate.
    weights = [t for name, t in _tensors(layers.net) if name.endswith("weight") and t.dim() == 2]
    return tuple(w.shape[0] for w in weights[:-1])


def _irreps(irreps: Any) -> str:
    return "+".join(
        f"{mul}x{degree}{'e' if parity == 1 else 'o'}"
        for mul, degree, parity in _irreps_terms(irreps)
    )


def _irreps_terms(irreps: Any) -> Iterator[tuple[int, int, int]]:
    """Multiplicity, degree and parity of each term: Irreps > _MulIr > Irrep are nested tuples."""
    for term in irreps.args[0]:
        mul, irrep = term.args[0] if len(term.args) == 1 else term.args
        degree, parity = irrep.args[0] if len(irrep.args) == 1 else irrep.args
        yield _integer(mul), _integer(degree), _integer(parity)
