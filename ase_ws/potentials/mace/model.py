"""MACE as a `Potential`. The only file that imports mace or e3nn.

What it guards against (mace-torch 0.3.16): importing mace disarms `torch.load` for the whole
process; e3nn alone does not import on torch >= 2.6; `forward` changes its input; total energies
in float32 lose meV to the reference energies; networks of both parities cannot be copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ws.errors import UserError
from ase_ws.graphs import NEUTRAL
from ase_ws.potentials.base import PotentialModule
from ase_ws.potentials.heads import choose_head
from ase_ws.potentials.mace.architecture import MACEArchitecture, check_sizes
from ase_ws.potentials.mace.features import Features
from ase_ws.potentials.mace.lean.model import NOT_READ, LeanMACE
from ase_ws.potentials.mace.lean.trainable import TrainableMACE
from ase_ws.potentials.skin import leak_beyond_cutoff
from ase_ws.potentials.weights import Matrix, load_weights
from ase_ws.side_effects import building, without_side_effects
from ase_ws.typing import GraphBatch, Potential

with without_side_effects():
    from e3nn import o3
    from mace import modules

# What upstream's constructor calls, or takes, otherwise than `MACEArchitecture`.
_OTHERWISE = {
    "dtype",
    "gate",
    "interaction",
    "interaction_first",
    "keep_last_layer_irreps",
    "readout",
    "scale",
    "shift",
}

#: Upstream's names of what `state_of` gives, by their keys in `atoms.info`.
_STATE = {"charge": "total_charge", "spin": "total_spin"}

# How upstream's constructors say that they do not know a combination.
_CANNOT_BE_BUILT = (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


class MACEPotential(PotentialModule):
    """A MACE whose energy is E = Σ_i [E0(Z_i) + ε_i(r)], forces F = -dE/dr.

    The network holds the interaction energies ε_i in its own precision; the reference energies E0
    are added, and everything summed, in float64.

    Parameters
    ----------
    network : ScaleShiftMACE
        With reference energies of zero.
    architecture : MACEArchitecture
    e0, head
        As in `PotentialModule`.

    Notes
    -----
    Heads share all but their last weights, scale, shift and reference energies. Fine-tuning one
    of them keeps what is the others' own, but changes the network below them: their energies are
    then no longer those they were trained for.
    """

    kind = "mace"
    architecture_type = MACEArchitecture
    architecture: MACEArchitecture

    def __init__(
        self,
        network: torch.nn.Module,
        architecture: MACEArchitecture,
        e0: np.ndarray | Tensor,
        head: str | None = None,
    ):
        super().__init__(architecture, e0, head)
        self.network = network
        self._slices = _feature_slices(network)
        self.skin_safe = _repulsion_ends(network, self.r_max) and leak_beyond_cutoff(self) == 0.0

    def description(self) -> dict[str, Any]:
        """Plain data from which the potential is built again."""
        return {**super().description(), "head": self.head}

    @classmethod
    def rebuild(
        cls,
        description: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        e0: np.ndarray,
        head: str | None = None,
    ) -> MACEPotential:
        """Build the potential from a model file's content (see `PotentialModule.rebuild`)."""
        architecture = MACEArchitecture(**description["architecture"])
        stored = description.get("head")
        if e0.ndim == 1:
            # All that earlier versions kept of a multi-head model.
            rows = np.full((len(architecture.heads), len(e0)), np.nan)
            rows[choose_head(architecture.heads, stored)] = e0
            e0 = rows
        return build_mace(architecture, e0, tensors=tensors, head=head or stored)

    def lean(self, *, compiled: bool = False) -> Potential:
        """Give the form of few operations (see `ase_ws.potentials.mace.lean`), if it is known."""
        try:
            return LeanMACE(self, compiled=compiled)
        except NOT_READ:
            return self

    def trainable(self) -> Potential:
        """Give the form of few operations for training, if it is known."""
        try:
            return TrainableMACE(self)
        except NOT_READ:
            return self

    def with_heads(self, sources: Mapping[str, str]) -> MACEPotential:
        """Give a potential with these heads, see `PotentialModule.with_heads`."""
        # That makes one of this class.
        from ase_ws.potentials.mace.new_heads import with_heads

        return with_heads(self, sources)

    def matrices(self) -> list[Matrix]:
        """Give the matrices among the weights, those of linear maps by degree."""
        found = super().matrices()
        for module in self.network.modules():
            if isinstance(module, o3.Linear):
                linear: Any = module
                start = 0
                # A bias has an instruction, too, from no input.
                for path in (i for i in linear.instructions if i.i_in >= 0):
                    found.append(Matrix(linear.weight, start, *path.path_shape))
                    start += math.prod(path.path_shape)
        return found

    def with_direct_forces(self, *, scale: float, seed: int) -> PotentialModule:
        """Give a `DirectPotential` on this network."""
        # That is made of this class.
        from ase_ws.potentials.mace.direct import DirectPotential, ReadoutSettings

        return DirectPotential(self, ReadoutSettings(scale=scale), seed=seed)

    @property
    def takes(self) -> tuple[str, ...]:
        """Keys of `atoms.info` that the energy depends on, see `ase_ws.graphs.state_of`."""
        names = self.architecture.embedding_specs or {}
        return tuple(key for key, name in _STATE.items() if name in names)

    def start(self, batch: GraphBatch, elements: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give what an atom has before it meets any other: of its element, and of charge and spin.

        Parameters
        ----------
        batch : GraphBatch
        elements : Tensor, (n_atoms,)

        Returns
        -------
        features : Tensor, (n_atoms, n_channels)
        energies : Tensor, (n_atoms,), eV, or None
            What upstream adds to the reference energies, where charge or spin have an energy.
        """
        network: Any = self.network
        one_hot = torch.nn.functional.one_hot(elements, len(self.atomic_numbers)).to(self.dtype)
        features = network.node_embedding(one_hot)
        if not self.takes:
            return features, None
        features = features + network.joint_embedding(batch.batch, self._state(batch))
        if not self.architecture.use_embedding_readout:
            return features, None
        heads = torch.full_like(elements, self.head_index)
        return features, network.embedding_readout(features, heads)[:, self.head_index]

    def _state(self, batch: GraphBatch) -> dict[str, Tensor]:
        """Charge and multiplicity of each structure by upstream's names, (n_graphs,).

        Raises
        ------
        UserError
            One that is no number, or none that the network has been made for.
        """
        specs = self.architecture.embedding_specs or {}
        neutral = torch.tensor([NEUTRAL], dtype=torch.float64, device=batch.batch.device)
        state = neutral.expand(batch.n_graphs, 2) if batch.state is None else batch.state
        found = {}
        for (key, name), values in zip(_STATE.items(), state.T, strict=True):
            if name not in specs:
                continue
            spec = specs[name]
            first, last = -spec.offset, spec.num_classes - 1 - spec.offset
            whole = spec.type == "categorical"
            good = values.isfinite()
            if whole:
                good = good & (values == values.round()) & (values >= first) & (values <= last)
            if not bool(good.all()):
                expected = f"a whole number from {first} to {last}" if whole else "a number"
                raise UserError(
                    f"atoms.info['{key}'] is {float(values[~good][0]):g} or no number: this model "
                    f"takes {expected} there"
                )
            found[name] = values.to(self.dtype)
        return found

    def atomic_energies(self, batch: GraphBatch) -> Tensor:
        """Energies per atom, (n_atoms,), eV, float64, differentiable in positions and cell."""
        return self._evaluate(batch)[0]

    def features(self, batch: GraphBatch) -> Features:
        """Energies, and what the layers know of each atom: what a direct readout reads."""
        energies, node_features = self._evaluate(batch)
        scalars, vectors = self._slices
        rows = len(energies)
        return Features(
            energies,
            torch.cat([node_features[:, part] for part in scalars], dim=1),
            torch.cat([node_features[:, part].reshape(rows, -1, 3) for part in vectors], dim=1)
            if vectors
            else node_features.new_zeros((rows, 0, 3)),
        )

    @property
    def feature_counts(self) -> tuple[int, int]:
        """Number of scalars and of vectors that `features` gives for each atom."""
        scalars, vectors = self._slices
        return (
            sum(part.stop - part.start for part in scalars),
            sum(part.stop - part.start for part in vectors) // 3,
        )

    def _evaluate(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        elements = self.element_indices(batch)
        out = self.network(self._upstream_dict(batch, elements), compute_force=False)
        energies = self.e0[elements] + out["node_energy"]
        if self.architecture.use_embedding_readout:
            # Upstream has it in the total, and not with the atoms.
            own = self.start(batch, elements)[1]
            energies = energies if own is None else energies + own
        return energies, out["node_feats"]

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
            "head": torch.full((batch.n_graphs,), self.head_index, device=ends.device),
            **(self._state(batch) if self.takes else {}),
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
    e0 : array, (n_elements,) or (n_heads, n_elements), eV
    seed : int
        For fresh weights. The global random state is left as it was.
    head : str, optional
    tensors : mapping, optional
        Weights and buffers of the network by name. Every weight must be there.

    Raises
    ------
    UserError
        Weights are missing, unknown, or of another shape than the architecture says; upstream has
        no such network.
    """
    choose_head(architecture.heads, head)  # before the work
    if tensors is not None:
        check_sizes(architecture, tensors)
    with building(getattr(torch, architecture.dtype), seed):
        try:
            network = modules.ScaleShiftMACE(**_upstream_arguments(architecture))
        except _CANNOT_BE_BUILT as error:
            detail = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"no MACE can be built from {architecture.size}, max_ell {architecture.max_ell}, "
                f"correlation {architecture.correlation} ({detail:.120})"
            ) from error
    make_copyable(network)
    if tensors is not None:
        load_weights(network, tensors)
    try:
        return MACEPotential(network, architecture, np.asarray(e0, dtype=float), head)
    except (RuntimeError, IndexError) as error:
        raise UserError(
            f"upstream builds {architecture.size}, but cannot evaluate it "
            f"({type(error).__name__}); the channels of all degrees must be as many"
        ) from error


def _repulsion_ends(network: Any, r_max: float) -> bool:
    """Whether the short-range repulsion ends, at the sum of two radii, where the edges do."""
    if not hasattr(network, "pair_repulsion_fn"):
        return True
    radii = network.pair_repulsion_fn.covalent_radii[network.atomic_numbers]
    return 2 * float(radii.max()) <= r_max


def make_copyable(network: torch.nn.Module) -> None:
    """Make the weights of products that are always zero what they are once upstream has read them.

    As built, they are of a class that `copy.deepcopy` fails on.
    """
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            if type(weight) is not torch.nn.Parameter:
                zero = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
                module.register_parameter(name, zero)


def _feature_slices(network: torch.nn.Module) -> tuple[list[slice], list[slice]]:
    """Where the scalars (0e) and the vectors (1o) of each layer stand in the node features."""
    scalars, vectors, start = [], [], 0
    for product in network.products:  # pyright: ignore[reportGeneralTypeIssues]
        for multiplicity, irrep in o3.Irreps(product.linear.irreps_out):
            here = slice(start, start + multiplicity * irrep.dim)
            if irrep == o3.Irrep("0e"):
                scalars.append(here)
            elif irrep == o3.Irrep("1o"):
                vectors.append(here)
            start = here.stop
    return scalars, vectors


def _upstream_arguments(a: MACEArchitecture) -> dict:
    gates = {
        "silu": torch.nn.functional.silu,
        "tanh": torch.tanh,
        "abs": torch.abs,
        "none": None,
    }
    # Those that have the same name and type there.
    same = a.model_dump(exclude=_OTHERWISE)
    return {
        **same,
        "interaction_cls": getattr(modules.blocks, a.interaction),
        "interaction_cls_first": getattr(modules.blocks, a.interaction_first),
        "num_elements": len(a.atomic_numbers),
        "atomic_numbers": list(a.atomic_numbers),
        "hidden_irreps": o3.Irreps(a.hidden_irreps),
        "MLP_irreps": o3.Irreps(a.MLP_irreps),
        "atomic_energies": np.zeros((len(a.heads), len(a.atomic_numbers))),
        "gate": gates[a.gate],
        # Only where it is wanted: older versions of mace-torch do not know it.
        **({"keep_last_layer_irreps": True} if a.keep_last_layer_irreps else {}),
        "edge_irreps": None if a.edge_irreps is None else o3.Irreps(a.edge_irreps),
        "radial_MLP": list(a.radial_MLP),
        "heads": list(a.heads),
        "readout_cls": getattr(modules.blocks, a.readout),
        "atomic_inter_scale": _scalar_or_list(a.scale),
        "atomic_inter_shift": _scalar_or_list(a.shift),
    }


def _scalar_or_list(values: Sequence[float]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)


def to_upstream(potential: MACEPotential) -> torch.nn.Module:
    """Build upstream's own model, with all its heads, as `MACECalculator` loads it.

    Raises
    ------
    UserError
        The reference energies of a head are not known.
    """
    a = potential.architecture
    arguments = _upstream_arguments(a)
    e0 = potential.reference_energies.cpu().numpy()
    if not np.isfinite(e0).all():
        raise UserError(
            f"only the reference energies of head '{potential.head}' are known, not those of all "
            f"heads {list(a.heads)}: the file is of an earlier version; make it again"
        )
    arguments["atomic_energies"] = e0 if len(a.heads) > 1 else e0[0]
    with building(potential.dtype):
        model = modules.ScaleShiftMACE(**arguments)
    state = dict(potential.network.state_dict())
    state.pop("atomic_energies_fn.atomic_energies")
    model.load_state_dict({k: v.cpu() for k, v in state.items()}, strict=False)
    return model
