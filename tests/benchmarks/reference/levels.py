"""The levels of theory: GFN2-xTB, and a focal-point estimate of CCSD(T) at the basis-set limit.

The focal-point energy is linear in the energies of its components,

    E = HF/CBS + MP2corr/CBS + (CCSD(T) − MP2)corr/cc-pVDZ,

so its gradient is the same linear combination of the components' analytic gradients. The two
basis-set limits are two-point extrapolations from cc-pVDZ (X = 2) and cc-pVTZ (X = 3),

    E_HF(X)   = E_HF(CBS)   + A exp(−α √X),   α = 4.42,
    E_corr(X) = E_corr(CBS) + B X^(−β),       β = 2.46,

with the exponents of F. Neese and E. F. Valeev, J. Chem. Theory Comput. 7, 33 (2011),
doi:10.1021/ct100396y, for cc-pV[DT]Z. The 1s orbitals of carbon and oxygen are not correlated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from ase_ws.errors import UserError

ALPHA_HF = 4.42
BETA_CORRELATION = 2.46
BASES = {2: "cc-pvdz", 3: "cc-pvtz"}


@dataclass(frozen=True)
class Label:
    """One labelled geometry.

    Attributes
    ----------
    energy : float
        eV.
    forces : ndarray (n_atoms, 3) or None
        eV/Å.
    """

    energy: float
    forces: np.ndarray | None


def gfn2_calculator() -> Any:
    """Give a fresh GFN2-xTB calculator for ASE (tblite), converged well below the stored digits."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)


def gfn2_label(atoms: Atoms) -> Label:
    """Label a geometry with the GFN2-xTB energy and forces.

    The calculator is fresh, so that the label depends on the geometry alone and not on the wave
    function of the geometry before it.
    """
    atoms = atoms.copy()
    atoms.calc = gfn2_calculator()
    return Label(energy=float(atoms.get_potential_energy()), forces=np.array(atoms.get_forces()))


def hf_weights(alpha: float = ALPHA_HF) -> tuple[float, float]:
    """Give the weights of the double- and triple-zeta Hartree-Fock energies in the limit.

    Parameters
    ----------
    alpha : float
        Exponent of exp(−α √X).

    Returns
    -------
    tuple of float
        They add up to one.
    """
    f2, f3 = (math.exp(-alpha * math.sqrt(x)) for x in (2, 3))
    return -f3 / (f2 - f3), f2 / (f2 - f3)


def correlation_weights(beta: float = BETA_CORRELATION) -> tuple[float, float]:
    """Give the weights of the double- and triple-zeta correlation energies in the limit.

    Parameters
    ----------
    beta : float
        Exponent of X^(−β).

    Returns
    -------
    tuple of float
        They add up to one.
    """
    p2, p3 = 2.0**beta, 3.0**beta
    return -p2 / (p3 - p2), p3 / (p3 - p2)


def n_frozen_orbitals(numbers: Sequence[int] | np.ndarray) -> int:
    """Count the 1s core orbitals of C and O.

    Raises
    ------
    UserError
        For an element other than H, C and O, whose core this module does not know.
    """
    unknown = sorted({int(z) for z in numbers} - {1, 6, 8})
    if unknown:
        raise UserError(
            f"the focal-point level knows the cores of H, C and O only, got atomic numbers "
            f"{unknown}: use molecules of these elements"
        )
    return sum(int(z) > 1 for z in numbers)


def focal_point_label(atoms: Atoms, *, forces: bool) -> Label:
    """Label a closed-shell CHO molecule with the focal-point CCSD(T) energy, and forces if asked.

    Parameters
    ----------
    atoms : Atoms
        Positions in Å; periodicity is ignored.
    forces : bool
        Also compute the analytic gradient of the composite (ten times the cost).

    Returns
    -------
    Label
        Energy in eV, forces in eV/Å.
    """
    frozen = n_frozen_orbitals(atoms.numbers)
    h2, h3 = hf_weights()
    c2, c3 = correlation_weights()
    hf2, hf2_gradient = _hartree_fock(atoms, BASES[2], forces)
    mp2, mp2_gradient = _mp2(hf2, frozen, forces)
    ccsdt, ccsdt_gradient = _ccsdt(hf2, frozen, forces)
    hf3, hf3_gradient = _hartree_fock(atoms, BASES[3], forces)
    mp3, mp3_gradient = _mp2(hf3, frozen, forces)

    # The components are total energies; correlation parts are differences to Hartree-Fock.
    # E = h2 HF2 + h3 HF3 + c2 (MP2₂ − HF2) + c3 (MP2₃ − HF3) + CCSD(T)₂ − MP2₂
    weights = np.array([h2 - c2, h3 - c3, c2 - 1.0, c3, 1.0])
    energies = np.array([hf2.e_tot, hf3.e_tot, mp2, mp3, ccsdt])
    energy = float(weights @ energies) * Hartree
    if not forces:
        return Label(energy=energy, forces=None)
    gradients = np.array(  # (5, n_atoms, 3), Hartree/Bohr
        [hf2_gradient, hf3_gradient, mp2_gradient, mp3_gradient, ccsdt_gradient], dtype=float
    )
    return Label(energy=energy, forces=-np.tensordot(weights, gradients, 1) * Hartree / Bohr)


def _hartree_fock(atoms: Atoms, basis: str, gradient: bool) -> tuple[Any, np.ndarray | None]:
    from pyscf import gto, scf

    molecule = gto.M(
        atom=list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True)),
        basis=basis,
        # PySCF's own Bohr radius is that of another CODATA year: hand over Bohr by ASE's.
        unit=Bohr,
        verbose=0,
    )
    hf = scf.RHF(molecule)
    hf.conv_tol = 1e-11
    hf.conv_tol_grad = 1e-7
    hf.kernel()
    _require(bool(hf.converged), f"Hartree-Fock/{basis}")
    return hf, hf.nuc_grad_method().kernel() if gradient else None


def _mp2(hf: Any, frozen: int, gradient: bool) -> tuple[float, np.ndarray | None]:
    from pyscf import mp

    mp2 = mp.MP2(hf, frozen=frozen or None)
    mp2.kernel()
    return float(mp2.e_tot), mp2.nuc_grad_method().kernel() if gradient else None


def _ccsdt(hf: Any, frozen: int, gradient: bool) -> tuple[float, np.ndarray | None]:
    from pyscf import cc
    from pyscf.cc import ccsd_t_lambda
    from pyscf.grad import ccsd_t as ccsd_t_gradient

    ccsd = cc.CCSD(hf, frozen=frozen or None)
    ccsd.conv_tol = 1e-10
    ccsd.conv_tol_normt = 1e-8
    ccsd.max_cycle = 200
    integrals = ccsd.ao2mo()
    ccsd.kernel(eris=integrals)
    _require(ccsd.converged, "CCSD")
    energy = float(ccsd.e_tot + ccsd.ccsd_t(eris=integrals))
    if not gradient:
        return energy, None
    # The (T) terms enter the Λ equations; Λ of plain CCSD would give a wrong gradient.
    converged, l1, l2 = ccsd_t_lambda.kernel(
        ccsd, integrals, ccsd.t1, ccsd.t2, max_cycle=200, tol=1e-8, verbose=0
    )
    _require(converged, "Λ of CCSD(T)")
    method = ccsd_t_gradient.Gradients(ccsd)
    return energy, method.kernel(ccsd.t1, ccsd.t2, l1, l2, eris=integrals)


def _require(converged: bool, what: str) -> None:
    if not converged:
        raise ArithmeticError(f"{what} did not converge: draw another geometry")
