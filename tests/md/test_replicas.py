"""Many replicas in one batch: ASE's trajectories in NVE, the canonical ensemble in NVT."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet

from ase_ws import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.md import FiniteGuard, read_log, run_md, run_replicas
from ase_ws.md.velocities import draw_velocities
from ase_ws.results.finding import Finding
from ase_ws.stability.checks.defaults import default_checks
from ase_ws.testing import Harmonic, Morse, Toy, tiny_mace

MORSE = {"depth": 4.0, "r_max": 2.0}


class Hole(Toy):
    """A harmonic well whose energy is NaN as soon as an atom is further than `limit` (Å)."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def atomic_energies(self, batch):
        squares = batch.positions.square().sum(dim=1)
        hole = torch.full_like(squares, torch.nan)
        return torch.where(squares > self.limit**2, hole, 0.5 * squares)


def relaxed(name):
    from ase.optimize import BFGS

    atoms = molecule(name)
    atoms.calc = PotentialCalculator(Morse(**MORSE))
    with BFGS(atoms, logfile=None) as optimiser:
        optimiser.run(fmax=0.01, steps=300)
    return Atoms(atoms.numbers, atoms.positions)


def test_nve_is_ases_step_by_step(mace):
    """Different molecules side by side, the lists renewed on the way."""
    structures = [molecule("CH3OH"), molecule("H2O"), bulk("C", cubic=True)]
    for k, atoms in enumerate(structures):
        draw_velocities(atoms, 600, np.random.default_rng(k))
        atoms.positions += 20.0 * k
    potential = mace.double()
    results = run_replicas(
        structures, potential, ensemble="nve", temperature=600, steps=40, seeds=(0, 1, 2),
        keep_velocities=True, interval=1, skin=0.1,
    )  # fmt: skip
    for atoms, result in zip(structures, results, strict=True):
        alone = atoms.copy()
        alone.calc = PotentialCalculator(potential)
        energies = []
        dynamics = VelocityVerlet(alone, 0.5 * units.fs)
        dynamics.attach(lambda a=alone, e=energies: e.append(a.get_potential_energy() / len(a)))
        dynamics.run(40)
        np.testing.assert_allclose(result.atoms.positions, alone.positions, atol=1e-9)
        np.testing.assert_allclose(result.atoms.get_momenta(), alone.get_momenta(), atol=1e-9)
        np.testing.assert_allclose(result.traces["potential_ev_per_atom"], energies, atol=1e-9)
        assert result.steps_done == 40
        assert np.ptp(result.traces["conserved_ev_per_atom"]) < 1e-3


def test_same_velocities_as_run_md(mace):
    atoms = molecule("CH3OH")
    (replica,) = run_replicas(
        atoms, mace, ensemble="nve", temperature=300, steps=5, seeds=(7,), interval=1
    )
    atoms.calc = PotentialCalculator(mace)
    alone = run_md(atoms, ensemble="nve", temperature=300, steps=5, seed=7, interval=1)
    for name in ("temperature_k", "potential_ev_per_atom"):
        np.testing.assert_allclose(replica.traces[name], alone.traces[name], rtol=1e-4)


@pytest.mark.parametrize("timestep", [2.0, 8.0])
def test_baoab_samples_the_canonical_ensemble(timestep):
    """Atoms in a harmonic well: variance k_B T/k, exact at every time step; here 3N − 3 of 3N."""
    k, n, kelvin, n_replicas, steps = 2.0, 5, 300.0, 40, 1500
    well = Atoms(f"C{n}", positions=np.zeros((n, 3)) + 0.0, cell=[50] * 3, pbc=True)
    well.positions += np.random.default_rng(0).normal(size=(n, 3)) * 0.05
    well.positions -= well.positions.mean(axis=0)
    seen, seconds = [], []

    class Looks:
        interval = 10

        def start(self, atoms, context):
            pass

        def check(self, snapshot):
            if snapshot.step > 200:
                seen.append(snapshot.atoms.positions.copy())
                seconds.append(snapshot.kinetic_energy)
            return []

    run_replicas(
        well, Harmonic(k), temperature=kelvin, steps=steps, timestep=timestep,
        seeds=range(n_replicas), thermostat_time=50.0, observers=lambda: [Looks()], interval=500,
        skin=5.0,
    )  # fmt: skip
    x = np.array(seen)
    expected = units.kB * kelvin / k * (1 - 1 / n)
    # 40 replicas × 130 looks × 15 coordinates; a look is worth about a third of an independent one.
    assert x.var() == pytest.approx(expected, rel=0.02)
    assert abs(x.mean()) < 1e-9
    # The kinetic energy of BAOAB is off by (ω Δt)²/4 and no more.
    omega = np.sqrt(k / 12.011) / units.fs * units.fs
    slack = 0.02 + (omega * timestep * units.fs) ** 2
    kinetic = 0.5 * (3 * n - 3) * units.kB * kelvin
    assert np.mean(seconds) == pytest.approx(kinetic, rel=slack)


def test_a_molecule_gets_its_temperature():
    """3N − 6 degrees of freedom: at rest, not turning, at the set temperature."""
    water = relaxed("CH3OH")
    results = run_replicas(
        water, Morse(**MORSE), temperature=[300.0] * 20 + [600.0] * 20, steps=1500, timestep=0.5,
        seeds=range(40), thermostat_time=30.0, interval=10,
    )  # fmt: skip
    for part, kelvin in ((results[:20], 300.0), (results[20:], 600.0)):
        tails = np.concatenate([r.traces["temperature_k"][30:] for r in part])
        assert tails.mean() == pytest.approx(kelvin, rel=0.04)
    for result in results:
        assert abs(result.atoms.get_momenta().sum(axis=0)).max() < 1e-9
        assert abs(result.atoms.get_angular_momentum()).max() < 1e-6


def test_heat_makes_up_the_conserved_quantity():
    (result,) = run_replicas(
        relaxed("H2O"), Morse(**MORSE), temperature=300, steps=400, timestep=0.1, interval=20,
    )  # fmt: skip
    conserved = result.traces["conserved_ev_per_atom"]
    total = result.traces["potential_ev_per_atom"] + result.traces["kinetic_ev_per_atom"]
    assert np.ptp(conserved) < 0.02 * np.ptp(total)


def test_a_replica_does_the_same_whoever_else_is_there():
    water, methanol = relaxed("H2O"), relaxed("CH3OH")
    together = run_replicas(
        [water, methanol, water], Morse(**MORSE), temperature=300, steps=50, seeds=(1, 2, 3)
    )
    (alone,) = run_replicas(methanol, Morse(**MORSE), temperature=300, steps=50, seeds=(2,))
    np.testing.assert_allclose(together[1].atoms.positions, alone.atoms.positions, atol=1e-9)
    assert abs(together[0].atoms.positions - together[2].atoms.positions).max() > 1e-3


def test_a_failed_replica_leaves_and_the_others_go_on():
    """NaN is found in the very step; the others do what they would have done."""
    still = Atoms("C2", positions=[[0.1, 0, 0], [-0.1, 0, 0]], cell=[50] * 3, pbc=True)
    fast = still.copy()
    still.set_momenta([[0, 0.1, 0], [0, -0.1, 0]])
    fast.set_momenta([[0, 0, 30.0], [0, 0, -30.0]])
    results = run_replicas(
        [still, fast, still], Hole(0.5), ensemble="nve", temperature=300, steps=37, timestep=1.0,
        seeds=(0, 1, 2), keep_velocities=True, interval=5, skin=3.0,
    )  # fmt: skip
    assert [r.steps_done for r in (results[0], results[2])] == [37, 37]
    failure = results[1].stopped_by
    assert failure is not None
    assert failure.check == "finite"
    assert 0 < results[1].steps_done < 37
    assert results[1].steps_done % 10  # not only where looks are due
    assert len(results[1].last_frames) == 2
    (alone,) = run_replicas(
        still, Hole(0.5), ensemble="nve", temperature=300, steps=37, timestep=1.0, seeds=(0,),
        keep_velocities=True, interval=5, skin=3.0,
    )  # fmt: skip
    np.testing.assert_allclose(results[2].atoms.positions, alone.atoms.positions, atol=1e-12)


def test_all_failed_ends_the_run():
    atoms = Atoms("C2", positions=[[0.1, 0, 0], [-0.1, 0, 0]])
    atoms.set_momenta([[0, 0, 30.0], [0, 0, -30.0]])
    results = run_replicas(
        atoms, Hole(0.5), ensemble="nve", temperature=300, steps=1000, timestep=1.0, seeds=(0, 1),
        keep_velocities=True, skin=3.0,
    )  # fmt: skip
    assert all(r.stopped_by is not None and r.steps_done < 100 for r in results)


def test_with_the_checks_of_the_stability_suite():
    hot = relaxed("CH3OH")
    results = run_replicas(
        hot, Morse(**MORSE), temperature=[300, 20000], steps=200, seeds=(0, 1),
        observers=default_checks,
    )  # fmt: skip
    assert results[0].stopped_by is None
    assert results[1].stopped_by is not None


def test_files(tmp_path):
    run_replicas(
        relaxed("H2O"), Morse(**MORSE), temperature=300, steps=20, seeds=(0, 1), out=tmp_path,
        interval=5,
    )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["replica_000", "replica_001"]
    log = read_log(tmp_path / "replica_001" / "md.csv")
    assert log["step"].tolist() == [0, 5, 10, 15, 20]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ensemble": "npt"}, "run_md"),
        ({"temperature": [300, 400, 500]}, "3 temperatures for 2 seeds"),
        ({"temperature": -1}, "temperature is -1"),
        ({"timestep": np.nan}, "timestep is nan"),
        ({"thermostat_time": 0.0}, "thermostat_time is 0.0"),
        ({"thermostat": "nose-hoover"}, "run_md"),
        ({"interval": 0}, "interval is 0"),
        ({"seeds": (0, -1)}, "seed is -1"),
        ({"keep_velocities": True}, "keep_velocities"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(UserError, match=message):
        run_replicas(
            molecule("H2O"), Morse(), **{"temperature": 300, "steps": 1, "seeds": (0, 1), **wrong}
        )


@pytest.mark.parametrize("place", [0, 1])
def test_one_guard_is_enough_and_is_asked_first(place):
    """The caller's own guard takes the place of the runner's, in one run as in many."""
    asked = []

    class Guard(FiniteGuard):
        def check(self, snapshot):
            asked.append("guard")
            return super().check(snapshot)

    class Looks:
        interval = 1

        def start(self, atoms, context):
            pass

        def check(self, snapshot):
            asked.append("other")
            return []

    def observers():
        return [Guard(), Looks()] if place == 0 else [Looks(), Guard()]

    water = molecule("H2O")
    run_replicas(water, Morse(), temperature=300, steps=1, observers=observers)
    run_md(
        water, PotentialCalculator(Morse()), temperature=300, steps=1, observers=observers()
    )  # fmt: skip
    assert asked == ["guard", "other"] * 4


def test_constraints_are_refused():
    from ase.constraints import FixAtoms

    atoms = molecule("H2O")
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(UserError, match="constraints"):
        run_replicas(atoms, Morse(), temperature=300, steps=1)


def test_bussi_gives_the_run_of_run_md():
    """The same seed, the same noise: the floats differ by rounding only."""
    mace = tiny_mace((1, 8))
    water = molecule("H2O")
    together = run_replicas(
        water, mace, temperature=[300, 600], steps=30, seeds=(3, 4), thermostat="bussi"
    )
    for result, kelvin, seed in zip(together, (300, 600), (3, 4), strict=True):
        alone = run_md(water, PotentialCalculator(mace), temperature=kelvin, steps=30, seed=seed)
        np.testing.assert_allclose(result.atoms.positions, alone.atoms.positions, atol=1e-9)
        for name in ("conserved_ev_per_atom", "temperature_k"):
            np.testing.assert_allclose(result.traces[name], alone.traces[name], rtol=1e-7)


def test_each_replica_is_handed_over_when_it_ends():
    mace = tiny_mace((1, 8))
    water = molecule("H2O")
    ended: list[tuple[int, int]] = []

    class Stop:
        interval = 1

        def start(self, atoms, context):
            self.hot = context.temperature > 500

        def check(self, snapshot):
            stop = self.hot and snapshot.step == 10
            return [Finding("stop", "fail", "enough")] if stop else []

    results = run_replicas(
        water, mace, temperature=[300, 600], steps=20, seeds=(3, 4), observers=lambda: [Stop()],
        finished=lambda number, result: ended.append((number, result.steps_done)),
    )  # fmt: skip
    assert ended == [(1, 10), (0, 20)]
    assert [result.steps_done for result in results] == [20, 10]


class Moody(Morse):
    """After so many calls, or for stretched molecules, it raises, or answers otherwise."""

    def __init__(self, mood, calls=10**9, beyond=np.inf):
        super().__init__(**MORSE)
        self.mood, self.calls_left, self.beyond = mood, calls, beyond

    def __call__(self, batch, **options):
        found = super().__call__(batch, **options)
        self.calls_left -= 1
        if self.calls_left >= 0 and float(batch.positions.norm(dim=1).max()) < self.beyond:
            return found
        if self.mood == "raises":
            raise RuntimeError("no room\nfor two lines")
        if self.mood == "NaN":
            return found._replace(energy=found.energy * np.nan, forces=found.forces * np.nan)
        return found._replace(forces=found.forces[:1])


@pytest.mark.parametrize("mood", ["raises", "NaN", "shape"])
@pytest.mark.parametrize("thermostat", ["bussi", "langevin"])
def test_a_potential_that_starts_to_fail_ends_all_replicas(mood, thermostat, tmp_path):
    results = run_replicas(
        relaxed("CH3OH"), Moody(mood, calls=23), temperature=300, steps=60, seeds=(0, 1),
        thermostat=thermostat, out=tmp_path, interval=5,
    )  # fmt: skip
    for number, result in enumerate(results):
        failure = result.stopped_by
        assert failure is not None
        assert failure.check == ("finite" if mood == "NaN" else "calculator")
        assert "\n" not in failure.message
        assert result.steps_done == (23 if mood == "NaN" else 22)
        log = read_log(tmp_path / f"replica_{number:03d}" / "md.csv")
        assert log["step"].tolist()[:5] == [0, 5, 10, 15, 20]
        assert len(result.last_frames) == 2


@pytest.mark.parametrize("mood", ["raises", "shape"])
def test_the_replica_that_upsets_the_potential_is_named_and_the_others_go_on(mood):
    still = Atoms("C2", positions=[[0.6, 0, 0], [-0.6, 0, 0]])
    fast = still.copy()
    still.set_momenta([[0, 0.1, 0], [0, -0.1, 0]])
    fast.set_momenta([[0, 0, 30.0], [0, 0, -30.0]])
    results = run_replicas(
        [still, fast, still], Moody(mood, beyond=1.5), ensemble="nve", temperature=300, steps=37,
        timestep=1.0, seeds=(0, 1, 2), keep_velocities=True, interval=5,
    )  # fmt: skip
    assert [r.steps_done for r in (results[0], results[2])] == [37, 37]
    assert results[0].stopped_by is None
    failure = results[1].stopped_by
    assert failure is not None
    assert failure.check == "calculator"
    assert failure.step == results[1].steps_done + 1
    (alone,) = run_replicas(
        still, Moody(mood), ensemble="nve", temperature=300, steps=37, timestep=1.0, seeds=(0,),
        keep_velocities=True, interval=5,
    )  # fmt: skip
    np.testing.assert_allclose(results[2].atoms.positions, alone.atoms.positions, atol=1e-12)


def test_a_potential_that_cannot_start_says_so():
    with pytest.raises(RuntimeError, match="no room"):
        run_replicas(
            molecule("H2O"), Moody("raises", calls=0), temperature=300, steps=3, seeds=(0, 1)
        )
