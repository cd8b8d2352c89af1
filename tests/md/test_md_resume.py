"""A run that is killed at any step goes on to the same numbers."""

import json
import os
import shutil

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import (
    LinearCombinationCalculator,
    MixedCalculator,
    SumCalculator,
)
from ase.constraints import FixAtoms, FixBondLengths, FixInternals
from toys import Springs, ethanol

from ase_ws import CommitteeCalculator, GuardedCalculator, PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.md import run_md
from ase_ws.md.checkpoint import NAME
from ase_ws.md.fingerprint import fingerprint
from ase_ws.stability.checks.defaults import default_checks
from ase_ws.testing import Morse, tiny_mace

SETTINGS = {"temperature": 300.0, "steps": 60, "interval": 5, "checkpoint_every": 7, "seed": 3}
FILES = ("trajectory.extxyz", "md.csv")


class Killed(BaseException):
    """What a kill looks like from inside."""


class KillAt:
    """An observer that ends the process, as it were, at a step."""

    interval = 1

    def __init__(self, step):
        self.step = step

    def start(self, atoms, context):
        pass

    def check(self, snapshot):
        if snapshot.step == self.step:
            self.step = None
            raise Killed
        return []


def crystal():
    atoms = bulk("C", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


CASES = {
    "nve": (lambda: molecule("CH3OH"), {"ensemble": "nve"}),
    "nvt": (lambda: molecule("CH3OH"), {"ensemble": "nvt"}),
    "langevin": (lambda: molecule("CH3OH"), {"thermostat": "langevin"}),
    "nose-hoover": (lambda: molecule("CH3OH"), {"thermostat": "nose-hoover"}),
    "npt": (crystal, {"ensemble": "npt"}),
    "npt, flexible": (crystal, {"ensemble": "npt", "flexible_cell": True}),
}


def run(make, potential, out, *observers, **changes):
    # A new calculator each time, as after a restart of Python.
    return run_md(
        make(), PotentialCalculator(potential, skin=0.3), out=out, observers=observers,
        **{**SETTINGS, **changes},
    )  # fmt: skip


@pytest.mark.parametrize("kills", [(3,), (7,), (8, 30), (59,), (35, 36, 43)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_same_numbers(case, kills, mace, tmp_path):
    make, options = CASES[case]
    whole = run(make, mace, tmp_path / "whole", **options)
    for k, step in enumerate(kills):
        with pytest.raises(Killed):
            run(make, mace, tmp_path / "killed", KillAt(step), resume=k > 0, **options)
    resumed = run(make, mace, tmp_path / "killed", resume=True, **options)
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert np.array_equal(resumed.atoms.positions, whole.atoms.positions)
    assert np.array_equal(resumed.atoms.get_momenta(), whole.atoms.get_momenta())
    for name, trace in whole.traces.items():
        assert np.array_equal(trace, resumed.traces[name]), name


def test_more_steps_later(mace, tmp_path):
    make, options = CASES["nvt"]
    whole = run(make, mace, tmp_path / "whole", **options)
    run(make, mace, tmp_path / "parts", **options, steps=35)
    longer = run(make, mace, tmp_path / "parts", **options, resume=True)
    assert longer.steps_done == 60
    assert np.array_equal(longer.atoms.positions, whole.atoms.positions)


def test_the_checks_see_what_was_before(tmp_path):
    """The energy window counts from the start of the run, not from the checkpoint."""
    atoms = molecule("CH3OH")
    for step in (20,):
        with pytest.raises(Killed):
            run(lambda: atoms, Morse(), tmp_path / "run", KillAt(step), *default_checks())
    seen = []

    class Sees(KillAt):
        def check(self, snapshot):
            seen.append(snapshot.step)
            return []

    run(lambda: atoms, Morse(), tmp_path / "run", Sees(None), resume=True)
    # Frames on file first (interval 5, checkpoint at 14), then every step after the checkpoint.
    assert seen[:4] == [0, 5, 10, 15]
    assert seen == [0, 5, 10, *range(15, 61)]


def test_nothing_to_resume_is_a_start(mace, tmp_path):
    result = run(CASES["nve"][0], mace, tmp_path / "run", resume=True, ensemble="nve")
    assert result.steps_done == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 400.0}, r"temperature 300\.0, now it is 400\.0"),
        ({"seed": 4}, "seed 3, now it is 4"),
        ({"thermostat_time": 50.0}, "thermostat_time 100.0"),
    ],
)
def test_another_run_is_refused(change, message, tmp_path):
    run(CASES["nvt"][0], Morse(), tmp_path / "run")
    with pytest.raises(UserError, match=message):
        run(CASES["nvt"][0], Morse(), tmp_path / "run", resume=True, **change)
    with pytest.raises(UserError, match="structure"):
        run(lambda: molecule("H2O"), Morse(), tmp_path / "run", resume=True)


# ---------------------------------------------------------------- other inputs


def changed(key, value):
    def change(atoms):
        atoms.arrays[key][-1] = value

    return change


def swapped(atoms):
    order = [0, 1, 2, 5, 4, 3]
    atoms.positions = atoms.positions[order]
    atoms.numbers = atoms.numbers[order]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.set_masses([2.014 if z == 1 else None for z in a.numbers]), "other masses"),
        (changed("positions", [0.0, 1.2, 0.5]), "other positions: atom 5"),
        (lambda a: a.set_constraint(FixAtoms([0])), "constraints"),
        (lambda a: a.set_atomic_numbers([6, 8, 1, 1, 1, 1][::-1]), "other numbers: atom 0"),
        (swapped, "other positions"),
        (lambda a: a.info.update(charge=1), "system"),
        (lambda a: a.set_initial_charges([0, 0, 0, 0.5, 0, 0]), "other initial charges: atom 3"),
        (lambda a: a.set_pbc((True, False, False)) or a.set_cell([9, 0, 0]), "pbc"),
    ],
)
def test_another_start_is_refused(change, message, tmp_path, listing):
    run(CASES["nvt"][0], Morse(), tmp_path)
    before = listing(tmp_path)
    other = molecule("CH3OH")
    change(other)
    with pytest.raises(UserError, match=message) as caught:
        run(lambda: other, Morse(), tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    assert NAME in str(caught.value)
    assert listing(tmp_path) == before


def test_another_potential_is_refused(tmp_path):
    make, potential = CASES["nvt"][0], tiny_mace((1, 6, 8), seed=1)
    run(make, potential, tmp_path)
    for other in (tiny_mace((1, 6, 8), seed=2), tiny_mace((1, 6, 8), seed=1).float(), Morse()):
        with pytest.raises(UserError, match="potential"):
            run(make, other, tmp_path, resume=True)
    assert run(make, tiny_mace((1, 6, 8), seed=1), tmp_path, resume=True).steps_done == 60


def test_the_file_of_the_potential_may_move(small_mace, model_file, tmp_path):
    shutil.copy(model_file, tmp_path / "elsewhere.safetensors")
    run(CASES["nvt"][0], str(model_file), tmp_path)
    run(CASES["nvt"][0], str(tmp_path / "elsewhere.safetensors"), tmp_path, resume=True, steps=70)


def test_a_foreign_calculator_is_known_by_name_and_parameters(tmp_path):
    def go(calculator, **options):
        return run_md(ethanol(), calculator, out=tmp_path, **SETTINGS, **options)

    first = Springs(ethanol())
    first.set(cutoff=3.0)
    go(first)
    # It has counted its calls in the meantime, which is no other potential.
    go(first, resume=True)
    again = Springs(ethanol())
    again.set(cutoff=3.0)
    go(again, resume=True)
    again.set(cutoff=4.0)
    with pytest.raises(UserError, match="potential 'Springs"):
        go(again, resume=True)


def test_fingerprints():
    """The same for the same content, whatever was calculated with it."""

    def makers():
        first, second = tiny_mace((1, 6, 8), seed=1), tiny_mace((1, 6, 8), seed=2)
        third = tiny_mace((1, 6, 8), seed=3)
        yield EMT
        yield lambda: LennardJones(sigma=1.0)
        yield lambda: LennardJones(sigma=2.0)
        yield lambda: SumCalculator([EMT(), LennardJones(sigma=1.0)])
        yield lambda: SumCalculator([EMT(), LennardJones(sigma=2.0)])
        yield lambda: GuardedCalculator(EMT())
        yield lambda: PotentialCalculator(first)
        yield lambda: PotentialCalculator(second)
        yield lambda: PotentialCalculator(first, dtype="float32")
        yield lambda: PotentialCalculator(Morse(r0=1.2))
        yield lambda: PotentialCalculator(Morse(r0=1.3))
        yield lambda: CommitteeCalculator([first, second])
        yield lambda: CommitteeCalculator([first, third])
        for weights in ([0.5, 0.5], [0.9, 0.1]):
            yield lambda w=weights: LinearCombinationCalculator([LennardJones(), EMT()], w)
            yield lambda w=weights: MixedCalculator(EMT(), LennardJones(), *w)
            yield lambda w=weights: SumCalculator([EMT(), MixedCalculator(EMT(), EMT(), *w)])
        # Weights alone do not make a potential: the same ones with another head, E0 or shape.
        e0 = np.array([[-13.0, -1.0, -2.0], [-14.0, -3.0, -4.0]])
        two = {"heads": ("cc", "dft"), "scale": (1.0, 1.0), "shift": (0.0, 0.0), "e0": e0}
        for change in ({"head": "cc"}, {"head": "dft"}, {"head": "cc", "e0": e0 - 1.0}):
            yield lambda c=change: PotentialCalculator(tiny_mace((1, 6, 8), **{**two, **c}))
        for n in (8.0, 9.0):
            yield lambda n=n: PotentialCalculator(tiny_mace((1, 6, 8), avg_num_neighbors=n))

    seen = []
    for make in makers():
        calculator = make()
        before = fingerprint(calculator)
        atoms = molecule("CH3OH")
        atoms.calc = calculator
        atoms.get_forces()
        assert fingerprint(calculator) == before == fingerprint(make())
        seen.append(before)
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
@pytest.mark.parametrize(
    "constraints",
    [
        lambda a: FixBondLengths([(0, 1), (1, 2)]),
        lambda a: FixInternals(bonds=[[None, [0, 1]]], angles_deg=[[None, [0, 1, 2]]]),
    ],
)
def test_the_same_numbers_with_constraints(constraints, thermostat, tmp_path):
    """Also the lengths: those of the start, not those of the checkpoint."""

    def make():
        atoms = ethanol()
        atoms.set_constraint(constraints(atoms))
        return atoms

    def go(out, *observers, **options):
        return run_md(make(), Springs(ethanol()), out=out, observers=observers,
                      thermostat=thermostat, **SETTINGS, **options)  # fmt: skip

    whole = go(tmp_path / "whole")
    with pytest.raises(Killed):
        go(tmp_path / "killed", KillAt(37))
    resumed = go(tmp_path / "killed", resume=True)
    assert np.array_equal(resumed.atoms.positions, whole.atoms.positions)
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ---------------------------------------------------------------- damage


def cut(path, size):
    os.truncate(path, size)


def rewrite(path, **changes):
    """Change arrays of a checkpoint; None leaves one out."""
    with np.load(path) as file:
        arrays = {**{name: file[name] for name in file.files}, **changes}
    with path.open("wb") as file:
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})


def restate(path, **changes):
    with np.load(path) as file:
        state = {**json.loads(str(file["state"])), **changes}
    state = {name: value for name, value in state.items() if value is not None}
    rewrite(path, state=np.array(json.dumps(state)))


DAMAGE = {
    "not one": (lambda f: (f / NAME).write_bytes(b"PK not one"), NAME),
    "cut in half": (lambda f: cut(f / NAME, (f / NAME).stat().st_size // 2), NAME),
    "cut at its end": (lambda f: cut(f / NAME, (f / NAME).stat().st_size - 30), NAME),
    "empty": (lambda f: cut(f / NAME, 0), NAME),
    "an array of numbers": (
        lambda f: (np.save(f / "x.npy", np.ones(3)), (f / "x.npy").replace(f / NAME)),
        NAME,
    ),
    "without state": (lambda f: rewrite(f / NAME, state=None), NAME),
    "state of a list": (lambda f: rewrite(f / NAME, state=np.array("[1]")), NAME),
    "without positions": (lambda f: rewrite(f / NAME, positions=None), NAME),
    "other positions": (lambda f: rewrite(f / NAME, positions=np.ones((2, 3))), NAME),
    "positions of NaN": (lambda f: rewrite(f / NAME, positions=np.full((6, 3), np.nan)), NAME),
    "text for momenta": (lambda f: rewrite(f / NAME, momenta=np.array("p")), NAME),
    "other rows": (lambda f: rewrite(f / NAME, rows=np.ones(4)), NAME),
    "an integrator's part more": (lambda f: rewrite(f / NAME, **{"integrator:x": 1.0}), NAME),
    "without random numbers": (lambda f: restate(f / NAME, rng={"state": 1}), NAME),
    "without offsets": (lambda f: restate(f / NAME, offsets=None), NAME),
    "without settings": (lambda f: restate(f / NAME, settings=None), NAME),
    "of an earlier version": (lambda f: restate(f / NAME, version=None), "another version"),
    "trajectory deleted": (lambda f: (f / FILES[0]).unlink(), "trajectory.extxyz: missing"),
    "trajectory cut": (lambda f: cut(f / FILES[0], 200), "trajectory.extxyz: shorter"),
    "trajectory of something else": (
        lambda f: (f / FILES[0]).write_bytes(b"x" * (f / FILES[0]).stat().st_size),
        "trajectory.extxyz: frame 0 is not step 0",
    ),
    "a frame lost": (
        lambda f: (f / FILES[0]).write_bytes(
            (f / FILES[0]).read_bytes().replace(b"step=10 ", b"step=11 ")
        ),
        "trajectory.extxyz: frame 2 is not step 10",
    ),
    "log deleted": (lambda f: (f / FILES[1]).unlink(), "md.csv: missing"),
    "log cut": (lambda f: cut(f / FILES[1], 5), "md.csv: shorter"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_and_costs_nothing_more(name, tmp_path, listing):
    damage, message = DAMAGE[name]
    run(CASES["nvt"][0], Morse(), tmp_path)
    damage(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message) as caught:
        run(CASES["nvt"][0], Morse(), tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resume_without_a_folder():
    with pytest.raises(UserError, match="give out"):
        run(CASES["nvt"][0], Morse(), None, resume=True)


def test_a_failure_right_after_a_resume_shows_the_frame_before(tmp_path):
    """The frame before is that of the checkpoint's trajectory, not the start."""
    from ase_ws.md import Finding

    class Fails(KillAt):
        def check(self, snapshot):
            return [Finding("fails", "fail", "enough")] if snapshot.step > self.step else []

    run(CASES["nvt"][0], Morse(), tmp_path, steps=35)
    result = run(CASES["nvt"][0], Morse(), tmp_path, Fails(35), resume=True)
    before, failing = result.last_frames
    assert (before.info["step"], failing.info["step"]) == (35, 36)
    assert abs(before.positions - failing.positions).max() < 0.05
    whole = run(CASES["nvt"][0], Morse(), tmp_path, Fails(35))
    np.testing.assert_allclose(before.positions, whole.last_frames[0].positions, atol=1e-7)


def test_a_new_run_leaves_no_old_checkpoint(tmp_path):
    run(CASES["nvt"][0], Morse(), tmp_path / "run")
    run(CASES["nvt"][0], Morse(), tmp_path / "run", steps=3)
    assert not (tmp_path / "run" / NAME).exists()
    assert json.loads((tmp_path / "run" / "md.json").read_text())["steps_done"] == 3


@pytest.mark.parametrize("checkpoint_every", [7, 1000])
def test_fewer_steps_than_are_done_lose_nothing(tmp_path, checkpoint_every):
    """Someone who means "20 more" by steps=20."""
    atoms = ethanol()
    settings = {**SETTINGS, "checkpoint_every": checkpoint_every}
    run_md(atoms, Springs(atoms), **{**settings, "steps": 50}, out=tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    with pytest.raises(UserError, match="50 steps are done, and steps counts from the very start"):
        run_md(atoms, Springs(atoms), **{**settings, "steps": 20}, out=tmp_path, resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    run_md(atoms, Springs(atoms), **{**settings, "steps": 50}, out=tmp_path, resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
