"""Positions, momenta and forces of many systems at once, which the batched integrators move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms, units
from torch import Tensor

from ase_ws.calculators import PotentialCalculator
from ase_ws.graphs import collate, graph, state_of
from ase_ws.md.evaluation import CALCULATOR_FAILURES, MisshapenError
from ase_ws.md.observer import RunContext
from ase_ws.typing import GraphBatch

#: Positions, momenta, forces and energy of a system.
Frame = tuple[np.ndarray, np.ndarray, np.ndarray, float]


class BatchedSystems:
    """Positions, momenta and forces of many systems, in float64, on the calculator's device.

    What the potential raises for the start is raised.

    Attributes
    ----------
    positions, momenta, forces : Tensor, (n_atoms, 3)
        Å, ASE's momenta, eV/Å.
    masses : Tensor, (n_atoms, 1), amu
    energy : Tensor, (n_systems,), eV
    errors : dict
        What the potential raised for a system, by its place; its energy and forces are NaN.
    owner : Tensor, (n_atoms,)
        System of each atom.
    """

    def __init__(self, systems: Sequence[Atoms], calculator: PotentialCalculator, skin: float):
        self.systems, self.calculator = list(systems), calculator
        self.skin = skin if calculator.potential.skin_safe else 0.0
        self.device = calculator.graph.device
        self.errors: dict[int, BaseException] = {}
        self.positions = self._tensor(np.concatenate([a.positions for a in systems]))
        self.momenta = self._tensor(np.concatenate([a.get_momenta() for a in systems]))
        self._arrange()
        self.energy, self.forces = self._predicted()

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.array(values, dtype=float), device=self.device)

    def _arrange(self) -> None:
        """Set up what belongs to the systems that are there."""
        self.sizes = [len(a) for a in self.systems]
        self.masses = self._tensor(np.concatenate([a.get_masses() for a in self.systems]))[:, None]
        self.owner = torch.repeat_interleave(
            torch.arange(len(self.sizes), device=self.device),
            torch.tensor(self.sizes, device=self.device),
        )
        self.isolated = torch.tensor([not a.pbc.any() for a in self.systems], device=self.device)
        self.total_mass = self.sum(self.masses)
        self._graph: GraphBatch | None = None

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the atoms of each system."""
        out = values.new_zeros((len(self.sizes), *values.shape[1:]))
        return out.index_add(0, self.owner, values)

    def evaluate(self) -> None:
        """Energies and forces at the positions; where the potential raises, NaN and `errors`."""
        self.errors = {}
        try:
            self.energy, self.forces = self._predicted()
        except CALCULATOR_FAILURES:
            # One system has upset the potential, and the batch cannot tell which.
            self._one_by_one()

    def _predicted(self) -> tuple[Tensor, Tensor]:
        prediction = self.calculator.evaluate(self._current_graph())
        energy, forces = prediction.energy, prediction.forces
        if forces is None:
            raise MisshapenError("no forces, but None")
        for name, values, shape in (
            ("forces", forces, (len(self.positions), 3)),
            ("energies", energy, (len(self.sizes),)),
        ):
            if values.shape != shape:
                raise MisshapenError(f"{name} of shape {tuple(values.shape)}, expected {shape}")
        return energy.detach(), forces.detach().double()

    def _one_by_one(self) -> None:
        ends = np.cumsum(self.sizes)[:-1].tolist()
        positions = torch.tensor_split(self.positions, ends)
        energies, forces = [], []
        for place, (system, there) in enumerate(zip(self.systems, positions, strict=True)):
            moved = system.copy()
            moved.positions = there.cpu().numpy()
            try:
                alone = BatchedSystems([moved], self.calculator, self.skin)
                energy, force = alone.energy, alone.forces
            except CALCULATOR_FAILURES as error:
                self.errors[place] = error
                energy, force = self.energy.new_full((1,), np.nan), torch.full_like(there, np.nan)
            energies.append(energy)
            forces.append(force)
        self.energy, self.forces = torch.cat(energies), torch.cat(forces)

    def _current_graph(self) -> GraphBatch:
        if self._graph is not None:
            moved = (self.positions - self._built_at).square().sum(dim=1).max()
            # Written so that NaN counts as outdated.
            if bool(moved <= (0.5 * self.skin) ** 2):
                local = (self.positions - self._offset).to(self.calculator.graph.dtype)
                return self._graph.displaced(local - self._graph.positions)
        return self._new_graph()

    def _new_graph(self) -> GraphBatch:
        positions = self.positions.cpu().numpy()
        # A system with NaN gets a list at its last good place: its forces are NaN already, and
        # the observers will say so.
        positions = np.where(np.isfinite(positions), positions, 0.0)
        apart = np.split(positions, np.cumsum(self.sizes)[:-1])
        cutoff = self.calculator.potential.r_max + self.skin
        dtype = self.calculator.graph.dtype
        graphs = [
            graph(
                a.numbers,
                p,
                np.array(a.cell),
                a.pbc,
                cutoff=cutoff,
                state=state_of(a.info),
                dtype=dtype,
            )
            for a, p in zip(self.systems, apart, strict=True)
        ]
        built = collate(graphs)
        self._offset = self._tensor(positions) - built.positions.to(self.device)
        self._graph, self._built_at = built.to(self.device, dtype), self.positions.clone()
        return self._graph

    def kinetic(self) -> Tensor:
        """Kinetic energy of each system, eV."""
        return 0.5 * self.sum(self.momenta.square() / self.masses).sum(dim=1)

    def suspicious(
        self, contexts: Sequence[RunContext], hot: float, large_force: float
    ) -> np.ndarray:
        """Which systems should be looked at out of turn: not finite, very hot, large forces."""
        kinetic = self.kinetic()
        largest = torch.zeros_like(self.energy).scatter_reduce(
            0, self.owner, self.forces.square().sum(dim=1), "amax"
        )
        limit = torch.tensor(
            [hot * 0.5 * c.n_dof * units.kB * c.temperature for c in contexts], device=self.device
        )
        # Written so that NaN is suspicious; a NaN position makes its energy or forces one.
        fine = (kinetic <= limit) & (largest <= large_force**2) & torch.isfinite(self.energy)
        fine &= torch.isfinite(self.sum(self.positions + self.momenta).sum(dim=1))
        return (~fine).cpu().numpy()

    def frames(self) -> list[Frame]:
        """Positions, momenta, forces and energy of each system."""
        ends = np.cumsum(self.sizes)[:-1]
        arrays = [
            np.split(x.cpu().numpy(), ends) for x in (self.positions, self.momenta, self.forces)
        ]
        return list(zip(*arrays, self.energy.tolist(), strict=True))

    def keep(self, places: Sequence[int]) -> Tensor:
        """Let the other systems go; give the mask of the atoms that stay."""
        stay = torch.zeros(len(self.sizes), dtype=torch.bool, device=self.device)
        stay[list(places)] = True
        atoms = stay[self.owner]
        self.systems = [self.systems[k] for k in places]
        self.positions, self.momenta = self.positions[atoms], self.momenta[atoms]
        self.forces, self.energy = self.forces[atoms], self.energy[stay]
        self.errors = {}
        if self.systems:
            self._arrange()
        return atoms
