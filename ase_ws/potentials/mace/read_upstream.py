"""Take the architecture and the tensors from the inert records of an upstream `.model` file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.files.mistakes import reason
from ase_ws.potentials.heads import ONE_HEAD
from ase_ws.potentials.mace.architecture import ATTENTION, MACEArchitecture
from ase_ws.potentials.mace.inert import Inert, load_inert, number_of, tensors_of
from ase_ws.potentials.weights import check_tensors

# Flags of the architecture by the names that upstream has for them, and what their absence means.
_FLAGS = {
    "apply_cutoff": True,
    "use_reduced_cg": False,
    "use_so3": False,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "use_edge_irreps_first": False,
}
_RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}


class UpstreamModel(NamedTuple):
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


def read_upstream(path: Path) -> UpstreamModel:
    """Read a `.model` file written by mace-torch; the errors do not name it.

    Raises
    ------
    UnsafeFileError
        The file names something outside the allow-list.
    UserError
        It is not such a file, or a kind of model that is not supported.
    """
    root = load_inert(path)
    if not isinstance(root, Inert) or root.kind not in ("MACE", "ScaleShiftMACE"):
        found = root.kind if isinstance(root, Inert) else type(root).__name__
        article = "an" if found[:1] in "AEIOU" else "a"
        raise UserError(
            f"holds {article} {found}, expected a MACE or ScaleShiftMACE energy model saved whole "
            "by mace-torch (the file 'NAME.model', not a checkpoint or a compiled one)"
        )
    specs = getattr(root, "embedding_specs", None) or {}
    known = isinstance(specs, dict) and set(specs) <= {"total_charge", "total_spin"}
    if not known or bool(specs) != ("joint_embedding" in (root.__dict__.get("_modules") or {})):
        named = ", ".join(map(str, specs)) if isinstance(specs, dict) else ""
        raise UserError(
            f"the model takes {named or 'what it does not name':.100} beside the structure; only "
            "total_charge and total_spin are known here"
        )
    try:
        return _describe(root)
    except UserError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the model's structure is not understood ({reason(error, MACEArchitecture):.200}); "
            "expected a model saved by mace-torch 0.3"
        ) from error


def _describe(root: Inert) -> UpstreamModel:
    tensors = dict(tensors_of(root))
    # Files of the first versions have these beside the tensors.
    for name, dtype in (("atomic_numbers", torch.int64), ("r_max", torch.float64)):
        if name not in tensors and name in root.__dict__:
            found = getattr(root, name)
            values = [number_of(x) for x in found] if isinstance(found, list) else number_of(found)
            tensors[name] = torch.tensor(values, dtype=dtype)
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


def _architecture(
    root: Inert, tensors: dict[str, Tensor], dtype: str, heads: tuple[str, ...]
) -> MACEArchitecture:
    interactions = list(root.interactions._modules.values())
    products = list(root.products._modules.values())
    readouts = list(root.readouts._modules.values())
    radial = root.radial_embedding
    if not readouts:
        raise ValueError("no readout: its energy depends on nothing")
    last = readouts[-1]
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
        "correlation": _correlation(products),
        "gate": gate,
        "readout": last.kind if last.kind != "LinearReadoutBlock" else "NonLinearReadoutBlock",
        "radial_type": _RADIAL[radial.bessel_fn.kind],
        "radial_MLP": _radial_mlp(interactions),
        "distance_transform": _distance_transform(radial),
        "pair_repulsion": "pair_repulsion_fn" in root._modules,
        **{name: _flag(root, name, default) for name, default in _FLAGS.items()},
        # Upstream does not keep this one; where there are scalars only it makes no difference.
        "keep_last_layer_irreps": "+" in hidden
        and _irreps(products[-1].linear.irreps_out) == hidden,
        "edge_irreps": _irreps(root.edge_irreps) if getattr(root, "edge_irreps", None) else None,
        "embedding_specs": getattr(root, "embedding_specs", None),
        "use_embedding_readout": "embedding_readout" in root._modules,
        "heads": heads,
        "avg_num_neighbors": neighbours.pop(),
        "scale": tuple(_number(x) for x in tensors["scale_shift.scale"].flatten()),
        "shift": tuple(_number(x) for x in tensors["scale_shift.shift"].flatten()),
        "dtype": dtype,
    }
    return MACEArchitecture(**facts)


def _number(value: Any) -> float:
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else number_of(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"expected a finite number, found {type(value).__name__}")
    return float(value)


def _integer(value: Any) -> int:
    number = _number(value)
    if number != math.floor(number):
        raise ValueError(f"expected a whole number, found {number}")
    return int(number)


def _flag(root: Inert, name: str, default: bool) -> bool:
    value = getattr(root, name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, found {type(value).__name__}")
    return value


def _readout(last: Inert, n_heads: int) -> tuple[str, str]:
    """MLP irreps of one head and the name of the gate, from the last readout block."""
    if "hidden_irreps" not in last.__dict__:
        return "16x0e", "silu"
    scalars = sum(mul for mul, _, _ in _irreps_terms(last.hidden_irreps))
    acts = last.non_linearity.acts
    act = acts._modules["0"] if isinstance(acts, Inert) else acts[0]
    return f"{max(1, scalars // n_heads)}x0e", _function_name(getattr(act, "f", None))


def _function_name(function: Any) -> str:
    """Name of a function in the file: a named one is a stub class, torch's own a getattr call."""
    if function is None:
        return "none"
    if isinstance(function, type) and issubclass(function, Inert):
        return function.path.rpartition(".")[2]
    if isinstance(function, Inert) and function.kind == "getattr":
        return function.args[1]
    raise ValueError(f"unknown gate of type {type(function).__name__}")


def _distance_transform(radial: Inert) -> str:
    if "distance_transform" not in radial._modules:
        return "None"
    return radial.distance_transform.kind.removesuffix("Transform")


def _correlation(products: list[Inert]) -> int | tuple[int, ...]:
    """Factors in the products: one number where all layers are alike."""
    firsts = [product.symmetric_contractions.contractions._modules["0"] for product in products]
    factors = tuple(len(contraction.weights._parameters) + 1 for contraction in firsts)
    return factors[0] if len(set(factors)) == 1 else factors


def _radial_mlp(interactions: list[Inert]) -> tuple[int, ...]:
    """Hidden widths of the radial networks; those of attention are what they always are."""
    widths = [block for block in interactions if block.kind != ATTENTION] or interactions
    layers = widths[0].conv_tp_weights
    if "hs" in layers.__dict__:
        return tuple(_integer(width) for width in layers.hs[1:-1])
    # The newer RadialMLP: a Sequential of Linear, LayerNorm and gate.
    weights = [t for name, t in tensors_of(layers.net) if name.endswith("weight") and t.dim() == 2]
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
