"""MACE as a `Potential`. The only file that imports mace or e3nn.

What it guards against (mace-torch 0.3.16): importing mace disarms `torch.load` for the whole
process; e3nn alone does not import on torch >= 2.6; `forward` changes its input; total energies
in float32 lose meV to the reference energies.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from ase_ws.environment import unchanged_environment
from ase_ws.errors import UserError
from ase_ws.graphs import edge_vectors, graph
from ase_ws.potentials.architecture import MACEArchitecture
from ase_ws.potentials.derivatives import predict_conservative
from ase_ws.typing import GraphBatch, Prediction


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let mace and e3nn do what they must on import and on building, and undo the rest."""
    # mace sets TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, which would disarm every later torch.load; e3nn
    # loads constants that hold a slice; both warn and print of what does not concern the user.
    with (
        unchanged_environment(),
        torch.serialization.safe_globals([slice]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(None),
    ):
        warnings.simplefilter("ignore")
        yield


with _undisturbed():
    from e3nn import o3
    from mace import modules


class MACEPotential(torch.nn.Module):
    """A MACE whose energy is E = Σ_i [E0(Z_i) + ε_i(r)], forces F = -dE/dr.

    The network holds the interaction energies ε_i in its own precision; the reference energies E0
    are added, and everything summed, in float64.

    Parameters
    ----------
    network : ScaleShiftMACE
        With reference energies of zero.
    architecture : MACEArchitecture
    e0 : array, (n_elements,), eV
        Reference energy of each element, in the order of `architecture.atomic_numbers`.
    head : str, optional
        Which head of a multi-head model; default the last one that is not a replay head.

    Attributes
    ----------
    r_max, atomic_numbers, conservative, skin_safe
        As in `ase_ws.typing.Potential`.
    """

    conservative = True
    e0: Tensor
    _element_index: Tensor

    def __init__(
        self,
        network: torch.nn.Module,
        architecture: MACEArchitecture,
        e0: np.ndarray | Tensor,
        head: str | None = None,
    ):
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.r_max = float(architecture.r_max)
        self.atomic_numbers = tuple(architecture.atomic_numbers)
        self.head = _choose_head(architecture.heads, head)
        self.register_buffer("e0", torch.as_tensor(e0, dtype=torch.float64), persistent=False)
        index = torch.full((119,), -1, dtype=torch.int64)
        index[list(self.atomic_numbers)] = torch.arange(len(self.atomic_numbers))
        self.register_buffer("_element_index", index, persistent=False)
        self.skin_safe = leak_beyond_cutoff(self) == 0.0

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return next(self.network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def _apply(self, fn, recurse: bool = True) -> MACEPotential:
        # Moving to a device or a precision must not round the reference energies.
        e0 = self.e0.clone()
        super()._apply(fn, recurse)
        self.e0 = e0.to(self.e0.device)
        return self

    def forward(
        self,
        batch: GraphBatch,
        *,
        forces: bool,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Prediction:
        """Energy, and forces and stress where asked (see `ase_ws.typing.Potential`)."""
        return predict_conservative(
            self.atomic_energies, batch, forces=forces, stress=stress, create_graph=create_graph
        )

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Energies per atom, (n_atoms,), eV, float64, differentiable in positions and cell."""
        elements = self._elements(batch)
        return (
            self.e0[elements]
            + self.network(self._upstream_dict(batch, elements), compute_force=False)["node_energy"]
        )

    def _elements(self, batch: GraphBatch) -> Tensor:
        elements = self._element_index[batch.numbers]
        if bool((elements < 0).any()):
            unknown = _symbols(set(batch.numbers[elements < 0].tolist()))
            raise UserError(
                f"the model does not know the element(s) {unknown}; "
                f"it knows {_symbols(self.atomic_numbers)}"
            )
        return elements

    def _upstream_dict(self, batch: GraphBatch, elements: Tensor) -> dict[str, Tensor]:
        """Build a fresh dict for every call: upstream's forward writes into it."""
        dtype = self.dtype
        positions = batch.positions.to(dtype)
        if not positions.requires_grad:
            # forward() turns requires_grad on in place: on this alias, not on the batch's tensor.
            positions = positions.detach()
        cell = batch.cell.to(dtype)
        unit_shifts = batch.shifts.to(dtype)
        owner = batch.batch[batch.edge_index[0]]
        ends = torch.cumsum(batch.n_atoms, 0)
        return {
            "positions": positions,
            "node_attrs": torch.nn.functional.one_hot(elements, len(self.atomic_numbers)).to(dtype),
            "edge_index": batch.edge_index,
            "unit_shifts": unit_shifts,
            "shifts": torch.einsum("ei,eij->ej", unit_shifts, cell[owner]),
            "cell": cell.reshape(-1, 3),
            "batch": batch.batch,
            "ptr": torch.cat([ends.new_zeros(1), ends]),
            "head": torch.full((batch.n_graphs,), self.head, device=ends.device),
        }


def build_mace(
    architecture: MACEArchitecture,
    e0: np.ndarray | Sequence[float],
    *,
    seed: int = 0,
    head: str | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> MACEPotential:
    """Build a MACE from its architecture, with fresh weights or with given ones.

    Parameters
    ----------
    architecture : MACEArchitecture
    e0 : array, (n_elements,), eV
    seed : int
        For fresh weights. The global random state is left as it was.
    head : str, optional
    tensors : mapping, optional
        Weights and buffers of the network by name. Every weight must be there.

    Raises
    ------
    UserError
        Weights are missing, unknown, or of another shape than the architecture says.
    """
    with torch.random.fork_rng(devices=[]), _undisturbed(), _default_dtype(architecture.dtype):
        torch.manual_seed(seed)
        network = modules.ScaleShiftMACE(**_upstream_arguments(architecture))
    if tensors is not None:
        _load_tensors(network, tensors)
    return MACEPotential(network, architecture, np.asarray(e0, dtype=float), head)


def _load_tensors(network: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        missing, unexpected = network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise UserError(f"the weights do not fit the architecture: {detail:.300}") from error
    weights = {name for name, _ in network.named_parameters()}
    # Buffers (coupling coefficients, masks) are rebuilt from the architecture and may be absent.
    lost = [name for name in missing if name in weights]
    if lost or unexpected:
        raise UserError(
            f"the weights do not fit the architecture: missing {lost[:3]}, "
            f"unexpected {list(unexpected)[:3]}"
        )


def _upstream_arguments(a: MACEArchitecture) -> dict:
    gates = {
        "silu": torch.nn.functional.silu,
        "tanh": torch.tanh,
        "abs": torch.abs,
        "none": None,
    }
    return {
        "r_max": a.r_max,
        "num_bessel": a.num_bessel,
        "num_polynomial_cutoff": a.num_polynomial_cutoff,
        "max_ell": a.max_ell,
        "interaction_cls": getattr(modules.blocks, a.interaction),
        "interaction_cls_first": getattr(modules.blocks, a.interaction_first),
        "num_interactions": a.num_interactions,
        "num_elements": len(a.atomic_numbers),
        "hidden_irreps": o3.Irreps(a.hidden_irreps),
        "MLP_irreps": o3.Irreps(a.MLP_irreps),
        "atomic_energies": np.zeros((len(a.heads), len(a.atomic_numbers))),
        "avg_num_neighbors": a.avg_num_neighbors,
        "atomic_numbers": list(a.atomic_numbers),
        "correlation": a.correlation,
        "gate": gates[a.gate],
        "pair_repulsion": a.pair_repulsion,
        "apply_cutoff": a.apply_cutoff,
        "use_reduced_cg": a.use_reduced_cg,
        "use_so3": a.use_so3,
        "use_agnostic_product": a.use_agnostic_product,
        "use_last_readout_only": a.use_last_readout_only,
        "use_edge_irreps_first": a.use_edge_irreps_first,
        "edge_irreps": None if a.edge_irreps is None else o3.Irreps(a.edge_irreps),
        "distance_transform": a.distance_transform,
        "radial_MLP": list(a.radial_MLP),
        "radial_type": a.radial_type,
        "heads": list(a.heads),
        "readout_cls": getattr(modules.blocks, a.readout),
        "atomic_inter_scale": _scalar_or_list(a.scale),
        "atomic_inter_shift": _scalar_or_list(a.shift),
    }


def _scalar_or_list(values: Sequence[float]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)


def to_upstream(potential: MACEPotential) -> torch.nn.Module:
    """Build upstream's own model, reference energies and all, as `MACECalculator` loads it."""
    a = potential.architecture
    dtype = str(potential.dtype).removeprefix("torch.")
    arguments = _upstream_arguments(a)
    e0 = potential.e0.cpu().numpy()
    arguments["atomic_energies"] = np.tile(e0, (len(a.heads), 1)) if len(a.heads) > 1 else e0
    with torch.random.fork_rng(devices=[]), _undisturbed(), _default_dtype(dtype):
        model = modules.ScaleShiftMACE(**arguments)
    state = dict(potential.network.state_dict())
    state.pop("atomic_energies_fn.atomic_energies")
    model.load_state_dict({k: v.cpu() for k, v in state.items()}, strict=False)
    return model


def leak_beyond_cutoff(potential: MACEPotential, skin: float = 1.0) -> float:
    """Largest change of an atomic energy (eV) when edges beyond `r_max` are added.

    Zero for blocks that multiply every message by a cutoff that ends at `r_max`; anything above
    rounding is reported as it is. Evaluated on a fixed cluster of known elements in the network's
    own precision.
    """
    rng = np.random.default_rng(0)
    n = 8
    numbers = np.resize(potential.atomic_numbers, n)
    positions = rng.uniform(0, potential.r_max * 1.1, (n, 3))
    wide = graph(
        numbers, positions, np.zeros((3, 3)), np.zeros(3, bool), cutoff=potential.r_max + skin
    ).to(potential.device, potential.dtype)
    inside = edge_vectors(wide).norm(dim=1) < potential.r_max
    tight = replace(wide, edge_index=wide.edge_index[:, inside], shifts=wide.shifts[inside])
    with torch.no_grad():
        a, b = potential.atomic_energies(wide), potential.atomic_energies(tight)
    leak = float((a - b).abs().max())
    # Adding zeros can change the order of a sum, hence its rounding.
    scale = float((a - potential.e0[potential._elements(wide)]).abs().max())
    rounding = 100 * torch.finfo(potential.dtype).eps * max(scale, 1e-3)
    # NaN counts as a leak: nothing can be said of it.
    return 0.0 if leak <= rounding else leak


@contextlib.contextmanager
def _default_dtype(name: str) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))


def _choose_head(heads: Sequence[str], head: str | None) -> int:
    if head is not None:
        if head not in heads:
            raise UserError(f"the model has no head '{head}'; its heads are {list(heads)}")
        return list(heads).index(head)
    candidates = [k for k, name in enumerate(heads) if name != "pt_head"]
    return candidates[-1] if candidates else 0
