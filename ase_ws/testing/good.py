"""ASE calculators that are known to be safe for MD of what they are meant for.

All are conservative and smooth, with exact derivatives, so whatever a stability suite finds in MD
of a sane structure with a sane time step is a false alarm. Each function gives a fresh calculator.

| function | for | milliseconds a step (one core) |
| --- | --- | --- |
| `emt` | Cu, Ag, Au, Ni, Pd, Pt, Al | 4 (16 atoms) |
| `lennard_jones` | argon | 7 (32 atoms) |
| `stillinger_weber` | silicon, its melt and surfaces | 10 (32 atoms) |
| `tersoff` | Si, C, SiC | 4 (8 atoms) |
| `morse` | diatomic molecules | 0.5 |
| `gfn2_xtb` | molecules of any element; needs tblite | 2.5 (ethanol) |
| `base_model` | small molecules of C, H, O | 15 (ethanol) |
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

from ase.calculators.calculator import BaseCalculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential

from ase_ws.errors import UserError


def emt() -> BaseCalculator:
    """Effective medium theory for close-packed metals (Jacobsen, Stoltze, Nørskov 1996)."""
    return EMT()


def lennard_jones(
    epsilon: float = 0.0103, sigma: float = 3.405, r_cut: float = 8.0
) -> BaseCalculator:
    """Lennard-Jones, E = 4ε Σ_{i<j} [(σ/r)¹² − (σ/r)⁶] f(r), by default argon.

    The switch f takes energy and force smoothly to zero between 0.8 `r_cut` and `r_cut`: a
    truncated potential would be one of the bad ones, see `ase_ws.testing.bad.CutoffJump`.

    Parameters
    ----------
    epsilon : float, eV
    sigma : float, Å
    r_cut : float, Å
    """
    return LennardJones(sigma=sigma, epsilon=epsilon, rc=r_cut, ro=0.8 * r_cut, smooth=True)


def morse(depth: float = 9.9, r0: float = 1.098, a: float = 2.69) -> BaseCalculator:
    """Morse, E = D Σ_{i<j} [e^{−2a(r − r0)} − 2 e^{−a(r − r0)}], by default the bond of N2.

    Parameters
    ----------
    depth : float, eV
    r0 : float, Å
    a : float, 1/Å
    """
    return MorsePotential(epsilon=depth, r0=r0, rho0=a * r0)


def stillinger_weber() -> BaseCalculator:
    """Stillinger-Weber silicon (Phys. Rev. B 31, 5262, 1985), made for its melt; from matscipy."""
    from matscipy.calculators.manybody import Manybody
    from matscipy.calculators.manybody.explicit_forms import StillingerWeber
    from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
        Stillinger_Weber_PRB_31_5262_Si,
    )

    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


def tersoff() -> BaseCalculator:
    """Tersoff's Si, C and SiC (Phys. Rev. B 39, 5566, 1989); from matscipy."""
    from matscipy.calculators.manybody import Manybody
    from matscipy.calculators.manybody.explicit_forms import TersoffBrenner
    from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import (
        Tersoff_PRB_39_5566_Si_C,
    )

    class Quiet(Manybody):
        """Without a warning of NumPy 2.3 about values that matscipy multiplies by zero anyway."""

        def calculate(self, *args: Any, **kwargs: Any) -> None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="'where' used without 'out'")
                super().calculate(*args, **kwargs)

    return Quiet(**TersoffBrenner(Tersoff_PRB_39_5566_Si_C))


def gfn2_xtb(*, charge: int = 0, accuracy: float = 0.1) -> BaseCalculator:
    """GFN2-xTB (Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652, 2019) by tblite.

    Parameters
    ----------
    charge : int, e
        Of the whole system.
    accuracy : float
        Of the self-consistent charges; at tblite's own default of 1 the forces are off by some
        1e-5 eV/Å.

    Raises
    ------
    UserError
        Where tblite is not installed.
    """
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise UserError(
            'GFN2-xTB needs tblite, not installed here: pip install "ase-ws[reference]"'
        ) from error
    return TBLite(method="GFN2-xTB", charge=charge, accuracy=accuracy, verbosity=0)


def base_model(dtype: Literal["float32", "float64"] | None = None) -> BaseCalculator:
    """Give the packaged base model: MACE on GFN2-xTB labels of small molecules of C, H and O.

    Parameters
    ----------
    dtype : {"float32", "float64"}, optional
        Default: that of the file, float32.
    """
    from ase_ws.calculators import PotentialCalculator
    from ase_ws.data import BASE_MODEL

    return PotentialCalculator(BASE_MODEL, dtype=dtype)
