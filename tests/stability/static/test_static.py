"""Static checks: each catches a bad potential and lets one pass that is nearly so."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.cluster import Octahedron
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from matscipy.neighbours import neighbour_list

from ase_ws import CommitteeCalculator, GuardedCalculator, PotentialCalculator
from ase_ws.data import BASE_MODEL
from ase_ws.errors import UserError
from ase_ws.stability.static import (
    BondScan,
    ContactScan,
    Curve,
    Extensivity,
    Invariances,
    Kinks,
    Precision,
    RattleLadder,
    StressWork,
    VolumeCurve,
    Work,
    default_static_checks,
    run_static,
)
from ase_ws.stability.static.probe import Conditions, Probe, ProbeError
from ase_ws.stability.static.quadrature import integrate
from ase_ws.stability.static.scan import Limits, discontinuities, first_turn, follow, minima
from ase_ws.stability.static.topology import contact_motions
from ase_ws.testing import Curl, Harmonic
from ase_ws.testing.bad import SpuriousMinimum

DEPTH, STEEPNESS, LENGTH = 4.0, 2.0, 1.5


def morse(r):
    return DEPTH * ((1 - np.exp(-STEEPNESS * (r - LENGTH))) ** 2 - 1)


class Pairs(Calculator):
    """E = Σ_{i<j} V(r_ij) without periodic images, any V; forces from a numerical V′."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, pair=morse, change=None, **attributes):
        super().__init__()
        self.pair = pair
        self.change = change  # (energy, forces, atoms) -> (energy, forces)
        vars(self).update(attributes)

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, list(properties), list(system_changes))
        i, j = np.triu_indices(len(atoms), k=1)
        vectors = atoms.positions[j] - atoms.positions[i]
        r = np.linalg.norm(vectors, axis=1)
        energy = float(np.sum(self.pair(r)))
        h = 1e-5
        slopes = (self.pair(r + h) - self.pair(r - h)) / (2 * h)
        pull = (slopes / r)[:, None] * vectors
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, pull)
        np.add.at(forces, j, -pull)
        if self.change is not None:
            energy, forces = self.change(energy, forces, atoms)
        self.results = {"energy": energy, "forces": forces}


class Changed(Calculator):
    """Another calculator whose results go through a function (results, atoms)."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, list(properties), list(system_changes))
        results = {name: self.inner.get_property(name, atoms) for name in ("energy", *properties)}
        self.results = self.change(results, atoms)


def with_calculator(atoms, calculator):
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms


def dimer(calculator, symbols="C2", length=LENGTH):
    return with_calculator(Atoms(symbols, [[0, 0, 0], [0, 0, length]]), calculator)


def tetrahedron(calculator=None):
    """C4 in its minimum: all six distances are LENGTH."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    return with_calculator(Atoms("C4", corners * LENGTH / np.sqrt(8)), calculator or Pairs())


def copper(calculator=None):
    return with_calculator(bulk("Cu", cubic=True) * (2, 1, 1), calculator or EMT())


def argon(n=2, **options):
    """fcc argon; n = 1 is small (repeated by the probe)."""
    atoms = bulk("Ar", "fcc", 5.26, cubic=True) * (n, n, n)
    calculator = LennardJones(epsilon=0.0104, sigma=3.4, rc=8.5, **options)
    return with_calculator(atoms, calculator)


def failed(result, status="failed"):
    """Check that all parts of a result agree; give the finding."""
    assert result.check.status == status, result
    severity = {"failed": "fail", "warned": "warn"}[status]
    assert result.findings[0].check == result.check.name
    assert "\n" not in result.findings[0].message
    return next(item for item in result.findings if item.severity == severity)


def passed(result):
    assert result.check.status == "passed", result
    assert result.findings == []
    return result.check


# --- work of the forces ----------------------------------------------------------------------


def scaled(factor):
    return lambda energy, forces, atoms: (energy, factor * forces)


def in_float32(energy, forces, atoms):
    return float(np.float32(energy - 4000.0)), forces.astype(np.float32).astype(float)


def test_right_forces_pass():
    assert passed(Work().run(tetrahedron())).worst < 1e-5
    passed(Work().run(tetrahedron(Pairs(change=scaled(1 + 1e-5)))))


@pytest.mark.parametrize("factor", [-1.0, 1.01])
def test_wrong_forces_fail(factor):
    atoms = tetrahedron(Pairs(change=scaled(factor)))
    finding = failed(Work().run(atoms))
    truth = abs(factor - 1.0) * np.linalg.norm(Probe(tetrahedron()).rattled().get_forces())
    # On short paths, along which the forces do not change.
    assert Work(length=1e-3).run(atoms).check.worst == pytest.approx(truth, rel=0.02)
    assert "not the gradient of the energy" in finding.message
    assert "round trips cost no work" in finding.message
    assert f"C{finding.atoms[0]}" in finding.message
    assert "NVE at 300 K may gain or lose up to" in finding.message


def test_one_wrong_atom_of_many_is_found():
    def wrong(energy, forces, atoms):
        forces[5] *= 1.5
        return energy, forces

    row = Atoms(
        "Ar16", 3.5 * np.stack(np.meshgrid([0, 1], [0, 1], [0, 1, 2, 3]), -1).reshape(-1, 3)
    )
    finding = failed(Work().run(with_calculator(row, Pairs(change=wrong))))
    assert finding.atoms == (5,)
    passed(Work().run(with_calculator(row, Pairs())))


@pytest.mark.parametrize(("n", "size"), [(8, 0.011), (20, 0.04), (64, 0.06)])
def test_no_direction_hides_an_error_on_one_atom(n, size):
    """Up to eight atoms all directions are gone along, and of more a good sample."""
    rng = np.random.default_rng(n)
    grid = 3.0 * np.stack(np.meshgrid(*[range(4)] * 3), -1).reshape(-1, 3)[:n]
    for _ in range(6 if n < 64 else 3):
        atom, direction = rng.integers(n), rng.normal(size=3)

        def wrong(energy, forces, atoms, atom=atom, direction=direction):
            forces[atom] += size * direction / np.linalg.norm(direction)
            return energy, forces

        springs = Pairs(lambda r: 0.05 * (r - 3.0) ** 2 * (r < 4.0), change=wrong)
        finding = failed(Work().run(with_calculator(Atoms(f"C{n}", grid), springs)))
        if n == 8:
            assert finding.value == pytest.approx(size, rel=0.01)


def smoothly_off(size):
    """Every force off by `size` eV/Å at most, smoothly: a field that belongs to no energy."""
    return lambda energy, forces, atoms: (energy, forces + size * np.sin(atoms.positions[:, ::-1]))


@pytest.mark.parametrize(
    ("size", "status"), [(1e-4, "passed"), (2e-3, "warned"), (0.02, "failed"), (0.05, "failed")]
)
def test_errors_just_below_and_above_the_limit(size, status):
    result = Work().run(tetrahedron(Pairs(change=smoothly_off(size))))
    assert result.check.status == status, result
    assert result.check.worst == pytest.approx(size * np.sqrt(6.0), rel=0.6)


def test_noise_of_single_precision_is_no_wrong_force():
    result = Work().run(tetrahedron(Pairs(change=in_float32)))
    assert result.check.status in ("passed", "warned")

    def wrong_too(energy, forces, atoms):
        energy, forces = in_float32(energy, forces, atoms)
        return energy, -forces

    failed(Work().run(tetrahedron(Pairs(change=wrong_too))))


def rippled(amplitude, wavelength):
    """Energy and forces, both of them right, of an energy that ripples like a float32 network's."""
    k = 2.0 * np.pi / wavelength

    def change(energy, forces, atoms):
        x = k * atoms.positions
        return energy + amplitude * np.sin(x).sum(), forces - amplitude * k * np.cos(x)

    return change


def test_ripples_of_the_energy_are_no_wrong_force():
    """CHGNet: 0.1 meV on a scale of 0.04 Å, and its forces know; a difference quotient does not."""
    passed(Work().run(tetrahedron(Pairs(change=rippled(1e-4, 0.04)))))

    def wrong_too(energy, forces, atoms):
        return smoothly_off(0.05)(*rippled(1e-4, 0.04)(energy, forces, atoms), atoms)

    failed(Work().run(tetrahedron(Pairs(change=wrong_too))))


def test_forces_too_rough_to_be_judged_do_not_fail():
    result = Work().run(tetrahedron(Pairs(change=rippled(1e-3, 0.003))))
    assert result.check.status == "not judged"
    assert "too rough" in result.check.note
    assert result.findings == []


def test_a_step_does_not_pass_for_noise():
    def step(energy, forces, atoms):
        return energy + 0.02 * (atoms.positions[0, 0] > LENGTH / np.sqrt(8) + 2e-5), forces

    assert Probe(tetrahedron(Pairs(change=step))).noise.energy < 1e-8


def test_a_kink_of_the_second_derivative_is_no_wrong_force():
    """E″ jumps by 200 eV/Å² at a distance that the displaced structure straddles closely."""
    r = dimer(Pairs())
    edge = float(np.linalg.norm(np.diff(Probe(r).rattled().positions, axis=0))) - 0.001

    def kinked(r):
        return morse(r) + 100.0 * np.clip(r - edge, 0, None) ** 2

    assert Work().run(dimer(Pairs(kinked))).check.status in ("passed", "not judged")


def test_direct_forces_are_reported_with_their_error():
    axis = np.array([0.0, 0.0, 0.3])
    atoms = with_calculator(molecule("CH3OH"), PotentialCalculator(Curl(Harmonic(2.0), axis)))
    finding = failed(Work().run(atoms), "warned")
    rattled = Probe(atoms).rattled()
    expected = np.sqrt(np.mean(np.cross(axis, rattled.positions) ** 2))
    assert finding.value == pytest.approx(expected, rel=0.3)
    assert "as the calculator says" in finding.message


def curl(strength):
    def add(energy, forces, atoms):
        return energy, forces + strength * np.cross([0, 0, 1.0], atoms.positions)

    return add


def test_a_curl_is_told_from_another_energy():
    passed(Work().run(tetrahedron(Pairs(change=curl(1e-4)))))
    finding = failed(Work().run(tetrahedron(Pairs(change=curl(0.1)))))
    assert "have a curl" in finding.message
    assert finding.value == pytest.approx(0.1 * np.sqrt(4 * LENGTH**2 / 4), rel=0.5)


# --- stress ----------------------------------------------------------------------------------


def test_integrals_along_paths():
    right, asked = (np.exp(3) - 1) / 3, []

    def exponential(t):
        asked.append(t)
        return np.exp(3 * t)

    # Three points suffice for what is expected; what is not is looked at more closely.
    assert integrate(exponential, right, 0.01).value == pytest.approx(right, abs=0.01)
    assert len(asked) == 3
    exact = integrate(exponential, 0.0, 1e-9)
    assert len(asked) == 3 + 7
    assert exact.value == pytest.approx(right, abs=1e-9)
    assert abs(exact.value - right) < exact.error
    # A cusp: the error bar covers it, and halving brings both down.
    coarse, fine = (integrate(lambda t: abs(t - 0.3), 0.0, 1e-9, halvings=n) for n in (0, 4))
    for found in (coarse, fine):
        assert abs(found.value - 0.29) < found.error
    assert fine.error < 0.1 * coarse.error


def npt(check, atoms):
    return check.run_probe(Probe(atoms, Conditions(300.0, "npt")))


def test_stress():
    assert passed(StressWork().run(copper())).worst < 1e-6

    def wrong(results, atoms):
        if "stress" in results:
            results["stress"] = results["stress"] * 1.05
        return results

    atoms = copper(Changed(EMT(), wrong))
    finding = failed(npt(StressWork(), atoms))
    assert "the cell of NPT goes wrong" in finding.message
    # Where the cell is fixed, no step looks at the stress.
    assert "this MD does not use it" in failed(StressWork().run(atoms), "warned").message
    for component in range(6):

        def one(results, atoms, k=component):
            if "stress" in results:
                results["stress"] = results["stress"] + 3e-4 * np.eye(6)[k]
            return results

        finding = failed(npt(StressWork(), copper(Changed(EMT(), one))))
        assert finding.message.split(": ")[1].startswith(
            ["xx", "yy", "zz", "yz", "xz", "xy"][component]
        )
        assert finding.value == pytest.approx(3e-4, rel=0.05)


def test_stress_does_not_apply():
    assert StressWork().run(tetrahedron()).check.status == "does not apply"
    assert StressWork().run(copper(Pairs())).check.status == "does not apply"


# --- kinks -----------------------------------------------------------------------------------


def test_kinks_are_called_kinks():
    """An arccosine at 180°: the force constant depends on the step, and no force is wrong."""
    passed(Kinks().run(tetrahedron()))
    assert passed(Kinks().run(copper())).worst < 0.01
    middle = np.array([[0, 0, -LENGTH], [0, 0, 0], [0, 0, LENGTH]])

    def bent(strength):
        def change(energy, forces, atoms):
            x = atoms.positions[1, :2]
            r = np.hypot(np.linalg.norm(x), 1e-3)
            forces[1, :2] -= strength * x / r
            return energy + strength * r, forces

        return change

    kinked = with_calculator(Atoms("CNC", middle), Pairs(change=bent(0.1)))
    finding = failed(Kinks().run(kinked), "warned")
    assert "vibrations and phonons depend on the step" in finding.message
    assert finding.atoms == (1,)
    assert Work().run(kinked).check.status == "passed"
    passed(Kinks().run(with_calculator(Atoms("CNC", middle), Pairs(change=bent(1e-4)))))


def test_noise_is_no_kink():
    rng = np.random.default_rng(0)

    def noisy(energy, forces, atoms):
        return energy, forces + 1e-2 * rng.standard_normal(forces.shape)

    assert Kinks().run(dimer(Pairs(lambda r: 0.1 * morse(r), change=noisy))).check.status in (
        "passed",
        "not judged",
    )


def test_single_atoms_have_no_kinks():
    assert Kinks().run(with_calculator(Atoms("C"), Pairs())).check.status == "does not apply"


# --- invariances -----------------------------------------------------------------------------


def triple(atoms):
    a, b, c = atoms.positions[1:4] - atoms.positions[0]
    return float(np.dot(a, np.cross(b, c)))


SYMMETRY_BREAKING = {
    "rotation": lambda atoms: np.ptp(atoms.positions[:, 2]),
    "reflection": triple,
    "translation": lambda atoms: atoms.positions[:, 0].sum(),
    "permutation": lambda atoms: np.linalg.norm(atoms.positions[1] - atoms.positions[0]),
}


@pytest.mark.parametrize("kind", list(SYMMETRY_BREAKING))
def test_broken_symmetries_are_found(kind):
    def change(size):
        return lambda energy, forces, atoms: (
            energy + size * SYMMETRY_BREAKING[kind](atoms),
            forces,
        )

    result = Invariances().run(tetrahedron(Pairs(change=change(0.1))))
    # Only the order of the atoms, which MD leaves alone, is no failure.
    failed(result, "warned" if kind == "permutation" else "failed")
    assert any(item.message.startswith(kind) for item in result.findings)
    passed(Invariances().run(tetrahedron(Pairs(change=change(1e-6)))))


def test_forces_must_turn_with_the_atoms():
    def fixed(energy, forces, atoms):
        return energy, forces + np.array([0, 0, 3e-3])

    finding = failed(Invariances().run(tetrahedron(Pairs(change=fixed))), "warned")
    assert finding.message.startswith("rotation")
    assert finding.threshold == pytest.approx(0.01)
    assert "too little to matter" in finding.message


@pytest.mark.parametrize(("size", "status"), [(1.2e-3, "warned"), (0.1, "failed")])
def test_learnt_symmetries_warn_and_fail_only_where_it_matters(size, status):
    """Without reflection symmetry, as SevenNet-0: by 1.2e-3 eV/Å in silicon."""

    def chiral(energy, forces, atoms):
        handed = np.sign(triple(atoms))
        push = atoms.positions - atoms.positions.mean(axis=0)
        return energy, forces + handed * size * push / np.abs(push).max()

    finding = failed(Invariances().run(tetrahedron(Pairs(change=chiral))), status)
    assert finding.message.startswith("reflection")
    assert "left- and right-handed" in finding.message


@pytest.mark.parametrize(("strength", "status"), [(0.01, "warned"), (0.1, "failed")])
def test_a_large_molecule_must_not_prefer_a_direction(strength, status):
    """Of 100 atoms 1 meV/atom would be 4 k_B T at 300 K."""
    rod = Atoms("C100", [[0, 0, LENGTH * k] for k in range(100)])

    def attracted(energy, forces, atoms):
        axis = atoms.positions[-1] - atoms.positions[0]
        return energy - strength * (axis[2] / np.linalg.norm(axis)) ** 2, forces

    bond = Pairs(lambda r: np.where(r < 2.0, morse(r), 0.0), change=attracted)
    found = Invariances().run(with_calculator(rod, bond))
    assert failed(found, status).message.startswith("rotation")


@pytest.mark.parametrize("charge", [np.array([1.0]), np.array(0)])
def test_charges_may_be_arrays_and_parameters_a_method(charge):
    atoms = tetrahedron(Pairs(parameters=lambda: None))
    atoms.info["charge"] = charge
    expected = "does not apply" if charge.any() else "passed"
    assert Extensivity().run(atoms).check.status == expected


def test_noisy_energies_are_no_wrong_stress():
    """The noise of the two ends of a path counts in full: no integral averages it."""

    def shaken(results, atoms):
        salt = np.frombuffer(atoms.positions.tobytes() + atoms.cell.array.tobytes(), dtype=np.uint8)
        noise = np.random.default_rng(salt).standard_normal()
        return {**results, "energy": results["energy"] + 2e-4 * noise}

    result = npt(StressWork(), copper(Changed(EMT(), shaken)))
    assert result.check.status in ("passed", "not judged")


def test_crystals_keep_their_energy():
    assert passed(Invariances().run(argon(1))).worst < 1e-6
    triclinic = copper()
    triclinic.set_cell(triclinic.cell.array @ [[1, 0.05, 0], [0, 1, 0.1], [0, 0, 1]], True)
    passed(Invariances().run(triclinic))


def two_argon(depth):
    """Two atoms, and a pit of this depth (eV) at 3 Å between them."""
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]])
    pit = SpuriousMinimum(LennardJones(epsilon=0.0104, sigma=3.4, rc=10.0), 3.0, depth, 0.2)
    return with_calculator(atoms, pit)


def test_a_pit_deeper_than_any_bond_fails_and_a_bond_does_not():
    assert "more than any bond" in failed(ContactScan().run(two_argon(20.0))).message
    passed(ContactScan().run(two_argon(5.0)))


def test_noise_does_not_widen_the_limits_for_ever():
    rng = np.random.default_rng(0)

    def scatter(energy, forces, atoms):
        return energy, forces + 0.1 * rng.standard_normal(forces.shape)

    noisy = tetrahedron(Pairs(change=scatter))
    assert Probe(noisy).noise.force == pytest.approx(0.01)
    failed(Invariances().run(noisy))
    assert Work().run(noisy).check.status == "not judged"


def test_atoms_far_from_each_other_have_no_contacts():
    gas = Atoms("C2", positions=[[0, 0, 0], [9, 0, 0]])
    gas.calc = Pairs()
    assert ContactScan().run(gas).check.status == "does not apply"


# --- extensivity -----------------------------------------------------------------------------


def test_extensivity():
    def squared(size):
        return lambda energy, forces, atoms: (energy + size * len(atoms) ** 2, forces)

    passed(Extensivity().run(tetrahedron()))
    passed(Extensivity().run(tetrahedron(Pairs(change=squared(1e-6)))))
    finding = failed(Extensivity().run(tetrahedron(Pairs(change=squared(1e-3)))), "warned")
    assert "different size cannot be compared" in finding.message
    assert finding.value == pytest.approx(0.5e-3 * (64 - 32))
    assert passed(Extensivity().run(argon(1))).note == "doubled cell"
    charged = tetrahedron(Pairs(change=squared(1e-3)))
    charged.calc.parameters = {"charge": 1}
    assert Extensivity().run(charged).check.status == "does not apply"
    numbered = tetrahedron(Pairs(change=lambda e, f, atoms: (e + atoms.positions[0, 0], f)))
    assert Extensivity().run(numbered).check.status == "does not apply"


def test_extensivity_of_a_cell():
    def per_cell(results, atoms):
        return {**results, "energy": results["energy"] + 0.1}

    failed(Extensivity().run(copper(Changed(EMT(), per_cell))))


def test_where_extensivity_says_nothing():
    charged = tetrahedron()
    charged.info["charge"] = 1
    assert Extensivity().run(charged).check.status == "does not apply"
    assert Extensivity(most_atoms=7).run(tetrahedron()).check.status == "not judged"


# --- scans -----------------------------------------------------------------------------------


def test_turns_and_minima():
    y = np.array([5.0, 3, 1, 0, 1, 2, 1.99, 3])
    assert minima(y, 0.02) == [3]
    assert minima(y, 0.005) == [3, 6]
    assert first_turn(y, 3, 1, 0.02) is None
    turn = first_turn(y, 3, 1, 0.005)
    assert turn is not None
    assert (turn.top, turn.wall, turn.bottom) == (5, 2.0, 6)
    assert minima(np.array([3.0, 2, 1]), 0.1) == [2]
    assert minima(np.array([1.0, 2, 1]), 0.1) == [0, 2]
    assert first_turn(np.array([0.0, 1, np.nan]), 0, 1, 0.1) is not None


def test_a_bond_of_a_good_potential_is_smooth():
    result = BondScan().run(dimer(Pairs()))
    assert passed(result).note == "1 bond"
    curve = result.curves[0]
    assert curve.title == "C0-C1 stretch"
    # It ends where the energy is more than 50 eV over the start.
    assert curve.y[0] > 50.0 > curve.y[1]
    assert curve.x[0] > 0.4 * 1.52
    assert curve.x[-1] == pytest.approx(2.1)
    assert min(curve.y) == pytest.approx(0, abs=1e-9)
    assert curve.marks == []


def test_jumps_of_a_bond():
    def sharp(r):
        return morse(r) + 0.02 * (r > 1.7003)

    result = BondScan().run(dimer(Pairs(sharp)))
    finding = failed(result)
    assert finding.value == pytest.approx(0.02, rel=0.05)
    assert finding.atoms == (0, 1)
    assert "stretch of C0-C1: the energy jumps by 20" in finding.message
    assert result.curves[0].marks == [pytest.approx(1.7003, abs=2e-3)]

    def soft(r):
        return morse(r) + 0.01 * (1 + np.tanh((r - 1.7) / 0.05))

    passed(BondScan().run(dimer(Pairs(soft))))

    def small(r):
        return morse(r) + 0.002 * (r > 1.7003)

    failed(BondScan().run(dimer(Pairs(small))), "warned")


def test_jumps_count_as_far_as_md_comes():
    """The step lies at 9 eV: 40 k_B T at 2,600 K."""
    edge = LENGTH - np.log(1.0 + np.sqrt(9.0 / DEPTH)) / STEEPNESS

    def sharp(r):
        return morse(r) + 0.1 * (r < edge)

    passed(BondScan().run(dimer(Pairs(sharp))))
    hot = Probe(dimer(Pairs(sharp)), Conditions(3500.0))
    finding = failed(BondScan().run_probe(hot))
    assert finding.value == pytest.approx(0.1, rel=0.05)
    assert "MD at 3500 K" in finding.message


def test_a_smooth_deep_hole_is_no_jump():
    """Behind some 20 eV it warns, behind 80 eV nothing of it is seen."""

    def deep(place):
        # Begins at `place` with three derivatives of zero.
        return lambda r: morse(r) - 4e6 * np.clip(place - r, 0.0, None) ** 4

    shown = BondScan().run(dimer(Pairs(deep(0.9))))
    finding = failed(shown, "warned")
    assert [item.message for item in shown.findings if "jumps" in item.message] == []
    assert "stretch of C0-C1: hole at short range" in finding.message
    assert "out of reach of MD at 300 K" in finding.message
    # The true wall is 21.5 eV, less what the grid leaves out.
    assert 15.0 < finding.value < 21.6

    def behind(wall):
        edge = LENGTH - np.log(1.0 + np.sqrt(wall / DEPTH)) / STEEPNESS
        return BondScan().run(dimer(Pairs(deep(edge))))

    # Between two points of the grid, the last of which is below 50 eV.
    assert [item.severity for item in behind(54.0).findings] == ["warn"]
    assert "hole" in behind(54.0).findings[0].message
    passed(behind(80.0))
    # A slope that is as steep as it is smooth, where MD comes: 40 eV within 0.1 Å.
    steep = dimer(Pairs(lambda r: morse(r) - 20 * (1 + np.tanh((1.35 - r) / 0.03))))
    within = BondScan().run(steep)
    assert "hole" in failed(within).message
    assert not any("jumps" in item.message for item in within.findings)


LIMITS = Limits(turn=0.02, jump_warn=1e-3, jump_fail=5e-3, kink=0.1)


@pytest.mark.parametrize("place", [0.03, 0.05, 0.0561, 0.0707])
def test_steps_kinks_and_steep_slopes_are_told_apart(place):
    """By how they shrink on finer grids, wherever they lie between the points of the first."""
    x = np.arange(-0.6, 0.7, 0.05)

    def found(energy):
        return discontinuities(energy, x, np.array([energy(t) for t in x]), LIMITS)

    (step,) = found(lambda t: t**2 + 30.0 * t**3 + 0.02 * (t > place))
    assert (step.jump, step.kink) == (pytest.approx(0.02, rel=1e-2), 0.0)
    assert step.x == pytest.approx(place, abs=2e-3)
    (kink,) = found(lambda t: t**2 + 2.0 * max(t - place, 0.0))
    assert (kink.jump, kink.kink) == (0.0, pytest.approx(2.0, rel=1e-2))
    assert kink.x == pytest.approx(place, abs=2e-3)
    for smooth in (
        lambda t: 200.0 * max(t - place, 0.0) ** 2,
        lambda t: 4e3 * np.tanh((t - place) / 0.05),
        lambda t: -4e4 * np.exp(-(((t - place) / 0.08) ** 2)),
    ):
        assert found(smooth) == []


def test_lines_end_where_nothing_is_of_interest():
    asked = []

    def energy(x):
        asked.append(x)
        if x > 1.25:
            raise ProbeError("no answer")
        return 7.0 + 10.0 * x**2

    line = follow(
        energy,
        7.0,
        0.0,
        0.1,
        (-9.0, 9.0),
        reach=2.0,
        coarse=0.5,
        stop=lambda x: 20.0 if x < 7.0 else np.inf,
    )
    # Down: evenly to three points behind the reach at −0.5, then wider, to the first above 20 eV.
    assert line.x[:4] == pytest.approx([-1.8, -1.3, -0.8, -0.7])
    assert line.rises == pytest.approx(10.0 * line.x**2)
    assert np.diff(line.x[line.even]) == pytest.approx(0.1)
    assert line.x[line.start] == 0.0
    assert line.walls() == pytest.approx(line.rises)
    (refusal,) = line.refusals
    assert refusal.x == pytest.approx(1.3)
    assert refusal.wall == pytest.approx(10.0 * refusal.last**2)
    assert (refusal.reason, len(asked)) == ("no answer", len(line.x))


def refusing(below, reason="no convergence"):
    def pair(r):
        if reason and (r < below).any():
            raise RuntimeError(reason)
        return np.where(r < below, np.nan, morse(r))

    return pair


@pytest.mark.parametrize("reason", ["no convergence", ""])
def test_no_answer_at_short_range(reason):
    """Behind a high wall MD does not meet it."""
    told = reason or "the energy is nan"
    high = failed(BondScan().run(dimer(Pairs(refusing(0.87, reason)))), "warned")
    assert "the calculator gives no answer below 0.9" in high.message
    assert told in high.message
    assert "out of reach of MD at 300 K" in high.message
    assert 5.0 < high.value < 50.0
    low = failed(BondScan().run(dimer(Pairs(refusing(1.2, reason)))))
    assert told in low.message
    assert "MD at 300 K can come there" in low.message
    assert low.value < 5.0
    # 40 k_B T are 13.8 eV at 4,000 K.
    hot = Probe(dimer(Pairs(refusing(1.02, reason))), Conditions(4000.0))
    failed(BondScan().run_probe(hot))
    failed(BondScan().run(dimer(Pairs(refusing(1.02, reason)))), "warned")


def test_a_cutoff_with_a_jump_of_its_slope():
    def kinked(size):
        return lambda r: morse(r) + size * np.clip(r - 1.8, 0, None)

    finding = failed(BondScan().run(dimer(Pairs(kinked(0.5)))), "warned")
    assert "the force jumps" in finding.message
    assert finding.value == pytest.approx(0.5, rel=0.1)
    passed(BondScan().run(dimer(Pairs(kinked(0.03)))))


def hole(centre, depth, width=0.12):
    return lambda r: morse(r) - depth * np.exp(-(((r - centre) / width) ** 2))


def test_a_hole_inside_a_bond():
    result = BondScan().run(dimer(Pairs(hole(0.9, 30.0))))
    finding = failed(result)
    assert "hole at short range" in finding.message
    assert finding.value < 5.0
    assert result.curves[0].marks


def test_a_hole_that_no_atom_reaches_only_warns():
    result = BondScan().run(dimer(Pairs(hole(0.77, 30.0, 0.05))))
    assert failed(result, "warned").value > 5.0


def test_a_hole_that_only_hot_md_reaches():
    atoms = dimer(Pairs(hole(0.77, 30.0, 0.05)))
    cold = failed(BondScan().run_probe(Probe(atoms, Conditions(1000.0))), "warned")
    hot = failed(BondScan().run_probe(Probe(atoms, Conditions(8000.0))))
    assert 20.0 < cold.value < 27.6
    assert 20.0 < hot.value < 27.6
    assert "MD at 8000 K can fall in" in hot.message


@pytest.mark.parametrize(("top", "found"), [(10.0, True), (25.0, False)])
def test_what_is_soft_at_short_range_is_followed_further(top, found):
    """Na-Na in SevenNet-0: a hole at 0.35 of the radii sum, behind 12.6 eV."""

    def soft(r):
        return 2.0 * (r - LENGTH) ** 2 + top * np.exp(-(((r - 0.55) / 0.2) ** 2))

    result = BondScan().run(dimer(Pairs(soft)))
    if not found:
        # High enough at 0.4 that nobody gets there.
        passed(result)
        return
    assert "hole at short range" in failed(result, "warned").message
    assert result.curves[0].x[0] < 0.35 * 1.52


def test_a_second_minimum_of_a_bond():
    shallow = failed(BondScan().run(dimer(Pairs(hole(2.0, 2.0)))), "warned")
    assert "second minimum" in shallow.message
    deep = failed(BondScan().run(dimer(Pairs(hole(2.0, 7.0)))))
    assert deep.value > 1.0


def test_a_bond_that_starts_far_from_its_minimum():
    for length in (0.78 * LENGTH, 1.15 * LENGTH):
        passed(BondScan().run(dimer(Pairs(), length=length)))


def test_each_kind_of_bond_is_scanned_with_its_fragment():
    atoms = with_calculator(molecule("CH3OH"), PotentialCalculator(BASE_MODEL))
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=10)  # pyright: ignore[reportArgumentType]
    before = atoms.copy()
    results = {
        r.check.name: r for r in run_static(atoms, [BondScan(spacing=0.05), ContactScan(points=25)])
    }
    titles = [curve.title for curve in results["bond_scan"].curves]
    assert sorted(title[0] + title.split("-")[1][0] for title in titles) == ["CH", "CO", "OH"]
    assert len(results["contact_scan"].curves) == 1
    assert not any(f.severity == "fail" for r in results.values() for f in r.findings)
    assert atoms == before


def test_networks_and_rings_move_one_atom():
    result = BondScan().run(tetrahedron())
    assert passed(result).note == "1 bond"
    assert passed(BondScan().run(copper())).worst == 0.0
    assert BondScan().run(argon(1)).check.status == "does not apply"


def test_contacts():
    passed(ContactScan().run(argon(1)))

    def leaky(results, atoms):
        r = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), k=1)]
        return {**results, "energy": results["energy"] - 1e6 * np.exp(-((r / 0.9) ** 2)).sum()}

    assert argon(1).calc is not None
    softened = argon(1)
    softened.calc = Changed(Pairs(lambda r: 2.0 * np.exp(-2.0 * (r - 1.5))), leaky)
    finding = failed(ContactScan().run(softened))
    assert "Ar0, Ar" in finding.message
    assert "hole" in finding.message


class RockSalt(Calculator):
    """Born-Mayer with screened charges, and a pull between like ions below 1.85 Å."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, pull=0.0):
        super().__init__()
        self.pull = pull

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, list(properties), list(system_changes))
        i, j, r = neighbour_list("ijd", atoms, 7.0)
        charges = np.where(atoms.numbers == 11, 1.0, -1.0)
        like = charges[i] == charges[j]
        pair = 14.4 * charges[i] * charges[j] * np.exp(-r / 3.0) / r + 1500.0 * np.exp(-r / 0.317)
        energy = 0.5 * np.sum(pair * (1.0 - (r / 7.0) ** 2) ** 3)
        energy -= self.pull * np.sum(like * np.clip(1.85 - r, 0.0, None) ** 3)
        self.results = {"energy": energy, "forces": np.zeros((len(atoms), 3))}


@pytest.mark.parametrize("pull", [0.0, 300.0])
def test_like_ions_of_a_crystal_are_brought_together(pull):
    atoms = with_calculator(bulk("NaCl", "rocksalt", 5.64, cubic=True), RockSalt(pull))
    result = ContactScan().run(atoms)
    assert result.check.note == "1 pair"
    assert result.curves[0].title.startswith("Cl")
    if not pull:
        assert passed(result)
        return
    finding = failed(result, "warned")
    assert "Cl" in finding.message
    assert "hole" in finding.message
    assert "MD at 300 K does not get there" in finding.message
    assert finding.atoms == (1, 3)
    # Behind some 9 eV, which are 40 k_B T at 2,700 K.
    hot = failed(ContactScan().run_probe(Probe(atoms, Conditions(5000.0))))
    assert "MD at 5000 K can fall in" in hot.message


def test_elements_without_a_bond_are_brought_together():
    """Two bonds apart, no other contact: H..H of water by both, O..O of ozone has a bond."""

    def of(name):
        return {(m.first, m.second): m for m in contact_motions(molecule(name), 6, 4.5)}

    water = of("H2O")
    assert list(water) == [(1, 2)]
    assert np.abs(water[1, 2].directions).sum(axis=1) == pytest.approx([0.0, 0.5, 0.5])
    assert of("O3") == {}
    # In a ring, by one of two nitrogens that hold no loose end.
    atoms = molecule("C5H5N")
    nitrogen = int(np.flatnonzero(atoms.numbers == 7)[0])
    far = int(np.argmax(atoms.get_distances(nitrogen, range(11)) * (atoms.numbers == 6)))
    atoms.numbers[far] = 7
    (ring,) = (m for m in contact_motions(atoms, 9, 4.5) if {m.first, m.second} == {nitrogen, far})
    assert np.flatnonzero(ring.directions.any(axis=1)).tolist() == [ring.second]


def test_a_molecule_without_contacts():
    assert ContactScan().run(dimer(Pairs())).check.status == "does not apply"


# --- rattles ---------------------------------------------------------------------------------


def test_rattles_of_a_minimum_rise():
    result = RattleLadder().run(tetrahedron())
    assert passed(result).worst == 0.0
    assert len(result.curves) == 4
    assert result.curves[0].y[-1] > 0.01
    passed(RattleLadder().run(argon(1)))


def test_energies_below_the_start():
    finding = failed(RattleLadder().run(tetrahedron(Pairs(lambda r: -morse(r)))))
    assert "lower the energy" in finding.message
    # A narrow pit close by, and a dent that is no lower than the start.
    failed(RattleLadder().run(dimer(Pairs(hole(1.75, 4.0, 0.07)))))
    passed(RattleLadder().run(dimer(Pairs(hole(1.75, 0.1, 0.07)))))


def test_unrelaxed_structures_show_their_ladder_only():
    stretched = dimer(Pairs(), length=1.8)
    result = RattleLadder().run(stretched)
    assert result.check.status == "passed"
    assert "not relaxed" in result.check.note
    assert result.check.worst is None


def test_jumps_on_a_ladder():
    def sharp(size):
        return lambda r: morse(r) + size * (r > 1.6)

    assert "jumps" in failed(RattleLadder().run(tetrahedron(Pairs(sharp(0.05))))).message
    passed(RattleLadder().run(tetrahedron(Pairs(sharp(1e-4)))))


def test_ladders_end_where_md_does_not_come():
    def stiff(r):
        return 40.0 * (r - LENGTH) ** 2

    cold = RattleLadder().run(tetrahedron(Pairs(stiff)))
    # 5 eV for four atoms; 10 k_B T of each are 13.8 eV at 4,000 K.
    assert all(c.y[-2] <= 5.0 / 4 < c.y[-1] for c in cold.curves)
    hot = RattleLadder().run_probe(Probe(tetrahedron(Pairs(stiff)), Conditions(4000.0)))
    assert all(a.y[-1] < b.y[-1] for a, b in zip(cold.curves, hot.curves, strict=True))

    def refusing(r):
        if (r < 1.1).any():
            raise RuntimeError("no convergence")
        return stiff(r)

    passed(RattleLadder().run(tetrahedron(Pairs(refusing))))
    finding = failed(
        RattleLadder().run_probe(Probe(tetrahedron(Pairs(refusing)), Conditions(9000.0)))
    )
    assert "no convergence at a displacement of" in finding.message
    assert "MD at 9000 K can come there" in finding.message


def test_growth_that_is_not_quadratic():
    def pointed(r):
        return 2.0 * np.abs(r - LENGTH)

    result = RattleLadder().run(tetrahedron(Pairs(pointed)))
    assert any("square" in item.message for item in result.findings)


# --- volume ----------------------------------------------------------------------------------


def of_volume(extra):
    """EMT copper and `extra` (eV/atom) of V/V₀."""
    start = copper().get_volume() / 8

    def change(results, atoms):
        more = extra(atoms.get_volume() / len(atoms) / start)
        return {**results, "energy": results["energy"] + len(atoms) * more}

    return copper(Changed(EMT(), change))


def in_ensemble(check, atoms, ensemble, temperature=300.0):
    return check.run_probe(Probe(atoms, Conditions(temperature, ensemble)))


def test_no_answer_for_a_compressed_cell():
    def refusing(v):
        if v < 0.86:
            raise RuntimeError("no convergence")
        return 0.0

    atoms = of_volume(refusing)
    # At V/V₀ = 0.875 copper is some 0.08 eV/atom over its minimum: 10 k_B T at 93 K.
    finding = failed(in_ensemble(VolumeCurve(), atoms, "npt"))
    assert "no convergence at V/V₀ = 0.850" in finding.message
    assert "MD at 300 K can come there" in finding.message
    finding = failed(in_ensemble(VolumeCurve(), atoms, "npt", 30.0), "warned")
    assert "out of reach of MD at 30 K" in finding.message
    finding = failed(in_ensemble(VolumeCurve(), atoms, "nvt"), "warned")
    assert "in NVT the volume of the cell stays" in finding.message


def test_volume_curves():
    result = VolumeCurve().run(copper())
    assert passed(result).worst == 1
    assert len(result.curves[0].x) == 23
    second = of_volume(lambda v: -0.3 * np.exp(-(((v - 1.2) / 0.02) ** 2)))
    finding = failed(in_ensemble(VolumeCurve(), second, "npt"))
    assert "2 minima" in finding.message
    assert "MD at 300 K can go there" in finding.message
    for ensemble in ("nvt", "nve"):
        finding = failed(in_ensemble(VolumeCurve(), second, ensemble), "warned")
        assert f"in {ensemble.upper()} the volume of the cell stays" in finding.message
    passed(VolumeCurve().run(of_volume(lambda v: -0.003 * np.exp(-(((v - 1.2) / 0.02) ** 2)))))
    assert "no minimum" in failed(VolumeCurve().run(of_volume(lambda v: -9 * v)), "warned").message
    assert VolumeCurve().run(tetrahedron()).check.status == "does not apply"


def test_jumps_of_the_volume_curve():
    sharp = of_volume(lambda v: 0.02 * (v > 1.1003))
    finding = failed(in_ensemble(VolumeCurve(), sharp, "npt"))
    assert "jumps by 20" in finding.message
    assert "the volume of the cell stays" in failed(VolumeCurve().run(sharp), "warned").message
    small = of_volume(lambda v: 0.002 * (v > 1.1003))
    assert "jumps by 2 " in failed(in_ensemble(VolumeCurve(), small, "npt"), "warned").message
    passed(VolumeCurve().run(of_volume(lambda v: 2e-4 * (v > 1.1003))))


# --- calculators that break ------------------------------------------------------------------


def nan_beyond(energy, forces, atoms):
    if atoms.get_all_distances().max() > LENGTH + 5e-4:
        energy, forces = np.nan, forces * np.nan
    return energy, forces


def raising(energy, forces, atoms):
    if atoms.get_all_distances().max() > LENGTH + 5e-4:
        raise RuntimeError("SCF did not converge\nmore")
    return energy, forces


@pytest.mark.parametrize("check", [c for c in default_static_checks() if c.name != "stress_work"])
def test_nan_and_exceptions_fail_every_check(check):
    if check.name == "precision":
        # NaN in the precision given, and sound in float64.
        check.original = Pairs(change=lambda e, f, atoms: (e, f * np.nan))
        assert "not finite" in failed(check.run(tetrahedron())).message
        return
    if check.name in ("volume_curve", "contact_scan"):
        atoms = argon(1)
        limit = 5.25 / np.sqrt(2) if check.name == "contact_scan" else 0

        def inject(results, atoms):
            near = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), k=1)].min()
            return {**results, "energy": np.nan} if near < limit or not limit else results

        atoms.calc = Changed(atoms.calc, inject)
        assert "nan" in failed(check.run(atoms)).message
        return
    atoms = tetrahedron(Pairs(change=nan_beyond))
    if check.name == "repeatable":
        # The same refusal at the same place every time is not its business; nor does it pass.
        assert check.run(atoms).check.status == "not judged"
        return
    message = failed(check.run(atoms)).message
    assert "nan" in message or "not finite" in message
    message = failed(check.run(tetrahedron(Pairs(change=raising)))).message
    assert "RuntimeError: SCF did not converge" in message


# --- the suite -------------------------------------------------------------------------------


def test_the_whole_suite_on_a_good_potential():
    atoms = argon(1)
    atoms.set_constraint(FixAtoms([0]))
    before, said = atoms.copy(), []
    results = run_static(atoms, progress=lambda *report: said.append(report))
    assert [r.check.name for r in results] == [c.name for c in default_static_checks()]
    assert {r.check.status for r in results} == {"passed", "does not apply"}
    assert atoms == before
    # At every evaluation; how many there will be is known beforehand, within 1.5.
    count, _, last = said[-1]
    assert last == "done"
    assert said[0][0] == 0
    assert said[0][2] == "repeatable"
    assert {done for done, _, _ in said} == set(range(count + 1))
    assert all(done <= planned for done, planned, _ in said)
    assert said[0][1] / 1.5 < count < said[0][1] * 1.5
    for result in results:
        record = json.loads(json.dumps(result.record.to_dict(), allow_nan=False))
        assert record["definition"] == result.check.definition
        assert len(record["curves"]) == len(result.curves)


def test_clusters_of_ase():
    cluster = with_calculator(Octahedron("Cu", 2), EMT())
    assert run_static(cluster, [Invariances()])[0].check.status == "passed"


def test_curves_hold_no_nan():
    record = Curve("t", "x", "y", [1.0, 2.0], [np.nan, np.inf], [1.0]).to_dict()
    assert record["y"] == [None, None]
    assert record["marks"] == [1.0]


def test_atoms_without_calculator():
    with pytest.raises(UserError, match="calculator"):
        run_static(molecule("H2O"))


def test_single_precision_is_raised_and_guards_are_lifted(small_mace):
    calculator = PotentialCalculator(small_mace, dtype="float32")
    guarded = GuardedCalculator(calculator, max_force=1e-3)
    result = run_static(with_calculator(molecule("H2O"), guarded), [Work()])[0]
    assert passed(result).fail_at == 1e-2
    assert result.check.worst < 1e-4
    assert guarded.violations == []


def test_calculators_in_float64(small_mace):
    single = PotentialCalculator(small_mace, dtype="float32", skin=0.3)
    double = single.in_float64()
    atoms = molecule("CH3OH")
    wanted = PotentialCalculator(small_mace).get_potential_energy(atoms)
    assert double.get_potential_energy(atoms) == pytest.approx(wanted, abs=1e-3)
    assert double.graph.dtype == torch.float64
    assert double.graph.skin == 0.3
    assert next(single.potential.parameters()).dtype == torch.float32
    again = double.in_float64()
    assert again.potential is not double.potential
    assert again.get_potential_energy(atoms) == double.get_potential_energy(atoms)
    # No torch module: nothing to raise.
    assert PotentialCalculator(Harmonic()).in_float64().graph.dtype == torch.float64


def test_committees_and_guards_in_float64(small_mace):
    committee = CommitteeCalculator([small_mace, small_mace], dtype="float32", skin=0.2)
    double = committee.in_float64()
    atoms = molecule("H2O")
    assert [m.graph.dtype for m in double.members] == [torch.float64] * 2
    assert double.members[0].graph.skin == 0.2
    assert double.get_property("forces_spread", atoms).shape == (3,)
    guarded = GuardedCalculator(committee, "record", max_force=7.0, contact=None).in_float64()
    assert guarded.calculator.members[0].graph.dtype == torch.float64
    assert (guarded.on_violation, guarded.max_force, guarded.contact) == ("record", 7.0, None)
    emt = EMT()
    assert GuardedCalculator(emt).in_float64().calculator is emt


# --- precision -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "status"), [(1e-5, "passed"), (3e-3, "warned"), (0.1, "failed")])
def test_precision(size, status):
    class Rounded(Pairs):
        def in_float64(self):
            return Pairs()

    rounded = Rounded(change=lambda e, f, atoms: (e, np.round(f / size) * size))
    results = {r.check.name: r for r in run_static(tetrahedron(rounded), [Precision(), Work()])}
    assert results["precision"].check.status == status
    # All others look at the copy in float64.
    assert results["work"].check.status == "passed"
    assert run_static(tetrahedron(), [Precision()])[0].check.status == "does not apply"
