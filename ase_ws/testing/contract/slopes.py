"""Forces and stress against differences of the energy, and forces differentiated again.

Differences are central and of fourth order, f'(0) = [8 f(h) − 8 f(−h) − f(2h) + f(−2h)] / 12h, so
that steep walls, which models have where they were never trained, are no violation.

Each function yields what is wrong, and nothing where the point holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from ase import Atoms

from ase_ws.testing.contract.subject import Subject, as_numpy

_DIRECTIONS = 4


def forces(subject: Subject) -> Iterator[str]:
    """Compare −F·v with dE(r + h v)/dh along random unit vectors v of all atoms together."""
    if not subject.potential.conservative:
        return
    values = subject.values()
    off = np.zeros(len(subject.structures))
    for _ in range(_DIRECTIONS):
        ways = [_unit(subject, atoms.positions.shape) for atoms in subject.structures]

        def energies(h: float, ways: list[np.ndarray] = ways) -> np.ndarray:
            pairs = zip(subject.structures, ways, strict=True)
            return subject.energies([_displaced(atoms, h * way) for atoms, way in pairs])

        work = [float((f * v).sum()) for f, v in zip(values.forces, ways, strict=True)]
        off = np.maximum(off, np.abs(_slope(energies, subject.tolerance.step) + work))
    limit = subject.tolerance.slope * values.scale
    yield from subject.worst("forces against -dE/dr: those", off.tolist(), limit, "eV/Å")


def stress(subject: Subject) -> Iterator[str]:
    """Compare σ:ε with (1/V) dE(h ε)/dh under random symmetric strains ε."""
    solids = [k for k, atoms in enumerate(subject.structures) if atoms.pbc.all()]
    if not subject.potential.conservative or not solids:
        return
    values = subject.values()
    off = np.zeros(len(subject.structures))
    for _ in range(_DIRECTIONS):
        strain = _unit(subject, (3, 3))
        strain = 0.5 * (strain + strain.T)

        def energies(h: float, strain: np.ndarray = strain) -> np.ndarray:
            return subject.energies([_strained(subject.structures[k], h * strain) for k in solids])

        for k, slope in zip(solids, _slope(energies, subject.tolerance.strain), strict=True):
            expected = slope / subject.structures[k].get_volume()
            off[k] = np.maximum(off[k], abs(expected - (values.stress[k] * strain).sum()))
    limit = 0.1 * subject.tolerance.slope * values.scale
    yield from subject.worst("stress against (1/V) dE/dε: that", off.tolist(), limit, "eV/Å³")


def _slope(function: Callable[[float], np.ndarray], h: float) -> np.ndarray:
    inner, outer = function(h) - function(-h), function(2 * h) - function(-2 * h)
    return (8 * inner - outer) / (12 * h)


def _unit(subject: Subject, shape: tuple[int, ...]) -> np.ndarray:
    way = subject.rng.normal(size=shape)
    return way / np.linalg.norm(way)


def _displaced(atoms: Atoms, displacement: np.ndarray) -> Atoms:
    new = atoms.copy()
    new.positions += displacement
    return new


def _strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    new = atoms.copy()
    new.set_cell(np.array(new.cell) @ (np.eye(3) + strain), scale_atoms=True)
    return new


def second_derivatives(subject: Subject) -> Iterator[str]:
    """Compare d(w·F)/dr from `create_graph` with differences of w·F, for random weights w.

    The weak losses need both: energies at displaced positions, and forces, that can be
    differentiated.
    """
    batch = subject.batch()
    batch.positions.requires_grad_()
    if not subject.potential(batch, forces=False).energy.requires_grad:
        yield "the energy has no gradient with respect to positions"
    found = subject.potential(batch, forces=True, create_graph=True).forces
    assert found is not None
    if not found.requires_grad:
        yield "forces have no gradient although create_graph=True"
        return
    shape = tuple(found.shape)
    weight, way = (torch.from_numpy(subject.rng.normal(size=shape)).to(found) for _ in range(2))
    (gradient,) = torch.autograd.grad((weight * found).sum(), batch.positions, allow_unused=True)
    gradient = torch.zeros_like(found) if gradient is None else gradient
    plain = subject.batch()

    def weighted(h: float) -> np.ndarray:
        moved = subject.potential(plain.displaced(h * way), forces=True).forces
        assert moved is not None
        return (as_numpy(weight) * as_numpy(moved)).sum()

    expected = float(_slope(weighted, subject.tolerance.step))
    slope = float((gradient * way).sum().detach())
    # The size of a sum of as many terms of random sign.
    scale = max(1.0, float(np.linalg.norm(as_numpy(gradient))))
    if not abs(slope - expected) <= subject.tolerance.curvature * scale:
        yield f"the gradient of forces is {slope:.4g}, by differences {expected:.4g}"
