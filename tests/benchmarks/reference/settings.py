"""What is sampled and labelled: every number that decides the packaged data."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

# Names as in ase.build.molecule (the G2 set); all closed-shell and of C, H and O only.
SMALL_CHO = (
    "CH3OH",
    "CH4",
    "C2H6",
    "C2H4",
    "C2H2",
    "C3H8",
    "C3H6_Cs",
    "butadiene",
    "H2O",
    "H2O2",
    "CO2",
    "H2CO",
    "CH3CHO",
    "H2CCO",
    "OCHCHO",
    "CH3COCH3",
    "CH3CH2OH",
    "CH3OCH3",
    "CH3CH2OCH3",
    "CH2OCH2",
    "HCOOH",
    "CH3COOH",
    "HCOOCH3",
    "C4H4O",
)


class SamplingSettings(BaseModel):
    """How geometries are drawn from GFN2-xTB.

    Attributes
    ----------
    timestep_fs, friction_per_fs : float
        Langevin dynamics.
    equilibration_fs, spacing_fs : float
        Time before the first kept frame and between two kept frames of a trajectory.
    min_wavenumber : float
        cm⁻¹. Softer modes are sampled as if they were this stiff: a straight displacement along
        a torsion is meaningful only while it is short.
    max_bond_ratio : float
        A frame is broken, and drawn anew, when a bond is longer than this times its relaxed
        length or an unbonded pair comes as close as a bond. Does not hold for strong distortions.
    max_force : float
        eV/Å. Frames with a larger GFN2-xTB force are drawn anew.
    max_energy : float
        eV/atom above the relaxed molecule. Frames with more are drawn anew: so far from a
        minimum a closed-shell label has no meaning, and one such frame outweighs a hundred others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timestep_fs: Positive = 0.5
    friction_per_fs: Positive = 0.02
    equilibration_fs: Annotated[float, Field(ge=0)] = 500.0
    spacing_fs: Positive = 50.0
    min_wavenumber: Positive = 300.0
    max_bond_ratio: Annotated[float, Field(gt=1)] = 1.5
    max_force: Positive = 30.0
    max_energy: Positive = 1.0


class Gfn2Settings(BaseModel):
    """The set of small CHO molecules at GFN2-xTB.

    Attributes
    ----------
    seed : int
        Everything random follows from it.
    molecules : tuple of str
        Names of `ase.build.molecule`; the first one gets `n_first` frames.
    n_first, n_each : int
        Frames of the first molecule and of each other one.
    temperatures : tuple of float
        K, of the Langevin trajectories.
    mode_temperatures : tuple of float
        K, lowest and highest of the normal-mode displacements.
    mode_fraction, strong_fraction : float
        Shares of normal-mode displacements and of strong distortions; the rest is MD.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 2024
    molecules: tuple[str, ...] = SMALL_CHO
    n_first: Count = 300
    n_each: Count = 92
    temperatures: tuple[float, ...] = (300.0, 475.0, 650.0, 825.0, 1000.0)
    mode_temperatures: tuple[float, float] = (300.0, 1500.0)
    mode_fraction: Fraction = 0.30
    strong_fraction: Fraction = 0.08
    sampling: SamplingSettings = SamplingSettings()


class MethanolSettings(BaseModel):
    """Methanol at the focal-point CCSD(T) level; geometries from GFN2-xTB.

    Attributes
    ----------
    seed : int
        Everything random follows from it, separately for the two sets.
    n_train, n_test : int
        Frames with energies only, and held-out frames with energies and forces.
    temperatures : tuple of float
        K, of the Langevin trajectories.
    trajectories : int
        Independent trajectories per temperature and set.
    mode_temperatures : tuple of float
        K, lowest and highest of the normal-mode displacements.
    mode_fraction : float
        Share of normal-mode displacements; the rest is MD.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 2025
    n_train: Count = 300
    n_test: Annotated[int, Field(ge=0)] = 64
    temperatures: tuple[float, ...] = (300.0, 440.0, 580.0, 720.0, 860.0, 1000.0)
    trajectories: Count = 2
    mode_temperatures: tuple[float, float] = (300.0, 1000.0)
    mode_fraction: Fraction = 0.30
    sampling: SamplingSettings = SamplingSettings(spacing_fs=150.0)
