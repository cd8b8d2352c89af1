"""What a stability campaign will take, what is left out to fit a budget, and what is said of it."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import write
from pages import Page
from toys import NaNSprings, ethanol

from ase_ws.errors import UserError
from ase_ws.potentials.files import save_potential
from ase_ws.report import render_stability_report
from ase_ws.results.check import StaticCheckResult
from ase_ws.results.finding import Finding
from ase_ws.results.settings import BudgetedSettings
from ase_ws.stability import check_stability
from ase_ws.stability.runs import budget as budgets
from ase_ws.stability.runs.budget import look_ahead
from ase_ws.stability.runs.estimate import Estimate, Speed, spoken
from ase_ws.stability.runs.prepare import RELAXING
from ase_ws.stability.static import default_static_checks, run_static
from ase_ws.stability.static.cost import costs
from ase_ws.stability.verdict.decide import decide
from ase_ws.testing import tiny_mace
from ase_ws.testing.bad import Curl


def copper(calculator=None, repeat=(2, 2, 1)):
    atoms = bulk("Cu", cubic=True) * repeat
    atoms.calc = calculator or EMT()
    return atoms


def methanol(calculator=None):
    atoms = molecule("CH3OH")
    atoms.calc = calculator or EMT()
    return atoms


def settings(**changes):
    asked = {"temperatures": [300.0, 500.0], "ps": 5.0, "replicas": 4, "relax_steps": 10}
    return BudgetedSettings(**{**asked, **changes})


# --- evaluations: known beforehand, and counted ----------------------------------------------


def one_atom():
    atoms = bulk("Cu")
    atoms.calc = EMT()
    return atoms


def argon():
    atoms = bulk("Ar", "fcc", a=5.3)
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0, smooth=True)
    return atoms


@pytest.mark.parametrize("make", [copper, one_atom, argon, methanol])
def test_the_count_of_each_check_is_known_beforehand(make):
    atoms, checks, counts = make(), default_static_checks(), {}
    expected = costs(atoms, checks, None)
    run_static(atoms, progress=lambda done, _, name: counts.setdefault(name, done))
    begun = [counts[check.name] for check in checks] + [counts["done"]]
    # The last report of a check and the first of the next tell the same count.
    real = np.diff(begun)
    assert sum(real) > 300
    for check, guess, count in zip(checks, expected, real, strict=True):
        assert count / 2.0 <= guess <= count * 2.0, (check.name, guess, count)
    assert sum(real) / 1.3 <= sum(expected) <= 1.3 * sum(real)


def test_counting_beforehand_asks_no_potential():
    class Silent(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, *args, **kwargs):
            raise AssertionError("it was asked")

    checks = default_static_checks()
    table = dict(zip([c.name for c in checks], costs(copper(Silent()), checks, None), strict=True))
    assert table["work"] > 50
    # A calculator without stress is not asked for it.
    assert table["stress_work"] == 0


def test_progress_moves_at_every_evaluation_and_never_back_before_md():
    said = []
    check_stability(
        methanol(), temperature=300.0, ps=0.02, progress=lambda *report: said.append(report),
    )  # fmt: skip
    names = {RELAXING, "done", *(check.name for check in default_static_checks())}
    before = [report for report in said if report[2] in names]
    done = [report[0] for report in before]
    assert before[0][2] == RELAXING
    assert set(np.diff(done)) <= {0, 1}
    assert before[-1][0] == before[-1][1] == done[-1]
    # What is planned includes the static checks from the first step of the relaxation on.
    assert before[0][1] > 200 + 300
    assert said[-1][:2] == (40, 40)


# --- the estimate ---------------------------------------------------------------------------


class Slow(EMT):
    """Takes its time."""

    def calculate(self, *args, **kwargs):
        time.sleep(0.004)
        super().calculate(*args, **kwargs)


def test_the_estimate_is_told_and_kept_beside_the_real_time():
    lines = []
    report = check_stability(
        methanol(Slow()), temperature=300.0, ps=0.05, relax_steps=50, blame=False,
        tell=lines.append,
    )  # fmt: skip
    told = report.provenance["estimate"]
    assert told["md_steps"] == 100
    assert told["md_s"] >= 100 * 0.004
    assert told["relaxation_s"] >= 50 * 0.004
    assert told["static_s"] >= told["static_evaluations"] * 0.004
    assert told["total_s"] == pytest.approx(told["md_s"] + told["relaxation_s"] + told["static_s"])
    assert len(lines) == 1
    assert lines[0].startswith("about ")
    assert f"{told['static_evaluations']} evaluations before MD" in lines[0]
    assert "100 steps of MD" in lines[0]
    took = report.provenance
    assert 0 < took["before_md_s"] + took["md_s"] <= took["wall_time_s"]
    assert took["md_s"] >= 100 * 0.004


def test_a_step_of_a_batch_is_between_one_replica_and_all_of_them():
    serial = Speed(evaluation=1.0, static=1.0, step=1.5)
    assert serial.md(steps=10, jobs=4) == 60.0
    batch = Speed(evaluation=1.0, static=1.0, step=1.0, batch=3.0, size=5, most=5)
    assert batch.md(steps=10, jobs=1) == 10.0
    assert batch.md(steps=10, jobs=5) == 30.0
    assert batch.md(steps=10, jobs=7) == 10 * (3.0 + 1.5)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "under 1 s"), (20, "20 s"), (240, "4 min"), (3600, "60 min"), (9000, "2.5 h")],
)
def test_durations_are_as_rough_as_they_are_known(seconds, words):
    assert spoken(seconds) == words


def test_a_sentence_leaves_out_what_is_not_done():
    line = Estimate(0.0, 0, 0.0, 4000, 180.0).sentence()
    assert line == "about 3 min: 3 min for 4,000 steps of MD"
    line = Estimate(20.0, 560, 40.0, 4000, 180.0).sentence()
    assert line == (
        "about 4 min: 20 s relaxing at most, 40 s for 560 evaluations before MD, "
        "3 min for 4,000 steps of MD"
    )


def test_a_second_model_is_counted_too():
    report = check_stability(
        copper(), temperature=300.0, ps=0.02, static=False, compare=EMT(), relax_steps=0
    )
    assert report.provenance["estimate"]["md_steps"] == 2 * 40


# --- the budget -----------------------------------------------------------------------------


@pytest.fixture
def second_each(monkeypatch):
    """Every evaluation and every step takes one second."""
    monkeypatch.setattr(budgets, "measure", lambda *args, **kwargs: Speed(1.0, 1.0, 1.0))


def outlook(minutes, **changes):
    return look_ahead([methanol()], settings(budget=minutes, **changes), [])


def test_nothing_is_left_out_where_all_fits(second_each):
    free = outlook(None)
    assert free.settings == settings()
    whole = free.estimate.total_s / 60.0
    roomy = outlook(whole + 0.01)
    assert roomy.settings.left_out == ()
    assert (roomy.settings.ps, roomy.settings.replicas) == (5.0, 4)
    assert roomy.estimate == free.estimate
    assert len(free.lines) == len(roomy.lines) == 1


def test_scans_go_first_then_replicas_then_length(second_each):
    free = outlook(None)
    scans = outlook((free.estimate.total_s - 1) / 60.0)
    assert [line.split(":")[0] for line in scans.settings.left_out] == [
        "bond_scan and contact_scan"
    ]
    assert "all but 2 pairs of atoms" in scans.settings.left_out[0]
    assert scans.estimate.static_evaluations < free.estimate.static_evaluations
    assert (scans.settings.ps, scans.settings.replicas) == (5.0, 4)

    fewer = outlook((free.estimate.total_s - 30_000) / 60.0)
    assert fewer.settings.left_out[1] == "replicas: 2 of 4 at each temperature"
    assert len(fewer.settings.left_out) == 2
    assert fewer.settings.ps == 5.0

    least = 10 + fewer.estimate.static_evaluations
    shorter = outlook((least + 2 * 1000) / 60.0)
    assert shorter.settings.replicas == 1
    assert shorter.settings.ps == pytest.approx(0.5, abs=1e-3)
    assert shorter.settings.left_out[2] == "length: 4.5 of 5 ps of each replica"
    for trimmed, minutes in ((scans, None), (fewer, None), (shorter, (least + 2000) / 60.0)):
        assert trimmed.estimate.total_s <= 60.0 * (minutes or trimmed.settings.budget)
        assert trimmed.lines[1].startswith("left out to fit ")
        assert len(trimmed.lines) == 2


def test_a_budget_that_suffices_for_nothing_says_so(second_each):
    tiny = outlook(0.1)
    assert (tiny.settings.replicas, tiny.settings.steps) == (1, 10)
    assert tiny.estimate.total_s > 6
    assert tiny.lines[2].startswith("0.1 min are too few: what is left takes ")


def test_a_trimmed_run_is_told_everywhere_and_stays_honest(second_each):
    lines = []
    report = check_stability(
        copper(),
        temperature=300.0, ps=2.0, replicas=2, relax_steps=0, static=False, budget=1.0,
        tell=lines.append,
    )  # fmt: skip
    assert report.settings["left_out"] == [
        "replicas: 1 of 2 at each temperature",
        "length: 1.97 of 2 ps of each replica",
    ]
    assert report.settings["budget"] == 1.0
    assert report.verdict == "inconclusive"
    assert "0.03 ps at 300 K: 1 ps are needed" in report.reason
    words = "left out to fit 1 min: replicas: 1 of 2 at each temperature; length: 1.97 of 2 ps"
    assert words in lines[1]
    assert words in report.summary()
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    page = Page(render_stability_report([record]))
    assert words.replace("left", "Left") in page.text


def test_without_a_budget_nothing_is_said_of_one():
    report = check_stability(copper(), temperature=300.0, ps=0.02, static=False, relax_steps=0)
    assert report.settings["left_out"] == []
    assert "left out" not in report.summary()
    assert "Left out" not in Page(render_stability_report([report.to_dict()])).text


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_positive_time(minutes):
    with pytest.raises(UserError, match=r"budget: .* (greater than 0|a finite number) \("):
        check_stability(copper(), temperature=300.0, ps=0.02, budget=minutes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    save_potential(
        tiny_mace((1, 6, 8), hidden_irreps="4x0e", num_bessel=3), folder / "m.safetensors"
    )
    write(folder / "m.xyz", molecule("CH3OH"))
    return folder


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--budget", "0"], "budget: Input should be greater than 0 (got 0.0)"),
        (["--budget", "nan"], "budget: Input should be a finite number (got nan)"),
        (["--budget", "1", "--scheduler", "tcp://none:1"], "does not go with --scheduler"),
        (["--budget", "1", "--trajectory", "t.traj"], "does not go with --trajectory"),
    ],
)
def test_bad_budgets_are_refused_in_one_line(cli, files, more, words):
    code, _, err = cli("stability", files / "m.safetensors", files / "m.xyz", *more)
    assert code != 0
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_the_terminal_says_how_long_and_what_not(cli, files):
    arguments = ["stability", files / "m.safetensors", files / "m.xyz", "--no-blame"]
    _, out, err = cli(*arguments, "--budget", "0.02", "--replicas", "3")
    assert err.startswith("about ")
    assert "\nleft out to fit 0.02 min: " in err
    assert "before MD" in err
    assert "left out to fit 0.02 min: " in out
    _, _, err = cli(*arguments, "--ps", "0.01", "--quiet")
    assert err == ""


# --- who decided ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curled():
    return check_stability(
        copper(Curl(EMT(), axis=(0.0, 0.0, 5e-3))), temperature=300.0, ps=0.2, replicas=2,
        timestep=2.0,
    )  # fmt: skip


def test_a_look_before_md_is_said_to_have_decided(curled):
    assert curled.verdict == "unstable"
    assert curled.failed_replicas == 0
    assert curled.reason.startswith("before MD, work: the forces are not the gradient")
    assert curled.reason.endswith("; the 2 runs of MD met no failure (0.4 ps)")
    assert "do not take it back" in curled.meaning
    first, second, *_ = curled.summary().splitlines()
    assert first == f"unstable: {curled.reason}"
    assert second == curled.meaning
    assert "work at 0" not in curled.summary()


def test_the_page_says_so_too(curled):
    page = Page(render_stability_report([curled.to_dict()]))
    for words in (
        curled.reason[1:],
        curled.meaning,
        "The model is to blame: it fails before MD, where no time step is in play.",
    ):
        assert words in page.text
    assert "at 0 fs" not in page.text


def test_a_relaxation_that_fails_leaves_no_md():
    report = check_stability(
        ethanol(), Torn(), temperature=300.0,
        ps=0.1,
    )  # fmt: skip
    assert report.verdict == "unstable"
    assert report.reason.startswith("before MD, ")
    assert report.reason.endswith("; no MD was run")
    assert "take it back" not in report.meaning
    assert report.meaning


class Torn(Calculator):
    """Pushes all atoms apart."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        arms = self.atoms.positions - self.atoms.positions.mean(axis=0)
        self.results = {"energy": -2.5 * float((arms**2).sum()), "forces": 5.0 * arms}


def test_md_that_fails_is_said_to_have_decided():
    report = check_stability(
        ethanol(), NaNSprings(ethanol()), temperature=300.0, ps=0.3, static=False, blame=False
    )
    assert report.reason.startswith("1 of 1 replicas failed; ")
    assert report.meaning == ""


def test_a_second_question_after_md_is_no_look_before_it():
    finding = Finding("repeatable", "fail", "the potential answers differently")
    early = [StaticCheckResult("repeatable", status="failed")]
    assert decide([finding], [], [], [], 1.0)[1].startswith("asked again after MD, repeatable: ")
    assert decide([finding], [], [], [], 1.0, early)[1].startswith("before MD, repeatable: ")


def test_a_potential_that_fails_once_when_it_is_timed_is_unstable():
    class Once(EMT):
        asked = 0

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            type(self).asked += 1
            if type(self).asked == 2:
                raise ValueError("no convergence")

    lines = []
    report = check_stability(
        copper(Once()), temperature=300.0, ps=0.02, static=False, relax_steps=0, tell=lines.append
    )
    assert report.verdict == "unstable"
    assert "no convergence" in report.reason
    assert report.provenance["estimate"] is None
    assert lines == ["no estimate: the potential fails when it is timed"]
