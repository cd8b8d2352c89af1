"""Each check on made-up snapshots: one that it must catch, a near one that it must let pass."""

import time

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from toys import argon, context, ethanol, play

from ase_ws.md import degrees_of_freedom
from ase_ws.pairs import find_pairs
from ase_ws.stability import (
    BondCheck,
    CellCheck,
    ContactCheck,
    DetachedHydrogenCheck,
    DriftCheck,
    EnergyCheck,
    FiniteCheck,
    FluctuationCheck,
    ForceCheck,
    FrozenCheck,
    IsolatedAtomCheck,
    TemperatureCheck,
    default_checks,
)
from ase_ws.stability.checks.drift import fit_slope


def heated(atoms, kelvin):
    """Give atoms velocities whose kinetic temperature over n_dof is this."""
    atoms = atoms.copy()
    momenta = np.ones((len(atoms), 3))
    kinetic = 0.5 * (momenta**2 / atoms.get_masses()[:, None]).sum()
    wanted = 0.5 * degrees_of_freedom(atoms) * units.kB * kelvin
    atoms.set_momenta(momenta * np.sqrt(wanted / kinetic))
    return atoms


def severities(found):
    return [finding.severity for finding in found]


# ---------------------------------------------------------------- finite


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "where", ["energy", "forces", "positions", "momenta", "cell", "stress", "conserved"]
)
def test_finite_catches(where, bad):
    atoms = bulk("Cu", cubic=True)
    spoiled, extra = heated(atoms, 300), {}
    if where in ("energy", "conserved"):
        extra = {where: bad}
    elif where == "stress":
        extra = {"stress": np.array([0, 0, 0, 0, 0, bad])}
    elif where == "forces":
        extra = {"forces": np.where(np.arange(12).reshape(4, 3) == 7, bad, 0.0)}
    elif where == "cell":
        spoiled.cell[1, 1] = bad
    else:
        spoiled.arrays[where][2, 1] = bad
    check = FiniteCheck()
    found = play(check, atoms, [{"atoms": spoiled, **extra}])
    assert severities(found) == ["fail"]
    assert where in found[0].message
    assert found[0].atoms == ((2,) if where in ("forces", "positions", "momenta") else ())
    assert check.result().status == "failed"


def test_finite_lets_pass():
    check = FiniteCheck()
    frame = {"atoms": heated(ethanol(), 300), "energy": -1e9, "forces": np.full((9, 3), 1e30)}
    assert play(check, ethanol(), [frame]) == []
    assert check.result().status == "passed"


# ---------------------------------------------------------------- temperature


def hot_run(kelvin, times, atoms):
    return [{"atoms": heated(atoms, kelvin), "time": time} for time in times]


def test_temperature_catches_an_explosion_at_once():
    found = play(TemperatureCheck(), argon(), hot_run(10_400, [0], argon()))
    assert severities(found) == ["fail"]
    assert found[0].threshold == 10_300
    assert play(TemperatureCheck(), argon(), hot_run(10_200, [0], argon())) == []


def test_temperature_catches_heat_that_stays():
    # 21 degrees of freedom: the limit is 1 + 10 √(2/21) = 4.09 times 300 K.
    assert severities(play(TemperatureCheck(), ethanol(), hot_run(1300, [0, 10, 20], ethanol())))
    assert not play(TemperatureCheck(), ethanol(), hot_run(1300, [0, 10, 19], ethanol()))
    assert not play(TemperatureCheck(), ethanol(), hot_run(1200, [0, 10, 20, 30], ethanol()))
    swings = hot_run(1300, [0, 10], ethanol()) + hot_run(1200, [15], ethanol())
    swings += hot_run(1300, [20, 30], ethanol())
    assert not play(TemperatureCheck(), ethanol(), swings)


def test_temperature_limit_is_three_times_set_for_large_systems():
    atoms = bulk("Cu", cubic=True) * (5, 5, 5)
    assert play(TemperatureCheck(), atoms, hot_run(910, [0, 20], atoms))
    assert not play(TemperatureCheck(), atoms, hot_run(890, [0, 20], atoms))


def test_frozen_warns():
    check = FrozenCheck()
    found = play(check, ethanol(), hot_run(20, range(0, 800, 10), ethanol()))
    assert severities(found) == ["warn"]
    assert found[0].time == 500
    assert check.result().status == "warned"
    check = FrozenCheck()
    assert not play(check, ethanol(), hot_run(40, range(0, 800, 10), ethanol()))
    assert check.result().status == "passed"
    assert not play(check, ethanol(), hot_run(20, range(0, 500, 10), ethanol()))
    assert check.result().status == "not judged"


# ---------------------------------------------------------------- contact


def pair(symbols, distance, **settings):
    return Atoms(symbols, positions=[[0, 0, 0], [distance, 0, 0]], **settings)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.49, ["fail"]), (0.51, ["warn"]), (0.59, ["warn"]), (0.61, [])]
)
def test_contact(ratio, expected, periodic):
    radii_sum = 0.76 + 0.31
    atoms = pair("CH", ratio * radii_sum, cell=[8, 8, 8], pbc=periodic)
    found = play(ContactCheck(), pair("CH", 1.1), [{"atoms": atoms}])
    assert severities(found) == expected
    assert all(set(finding.atoms) == {0, 1} for finding in found)


def test_contact_sees_through_the_boundary():
    atoms = pair("CC", 7.5, cell=[8, 8, 8], pbc=True)
    assert severities(play(ContactCheck(), atoms, [{}])) == ["fail"]
    atoms.pbc = False
    assert not play(ContactCheck(), atoms, [{}])


def test_contact_warns_once():
    frames = [{"atoms": pair("CC", 0.85), "time": time} for time in (0, 10, 20)]
    assert severities(play(ContactCheck(), pair("CC", 1.5), frames)) == ["warn"]


# ---------------------------------------------------------------- bond


def stretched(change, index=2):
    """Ethanol with its O–H bond longer by `change` Å."""
    atoms = ethanol()
    bond = atoms.positions[3] - atoms.positions[2]
    atoms.positions[3] += change * bond / np.linalg.norm(bond)
    return atoms


def bond_frames(change, times):
    return [{"atoms": stretched(change), "time": time} for time in times]


def test_the_toy_bond_is_the_hydroxyl():
    assert list(ethanol().symbols[2:4]) == ["O", "H"]


def test_bond_catches_only_what_stays_for_10_fs():
    found = play(BondCheck(), ethanol(), bond_frames(0.55, [0, 10]))
    assert severities(found) == ["fail"]
    assert found[0].atoms == (2, 3)
    assert "O2-H3" in found[0].message
    assert not play(BondCheck(), ethanol(), bond_frames(0.55, [0, 9]))
    assert not play(BondCheck(), ethanol(), bond_frames(0.45, [0, 10, 20]))
    back = bond_frames(0.55, [0, 5]) + bond_frames(0.1, [10]) + bond_frames(0.55, [15])
    assert not play(BondCheck(), ethanol(), back)


def test_bond_limit_grows_with_temperature():
    assert not play(BondCheck(), ethanol(), bond_frames(0.55, [0, 10]), temperature=2000)
    assert play(BondCheck(), ethanol(), bond_frames(0.75, [0, 10]), temperature=2000)


def test_bond_across_the_boundary_and_in_a_tiny_cell():
    diamond = bulk("C")  # two atoms, four bonds through the boundary
    check = BondCheck()
    assert not play(check, diamond, [{"time": 0}, {"time": 10}])
    assert len(check._bonds.first) == 4
    moved = diamond.copy()
    moved.positions[1] += 0.6
    frames = [{"atoms": moved, "time": time} for time in (0, 10)]
    assert severities(play(check, diamond, frames)) == ["fail"]


def test_bond_leaves_metals_and_argon_alone():
    for atoms in (bulk("Cu", cubic=True), bulk("Si", cubic=True), argon()):
        check = BondCheck()
        check.start(atoms, context(atoms))
        assert check.result().status == "does not apply"
    quartz_like = pair("SiO", 1.62)
    check = BondCheck()
    check.start(quartz_like, context(quartz_like))
    assert check.result().status == "not judged"


def test_proton_transfer_is_logged_not_failed():
    # H between two oxygens 2.5 Å apart: from 0.97 Å on the first to 0.97 Å on the second.
    def zundel(x):
        return Atoms("O2H", positions=[[0, 0, 0], [2.5, 0, 0], [x, 0, 0]])

    check = BondCheck()
    frames = [{"atoms": zundel(1.53), "time": time} for time in (0, 10, 20, 30)]
    found = play(check, zundel(0.97), frames)
    assert severities(found) == ["warn"]
    assert "H2 went from O0 to O1" in found[0].message
    # The new bond is watched: leaving it as well is a failure.
    away = [{"atoms": zundel(1.53), "time": time} for time in (0, 10)]
    lost = zundel(1.53)
    lost.positions[2] = [1.25, 3.0, 0]
    away += [{"atoms": lost, "time": time} for time in (20, 30)]
    assert severities(play(BondCheck(), zundel(0.97), away)) == ["warn", "fail"]


# ---------------------------------------------------------------- hydrogen and lone atoms


def test_detached_hydrogen():
    def frames(change, times):
        return bond_frames(change, times)

    found = play(DetachedHydrogenCheck(), ethanol(), frames(3.0, [0, 10, 20]))
    assert severities(found) == ["fail"]
    assert found[0].atoms == (3,)
    assert not play(DetachedHydrogenCheck(), ethanol(), frames(3.0, [0, 10, 19]))
    assert not play(DetachedHydrogenCheck(), ethanol(), frames(1.0, [0, 10, 20]))


def test_hydrogen_gas_is_not_detached():
    check = DetachedHydrogenCheck()
    assert not play(check, molecule("H2"), [{"time": 0}, {"time": 30}])
    assert check.result().status == "does not apply"


def test_isolated_atom():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.pbc = False
    gone = atoms.copy()
    gone.positions[0] -= 3.0
    frames = [{"atoms": gone, "time": time} for time in (0, 10, 20)]
    found = play(IsolatedAtomCheck(), atoms, frames)
    assert severities(found) == ["fail"]
    assert found[0].atoms == (0,)
    near = atoms.copy()
    near.positions[0] -= 0.5
    assert not play(
        IsolatedAtomCheck(), atoms, [{"atoms": near, "time": time} for time in (0, 10, 20)]
    )


def test_solid_argon_is_not_isolated():
    check = IsolatedAtomCheck()
    assert not play(check, bulk("Ar", a=5.3, cubic=True), [{"time": 0}, {"time": 30}])
    assert check.result().status == "does not apply"


# ---------------------------------------------------------------- force, energy, cell


@pytest.mark.parametrize(("size", "expected"), [(29, []), (31, ["warn"]), (51, ["fail"])])
def test_force(size, expected):
    forces = np.zeros((9, 3))
    forces[4] = size * np.array([0.6, 0.0, -0.8])
    found = play(ForceCheck(), ethanol(), [{"forces": forces}])
    assert severities(found) == expected
    assert all(finding.atoms == (4,) for finding in found)


def test_force_limit_follows_the_training_set():
    frame = {"forces": np.full((9, 3), 40.0)}
    assert severities(play(ForceCheck(largest_training_force=8), ethanol(), [frame])) == ["warn"]
    frame = {"forces": np.full((9, 3), 40.0)}
    assert severities(play(ForceCheck(largest_training_force=6), ethanol(), [frame])) == ["fail"]


@pytest.mark.parametrize(
    ("per_atom", "expected"), [(0.60, []), (0.63, ["fail"]), (-0.09, []), (-0.11, ["warn"])]
)
def test_energy(per_atom, expected):
    # At 300 K the limit is 4.5 × 0.0259 + 0.5 = 0.616 eV/atom.
    frames = [{"energy": -100.0}, {"energy": -100.0 + 9 * per_atom, "time": 10}]
    assert severities(play(EnergyCheck(), ethanol(), frames)) == expected


def test_a_molecule_that_becomes_another_one_far_below_fails():
    """Bonds may hold meanwhile: a ring that puckers, a proton that goes to a carbon."""

    def found(check, atoms, per_atom=-0.12, **extra):
        frames = [{"energy": 0.0, **extra}, {"energy": len(atoms) * per_atom, "time": 10}]
        return play(check, atoms, frames)

    (failure,) = found(EnergyCheck(), ethanol())
    assert failure.severity == "fail"
    assert "1.1 eV in all: the molecule has become another one" in failure.message
    # What may rearrange, and what did not start from a minimum, only warns.
    assert severities(found(EnergyCheck(topology="reactive"), ethanol())) == ["warn"]
    periodic = ethanol()
    periodic.center(vacuum=5)
    periodic.pbc = True
    assert severities(found(EnergyCheck(), periodic)) == ["warn"]
    cluster = ethanol()
    cluster.symbols = "Cu9"
    assert severities(found(EnergyCheck(), cluster)) == ["warn"]
    assert severities(found(EnergyCheck(), ethanol(), forces=np.full((9, 3), 0.2))) == ["warn"]


def scaled(atoms, factor):
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
    return atoms


@pytest.mark.parametrize("factor", [0.45, 0.55, 1.9, 2.1])
def test_cell_volume(factor):
    atoms = bulk("Cu", cubic=True)
    found = play(CellCheck(), atoms, [{"atoms": scaled(atoms, factor)}], ensemble="npt")
    assert severities(found) == (["fail"] if factor in (0.45, 2.1) else [])


@pytest.mark.parametrize("angle", [15, 25, 155, 165])
def test_cell_angle(angle):
    atoms = bulk("Cu", cubic=True)
    leaning = atoms.copy()
    # Same volume, so that the angle alone is judged.
    leaning.set_cell([3.6, 3.6, 3.6, 90, 90, angle])
    leaning = scaled(leaning, atoms.cell.volume / leaning.cell.volume)
    found = play(CellCheck(), atoms, [{"atoms": leaning}], ensemble="npt")
    assert severities(found) == (["fail"] if angle in (15, 165) else [])


def test_cell_is_for_npt_only():
    atoms = bulk("Cu", cubic=True)
    check = CellCheck()
    assert not play(check, atoms, [{"atoms": scaled(atoms, 3)}])
    assert check.result().status == "does not apply"


# ---------------------------------------------------------------- drift


def drifting(slope, *, noise=0.0, length=1000, n_atoms=9, seed=0):
    """Frames whose conserved quantity drifts by `slope` meV/atom/ps, with correlated noise."""
    times = np.arange(0.0, length + 1, 5.0)
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi)
    swing = noise * (np.sin(times / 20.0 + phase) + rng.standard_normal(len(times)))
    values = 1e-3 * n_atoms * (slope * times / 1000.0 + swing)
    return [{"time": float(t), "conserved": float(v)} for t, v in zip(times, values, strict=True)]


@pytest.mark.parametrize(
    ("slope", "expected"), [(0.05, []), (0.5, ["warn"]), (-0.5, ["warn"]), (2.0, ["fail"])]
)
def test_drift(slope, expected):
    check = DriftCheck()
    found = play(check, ethanol(), drifting(slope, noise=0.001), steps=1000)
    assert severities(found)[:1] == expected
    assert check.result().worst == pytest.approx(slope, abs=0.05)


def test_drift_fails_early_and_names_sign():
    found = play(DriftCheck(), ethanol(), drifting(-30.0, noise=0.1), steps=1000)
    assert found[0].time <= 510
    assert found[0].value == pytest.approx(-30, abs=3)


def test_drift_says_nothing_too_early():
    check = DriftCheck()
    assert not play(check, ethanol(), drifting(50.0, length=450), steps=450)
    assert check.result().status == "not judged"


def test_drift_does_not_fail_on_noise():
    for seed in range(40):
        check = DriftCheck()
        frames = drifting(0.0, noise=1.0, seed=seed, length=3000)
        assert not play(check, ethanol(), frames, steps=3000), seed


def settling(height, length):
    """Frames whose conserved quantity rises by `height` meV/atom within 0.5 ps and then stays."""
    times = np.arange(0.0, length + 1, 5.0)
    values = 9e-3 * height * np.minimum(1.0, times / 500.0)
    return [{"time": float(t), "conserved": float(v)} for t, v in zip(times, values, strict=True)]


def test_a_start_that_settles_is_no_drift():
    assert not play(DriftCheck(), ethanol(), settling(1.5, 3000), steps=3000)
    # The same slope that goes on, and one ten times as steep, do fail.
    assert severities(play(DriftCheck(), ethanol(), drifting(3.0, length=1000), steps=3000))
    steep = play(DriftCheck(), ethanol(), settling(15.0, 510), steps=3000)
    assert steep[0].time <= 510


def fluctuating(noise, *, length=1000, drift=0.0, still=False):
    """Frames whose kinetic energy fluctuates by 0.1 eV, the conserved one by `noise` × that."""
    rng = np.random.default_rng(0)
    frames = []
    for k, moment in enumerate(np.arange(0.0, length + 1, 5.0)):
        atoms = ethanol()
        kinetic = 0.3 if still else 0.3 + 0.1 * np.sqrt(2) * np.sin(0.7 * k)
        momenta = np.zeros((9, 3))
        momenta[0, 0] = np.sqrt(2 * kinetic * atoms.get_masses()[0])
        atoms.set_momenta(momenta)
        conserved = drift * moment / 1000.0 + 0.1 * noise * rng.standard_normal()
        frames.append({"time": float(moment), "conserved": conserved, "atoms": atoms})
    return frames


@pytest.mark.parametrize(
    ("noise", "drift", "expected"),
    [
        (0.02, 0.0, []),
        (0.02, 0.5, []),  # a trend is the drift's business
        (0.14, 0.0, ["warn"]),
        (0.3, 0.0, ["fail"]),
        (np.nan, 0.0, ["fail"]),
    ],
)
def test_fluctuation(noise, drift, expected):
    check = FluctuationCheck()
    found = play(check, ethanol(), fluctuating(noise, drift=drift), steps=1000)
    assert severities(found)[:1] == expected
    if np.isfinite(noise):
        assert check.result().worst == pytest.approx(noise, rel=0.2)


def test_fluctuation_needs_data_and_motion():
    check = FluctuationCheck()
    assert not play(check, ethanol(), fluctuating(0.5, length=450), steps=450)
    assert check.result().status == "not judged"
    assert not play(check, ethanol(), fluctuating(0.5, still=True), steps=1000)


def test_slope_and_its_interval():
    times = np.linspace(0, 10, 1000)
    exact = fit_slope(times, 3.0 * times - 7.0)
    assert exact.value == pytest.approx(3.0)
    assert exact.half_width == pytest.approx(0.0, abs=1e-9)


def test_interval_holds_the_true_slope_also_with_slow_noise():
    rng = np.random.default_rng(0)
    times = np.linspace(0, 1, 400)
    outside = 0
    for _ in range(300):
        noise = np.zeros(400)  # correlated over 1/16 of the run
        for k in range(1, 400):
            noise[k] = np.exp(-16 / 400) * noise[k - 1] + rng.standard_normal()
        slope = fit_slope(times, 0.2 * times + noise)
        outside += abs(slope.value - 0.2) > slope.half_width
    assert outside <= 3


def test_slope_of_nan_is_beyond_any_limit():
    check = DriftCheck()
    slope = fit_slope(np.arange(100.0), np.full(100, np.nan))
    assert check.beyond(slope.at_least, 1e9)


# ---------------------------------------------------------------- all together


def test_nan_is_beyond_any_limit_of_every_check():
    for check in default_checks():
        check.start(ethanol(), context(ethanol()))
        for limit in (check.fail_limit, check.warn_limit):
            if limit is not None:
                assert check.beyond(np.nan, limit)


def test_every_check_states_what_it_is():
    checks = default_checks()
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert check.definition
        assert "Default" in type(check).__doc__


def test_checks_forget_the_last_run():
    check = BondCheck()
    assert play(check, ethanol(), bond_frames(0.55, [0, 10]))
    assert not play(check, ethanol(), bond_frames(0.1, [0]))
    assert check.result().status == "passed"
    assert check.result().worst == pytest.approx(0.1)


# ---------------------------------------------------------------- pairs


def brute_force(atoms, cutoff):
    """Count directed pairs the slow way."""
    images = [range(-3, 4) if periodic else (0,) for periodic in atoms.pbc]
    count = 0
    for shift in np.stack(np.meshgrid(*images), axis=-1).reshape(-1, 3):
        vectors = atoms.positions[None] + shift @ atoms.cell.array - atoms.positions[:, None]
        distance = np.linalg.norm(vectors, axis=-1)
        if not shift.any():
            np.fill_diagonal(distance, np.inf)
        count += int((distance < cutoff).sum())
    return count


def slab():
    atoms = fcc111("Cu", (2, 2, 3), vacuum=5.0)
    atoms.positions[0, 2] -= 30.0  # far outside of the cell in the open direction
    atoms.positions[3] += 2 * atoms.cell[0]  # and not wrapped in a periodic one
    return atoms


def bare_slab():
    atoms = fcc111("Cu", (2, 2, 3))
    atoms.cell[2] = 0.0
    return atoms


def thrown_out():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] += 1e12 * atoms.cell[1]
    return atoms


@pytest.mark.parametrize(
    "atoms", [bulk("Si"), bulk("Cu", cubic=True), slab(), bare_slab(), ethanol(), argon()]
)
def test_pairs_agree_with_brute_force(atoms):
    pairs = find_pairs(atoms, 3.7)
    assert len(pairs.first) == brute_force(atoms, 3.7)
    vectors = atoms.positions[pairs.second] - atoms.positions[pairs.first]
    vectors = vectors + pairs.shift @ atoms.cell.array
    assert np.allclose(np.linalg.norm(vectors, axis=1), pairs.distance)


@pytest.mark.wall_clock
def test_an_atom_far_out_does_not_stall_the_search():
    started = time.perf_counter()
    assert len(find_pairs(thrown_out(), 3.0).first) > 0
    assert time.perf_counter() - started < 2.0  # 11 s if it were not wrapped first


def test_large_cluster_uses_a_tree():
    atoms = bulk("Cu", cubic=True) * (4, 4, 4)
    atoms.pbc = False
    assert len(find_pairs(atoms, 3.0).first) == brute_force(atoms, 3.0)
