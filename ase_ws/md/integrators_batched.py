"""Integrators of many systems at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import units
from torch import Tensor

from ase_ws.md.batched_systems import BatchedSystems
from ase_ws.md.observer import RunContext

#: Steps whose noise is drawn at once.
_DRAWN = 50


class VelocityVerletBatched:
    """Velocity Verlet of many systems: the very operations of `ase.md.verlet.VelocityVerlet`.

    Parameters
    ----------
    systems : BatchedSystems
    contexts : sequence of RunContext
        One for each system; they share the time step.
    thermostat_time : float, fs
        Time constant of a thermostat.
    generators : sequence of numpy.random.Generator
        Of each system, so that its noise does not depend on the others.

    Attributes
    ----------
    heat : Tensor, (n_systems,), eV
        What a thermostat has put in.
    """

    def __init__(
        self,
        systems: BatchedSystems,
        contexts: Sequence[RunContext],
        thermostat_time: float,
        generators: Sequence[np.random.Generator],
    ):
        self.systems, self.dt = systems, contexts[0].timestep * units.fs
        self._contexts, self._generators = list(contexts), list(generators)
        self._decay = math.exp(-contexts[0].timestep / thermostat_time)
        self.heat = torch.zeros(len(contexts), dtype=torch.float64, device=systems.device)

    def step(self) -> None:
        """One time step."""
        s = self.systems
        s.momenta = s.momenta + 0.5 * self.dt * s.forces
        s.positions = s.positions + self.dt * s.momenta / s.masses
        s.evaluate()
        s.momenta = s.momenta + 0.5 * self.dt * s.forces

    def keep(self, places: Sequence[int]) -> Tensor:
        """Go on with the systems at these places alone; give the mask of the atoms that stay."""
        self.heat = self.heat[list(places)]
        self._contexts = [self._contexts[k] for k in places]
        self._generators = [self._generators[k] for k in places]
        return self.systems.keep(places)


class LangevinBAOAB(VelocityVerletBatched):
    """Langevin dynamics: half a kick, half a drift, friction and noise, half a drift, half a kick.

    p ← e^(−γΔt) p + √(m k_B T (1 − e^(−2γΔt))) ξ, from which the motion of the centre of mass and
    the rotation of isolated systems are taken off. That is a projection that is orthogonal in
    mass-weighted coordinates, so the other 3N − 3 or 3N − 6 degrees of freedom stay canonical.
    The time of the thermostat is 1/γ.
    """

    _drawn = 0

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._set_width()

    def _set_width(self) -> None:
        s = self.systems
        temperatures = [context.temperature for context in self._contexts]
        kelvin = torch.tensor(temperatures, dtype=torch.float64, device=s.device)
        variance = s.masses * units.kB * kelvin[s.owner][:, None] * (1 - self._decay**2)
        self._width = variance.sqrt()

    def step(self) -> None:
        """One time step."""
        s = self.systems
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
                for g, n in zip(self._generators, self.systems.sizes, strict=True)
            ]
            self._block = torch.as_tensor(np.concatenate(drawn, axis=1), device=self.systems.device)
            self._drawn = _DRAWN
        self._drawn -= 1
        return self._block[_DRAWN - 1 - self._drawn]

    def _without_net(self, momenta: Tensor) -> Tensor:
        s = self.systems
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

    def keep(self, places: Sequence[int]) -> Tensor:
        """Go on with the systems at these places alone; give the mask of the atoms that stay."""
        atoms = super().keep(places)
        if self._drawn:
            self._block = self._block[:, atoms]
        if places:
            self._set_width()
        return atoms


class BussiBatched(VelocityVerletBatched):
    """Stochastic velocity rescaling, then a step of velocity Verlet, as `ase.md.bussi.Bussi`.

    p ← αp, α² = c + (1 − c) K₀/(n K) (R² + S) + 2R √(c (1 − c) K₀/(n K)), c = e^(−Δt/τ), K₀ the
    target of the kinetic energy K, n the degrees of freedom, R a normal and S a χ² number with
    n − 1 degrees of freedom (Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101, 2007,
    equation A7). The numbers are drawn as ASE draws them: the same seed gives the same run.
    """

    def step(self) -> None:
        """One time step."""
        s = self.systems
        kinetic = s.kinetic()
        scale = torch.as_tensor(self._scales(kinetic.cpu().numpy()), device=s.device)
        s.momenta = scale[s.owner][:, None] * s.momenta
        self.heat = self.heat + (scale.square() - 1.0) * kinetic
        super().step()

    def _scales(self, kinetic: np.ndarray) -> np.ndarray:
        c = self._decay
        n = np.array([context.n_dof for context in self._contexts])
        targets = 0.5 * units.kB * np.array([context.temperature for context in self._contexts])
        noise = [
            (g.standard_normal(), 2.0 * g.standard_gamma(0.5 * (k - 1)))
            for g, k in zip(self._generators, n, strict=True)
        ]
        normal, chi_square = np.array(noise).T
        share = (1.0 - c) * targets / kinetic
        return np.sqrt(c + share * (chi_square + normal**2) + 2.0 * normal * np.sqrt(c * share))
