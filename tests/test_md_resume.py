"""A run that is killed at any step goes on to the same numbers."""

import json

import numpy as np
import pytest
from ase.build import bulk, molecule

from ase_ws import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.md import run_md
from ase_ws.md.checkpoint import NAME
from ase_ws.stability.observers import default_checks
from ase_ws.testing import Morse

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


def test_a_broken_checkpoint(tmp_path):
    run(CASES["nvt"][0], Morse(), tmp_path / "run")
    (tmp_path / "run" / NAME).write_bytes(b"PK not one")
    with pytest.raises(UserError, match="not a checkpoint"):
        run(CASES["nvt"][0], Morse(), tmp_path / "run", resume=True)
    with pytest.raises(UserError, match="give out"):
        run(CASES["nvt"][0], Morse(), None, resume=True)


def test_a_new_run_leaves_no_old_checkpoint(tmp_path):
    run(CASES["nvt"][0], Morse(), tmp_path / "run")
    run(CASES["nvt"][0], Morse(), tmp_path / "run", steps=3)
    assert not (tmp_path / "run" / NAME).exists()
    assert json.loads((tmp_path / "run" / "md.json").read_text())["steps_done"] == 3


def test_a_trajectory_that_was_cut(tmp_path):
    run(CASES["nvt"][0], Morse(), tmp_path / "run")
    (tmp_path / "run" / "md.csv").write_text("step\n")
    with pytest.raises(UserError, match=r"md\.csv: shorter"):
        run(CASES["nvt"][0], Morse(), tmp_path / "run", resume=True)
