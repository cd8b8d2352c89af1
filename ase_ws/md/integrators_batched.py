"""Integrators of many systems at once, and the state they move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from ase import Atoms, units
from torch import Tensor

from ase_ws.calculators import PotentialCalculator
from ase_ws.graphs import collate, graph
from ase_ws.md.observer import RunContext
from ase_ws.typing import GraphBatch

Ensemble = Literal["nve", "nvt"]

#: Positions, momenta, forces and energy of a system.
Frame = tuple[np.ndarray, np.ndarray, np.ndarray, float]

#: Steps whose noise is drawn at once.
_DRAWN = 50


class State:
    """Positions, momenta and forces of many systems, in float64, on the calculator's device.

    Attributes
    ----------
    positions, momenta, forces : Tensor, (n_atoms, 3)
        Å, ASE's momenta, eV/Å.
    masses : Tensor, (n_atoms, 1), amu
    energy : Tensor, (n_systems,), eV
    owner : Tensor, (n_atoms,)
        System of each atom.
    """

    def __init__(self, systems: Sequence[Atoms], calculator: PotentialCalculator, skin: float):
        self.systems, self.calculator = list(systems), calculator
        self.skin = skin if calculator.potential.skin_safe else 0.0
        self.device = calculator.graph.device
        self._graph: GraphBatch | None = None

    @classmethod
    def of(cls, systems: Sequence[Atoms], calculator: PotentialCalculator, skin: float) -> State:
        """Take the positions and momenta of the systems, and evaluate them."""
        state = cls(systems, calculator, skin)
        state.positions = state._tensor(np.concatenate([a.positions for a in systems]))
        state.momenta = state._tensor(np.concatenate([a.get_momenta() for a in systems]))
        state._arrange()
        state.evaluate()
        return state

    positions: Tensor
    momenta: Tensor
    forces: Tensor
    energy: Tensor

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
        self._graph = None

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the atoms of each system."""
        out = values.new_zeros((len(self.sizes), *values.shape[1:]))
        return out.index_add(0, self.owner, values)

    def evaluate(self) -> None:
        """Energies and forces at the positions."""
        prediction = self.calculator.evaluate(self._current_graph())
        assert prediction.forces is not None
        self.energy = prediction.energy.detach()
        self.forces = prediction.forces.detach().double()

    def _current_graph(self) -> GraphBatch:
        if self._graph is not None:
            moved = (self.positions - self._built_at).square().sum(dim=1).max()
            # Written so that NaN counts as outdated.
            if bool(moved <= (0.5 * self.skin) ** 2):
                local = (self.positions - self._centres).to(self.calculator.graph.dtype)
                return self._graph.displaced(local - self._graph.positions)
        return self._new_graph()

    def _new_graph(self) -> GraphBatch:
        positions = self.positions.cpu().numpy()
        # A system with NaN gets a list at its last good place: its forces are NaN already, and
        # the observers will say so.
        positions = np.where(np.isfinite(positions), positions, 0.0)
        centres = (self.sum(self.positions) / self.sum(torch.ones_like(self.masses)))[self.owner]
        self._centres = torch.nan_to_num(centres)
        local = np.split(positions - self._centres.cpu().numpy(), np.cumsum(self.sizes)[:-1])
        cutoff = self.calculator.potential.r_max + self.skin
        graphs = [
            graph(a.numbers, p, np.array(a.cell), a.pbc, cutoff=cutoff)
            for a, p in zip(self.systems, local, strict=True)
        ]
        self._graph = collate(graphs).to(self.device, self.calculator.graph.dtype)
        self._built_at = self.positions.clone()
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
        if self.systems:
            self._arrange()
        return atoms


class VelocityVerletBatched:
    """Velocity Verlet of many systems: the very operations of `ase.md.verlet.VelocityVerlet`.

    Parameters
    ----------
    state : State
    timestep : float, fs
    temperatures, thermostat_time, generators
        Of no meaning here.
    """

    def __init__(
        self,
        state: State,
        timestep: float,
        temperatures: Sequence[float],
        thermostat_time: float,
        generators: Sequence[np.random.Generator],
    ):
        self.state, self.dt = state, timestep * units.fs
        self._active = list(range(len(state.sizes)))
        self.heat = torch.zeros(len(state.sizes), dtype=torch.float64, device=state.device)

    def step(self) -> None:
        """One time step."""
        s = self.state
        s.momenta = s.momenta + 0.5 * self.dt * s.forces
        s.positions = s.positions + self.dt * s.momenta / s.masses
        s.evaluate()
        s.momenta = s.momenta + 0.5 * self.dt * s.forces

    def keep(self, active: list[int]) -> None:
        """Go on with these systems alone (numbers as at the start)."""
        if active == self._active:
            return
        places = [self._active.index(k) for k in active]
        self.heat = self.heat[places]
        self._keep(places)
        self._active = list(active)

    def _keep(self, places: list[int]) -> None:
        self.state.keep(places)


class LangevinBAOAB(VelocityVerletBatched):
    """Langevin dynamics: half a kick, half a drift, friction and noise, half a drift, half a kick.

    p ← e^(−γΔt) p + √(m k_B T (1 − e^(−2γΔt))) ξ, from which the motion of the centre of mass and
    the rotation of isolated systems are taken off. That is a projection that is orthogonal in
    mass-weighted coordinates, so the other 3N − 3 or 3N − 6 degrees of freedom stay canonical.

    Parameters
    ----------
    state : State
    timestep : float, fs
    temperatures : sequence of float, K
        Of each system.
    thermostat_time : float, fs
        1/γ.
    generators : sequence of numpy.random.Generator
        Of each system, so that its noise does not depend on the others.
    """

    def __init__(
        self,
        state: State,
        timestep: float,
        temperatures: Sequence[float],
        thermostat_time: float,
        generators: Sequence[np.random.Generator],
    ):
        super().__init__(state, timestep, temperatures, thermostat_time, generators)
        self._temperatures = list(temperatures)
        self._generators = list(generators)
        self._decay = math.exp(-timestep / thermostat_time)
        self._drawn = 0
        self._set_width()

    def _set_width(self) -> None:
        s = self.state
        kelvin = torch.tensor(self._temperatures, dtype=torch.float64, device=s.device)
        variance = s.masses * units.kB * kelvin[s.owner][:, None] * (1 - self._decay**2)
        self._width = variance.sqrt()

    def step(self) -> None:
        """One time step."""
        s = self.state
        half = 0.5 * self.dt
        s.momenta = s.momenta + half * s.forces
        s.positions = s.positions + half * s.momenta / s.masses
        before = s.kinetic()
        s.momenta = self._without_net(self._decay * s.momenta + self._width * self._noise())
        self.heat = self.heat + s.kinetic() - before
        s.positions = s.positions + half * s.momenta / s.masses
        s.evaluate()
        s.momenta = s.momenta + half * s.forces

    def _noise(self) -> Tensor:
        if self._drawn == 0:
            drawn = [
                g.standard_normal((_DRAWN, n, 3))
                for g, n in zip(self._generators, self.state.sizes, strict=True)
            ]
            self._block = torch.as_tensor(np.concatenate(drawn, axis=1), device=self.state.device)
            self._drawn = _DRAWN
        self._drawn -= 1
        return self._block[_DRAWN - 1 - self._drawn]

    def _without_net(self, momenta: Tensor) -> Tensor:
        s = self.state
        momenta = momenta - s.masses * (s.sum(momenta) / s.total_mass)[s.owner]
        if not bool(s.isolated.any()):
            return momenta
        centre = (s.sum(s.masses * s.positions) / s.total_mass)[s.owner]
        arms = s.positions - centre
        spin = s.sum(torch.linalg.cross(arms, momenta))
        unit = torch.eye(3, dtype=arms.dtype, device=arms.device)
        squares = arms.square().sum(dim=1)[:, None, None] * unit
        outer = arms[:, :, None] * arms[:, None, :]
        inertia = s.sum(s.masses[:, :, None] * (squares - outer))
        # The axis of a linear molecule has no inertia, and no spin either.
        trace = inertia.diagonal(dim1=1, dim2=2).sum(dim=1)
        inertia = inertia + (1e-10 * trace + 1e-12)[:, None, None] * unit
        omega = torch.linalg.solve(inertia, spin) * s.isolated[:, None]
        return momenta - s.masses * torch.linalg.cross(omega[s.owner], arms)

    def _keep(self, places: list[int]) -> None:
        atoms = self.state.keep(places)
        self._generators = [self._generators[k] for k in places]
        self._temperatures = [self._temperatures[k] for k in places]
        if self._drawn:
            self._block = self._block[:, atoms]
        if places:
            self._set_width()
