"""ASE's integrators, each with the quantity that it conserves.

===========  =======================================  ======================================
ensemble     integrator                               conserved quantity
===========  =======================================  ======================================
NVE          velocity Verlet                          E + K
NVT          velocity Verlet with Bussi's stochastic  E + K − heat put in by the thermostat
             velocity rescaling
             or Langevin dynamics (BAOAB)             E + K − heat put in by friction and noise
             or Nosé–Hoover chains                    E + K + thermostat
NPT          Martyna–Tobias–Klein, isotropic or full  E + K + thermostat + barostat + P V
             cell, with Nosé–Hoover chains
===========  =======================================  ======================================

Why Bussi by default (J. Chem. Phys. 126, 014101, 2007): every step is one rescaling and
one Verlet step, so the heat is known exactly and the conserved quantity shows the errors of the
potential and of the time step alone, which is what the drift check needs. It also keeps the
momentum and the angular momentum at zero, so that n_dof stays right, and hardly disturbs the
dynamics; Langevin friction can hide a potential that heats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.md import bussi, langevinbaoab, verlet
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainThermostat

from ase_ws.md.freedom import freedom_of
from ase_ws.md.observer import RunContext
from ase_ws.md.velocities import rest

Thermostat = Literal["bussi", "langevin", "nose-hoover"]


@dataclass(frozen=True)
class Baths:
    """Coupling to the surroundings, see `ase_ws.run_md`; times in fs."""

    thermostat_time: float = 100.0
    barostat_time: float = 1000.0
    flexible_cell: bool = False
    thermostat: Thermostat = "bussi"


class Integrator(MolecularDynamics):
    """One of ASE's integrators, made for a run; its atoms need momenta and a calculator."""

    def reservoir(self) -> float:
        """Energy in eV that must be added to E + K to get the conserved quantity."""
        return 0.0


def build_integrator(
    atoms: Atoms, context: RunContext, baths: Baths, rng: np.random.Generator
) -> Integrator:
    """Make the integrator for the ensemble of `context`."""
    if context.ensemble == "nve":
        return _VelocityVerlet(atoms, context.timestep * units.fs)
    if context.ensemble == "npt":
        return (_FullCell if baths.flexible_cell else _Isotropic)(atoms, context, baths)
    if baths.thermostat == "nose-hoover":
        return _NoseHoover(atoms, context, baths)
    return (_Bussi if baths.thermostat == "bussi" else _Langevin)(atoms, context, baths, rng)


class _VelocityVerlet(Integrator, verlet.VelocityVerlet):
    """ASE's velocity Verlet."""


class _Bussi(Integrator, bussi.Bussi):
    """ASE's velocity rescaling, for the degrees of freedom that there are.

    ASE counts 3N, but the centre of mass rests (and a molecule does not rotate): with 3N a small
    molecule would be held at a temperature of 3N/n_dof times the set one.
    """

    def __init__(self, atoms: Atoms, context: RunContext, baths: Baths, rng: np.random.Generator):
        constraints = atoms.constraints
        # ASE asks each how much it removes; some cannot tell, and n_dof replaces it anyway.
        atoms.set_constraint()
        super().__init__(
            atoms,
            context.timestep * units.fs,
            temperature_K=context.temperature,
            taut=baths.thermostat_time * units.fs,
            rng=rng,
        )
        atoms.set_constraint(constraints)
        self.ndof = context.n_dof
        self.target_kinetic_energy = 0.5 * self.ndof * units.kB * context.temperature

    def reservoir(self) -> float:
        return -float(self.transferred_energy)


class _Langevin(Integrator, langevinbaoab.LangevinBAOAB):
    """ASE's BAOAB, with the heat counted, constraints, and nothing that moves or turns as a whole.

    Taking that motion off the momenta is a projection that is orthogonal in mass-weighted
    coordinates, so the other degrees of freedom stay canonical; and so are the constraints'.
    """

    def __init__(self, atoms: Atoms, context: RunContext, baths: Baths, rng: np.random.Generator):
        self.heat = 0.0
        self.freedom = freedom_of(atoms)
        super().__init__(
            atoms,
            context.timestep * units.fs,
            temperature_K=context.temperature,
            T_tau=baths.thermostat_time * units.fs,
            rng=rng,
        )

    def reservoir(self) -> float:
        return -self.heat

    def _update_accel(self) -> None:
        # As in ASE's other integrators: the constraints act on the momenta.
        self.accel = self.atoms.get_forces(md=True) / self.atoms.get_masses()[:, None]

    def _BAOAB_A(self) -> None:  # noqa: N802 - ASE's name
        atoms, half = self.atoms, 0.5 * self.dt
        if not atoms.constraints:
            super()._BAOAB_A()
            return
        before = atoms.get_positions()
        atoms.set_positions(before + half * atoms.get_velocities())
        atoms.set_velocities((atoms.positions - before) / half)

    def _BAOAB_OU(self, *args: Any, **kwargs: Any) -> None:  # noqa: N802 - ASE's name
        before = self.atoms.get_kinetic_energy()
        super()._BAOAB_OU(*args, **kwargs)
        rest(self.atoms, self.freedom)
        self.heat = self.heat + float(self.atoms.get_kinetic_energy() - before)


class _NoseHoover(_VelocityVerlet):
    """ASE's chain around a step of velocity Verlet.

    As in ASE's own integrator, but that one drives 2K to 3N k_B T and goes on with momenta that
    know nothing of constraints.
    """

    def __init__(self, atoms: Atoms, context: RunContext, baths: Baths):
        super().__init__(atoms, context.timestep * units.fs)
        self._thermostat = NoseHooverChainThermostat(
            num_atoms_global=context.n_dof / 3,  # type: ignore[arg-type] - counts 3 for each
            masses=self.masses,
            temperature_K=context.temperature,
            tdamp=baths.thermostat_time * units.fs,
        )

    def reservoir(self) -> float:
        return float(self._thermostat.get_thermostat_energy())

    def step(self, forces: np.ndarray | None = None) -> Any:
        self._heat()
        forces = super().step(forces)
        self._heat()
        return forces

    def _heat(self) -> None:
        momenta = self._thermostat.integrate_nhc(self.atoms.get_momenta(), 0.5 * self.dt)
        # All are scaled alike, which no constraint minds.
        self.atoms.set_momenta(momenta, apply_constraint=False)


class _MartynaTobiasKlein(Integrator):
    """ASE's NPT integrators, at the temperature of the degrees of freedom that there are.

    ASE's chain drives 2K to 3N k_B T; the centre of mass rests, so the target is scaled to make
    the kinetic temperature over n_dof come out as set.
    """

    #: Where ASE's class keeps the momentum of the volume, or the momenta of the cell.
    cell_momenta: str

    def __init__(self, atoms: Atoms, context: RunContext, baths: Baths):
        super().__init__(  # of ASE's class, which stands behind this one
            atoms,
            context.timestep * units.fs,
            temperature_K=context.temperature * context.n_dof / (3 * len(atoms)),
            pressure_au=(context.pressure or 0.0) * units.bar,
            tdamp=baths.thermostat_time * units.fs,
            pdamp=baths.barostat_time * units.fs,
        )

    # ASE's `get_conserved_energy` evaluates the potential energy too, and the isotropic one only
    # for calculators that offer "free_energy".
    def reservoir(self) -> float:
        """Energy of thermostat, barostat and P V in eV."""
        mtk: Any = self
        return float(
            mtk._thermostat.get_thermostat_energy()
            + mtk._barostat.get_barostat_energy()
            + np.sum(np.square(getattr(self, self.cell_momenta))) / (2 * mtk._barostat.W)
            + mtk._pressure_au * mtk._get_volume()
        )


class _Isotropic(_MartynaTobiasKlein, IsotropicMTKNPT):
    """Of a cell that keeps its shape."""

    cell_momenta = "_p_eps"


class _FullCell(_MartynaTobiasKlein, MTKNPT):
    """Of a cell that changes its shape too."""

    cell_momenta = "_p_g"
