"""The labelled cases: their bookkeeping, and a handful of them run through the suite."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ase_ws.errors import UserError
from ase_ws.stability.checks.defaults import default_checks

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def cases():
    """The benchmark's script as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("stability_cases")
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in ("cases", "case", "good", "bad", "blind", "blind3", "near"):
            sys.modules.pop(f"stability_{name}", None)


def test_the_labels_are_sound(cases):
    """As many cases as promised; every check named exists; the blame is one the suite gives."""
    known = {check.name for check in default_checks()} | {"calculator", "relaxation"}
    known |= sys.modules["stability_case"].STATIC
    causes = {"model", "timestep", "precision", "starting structure"}
    bad = [case for case in cases.CASES.values() if case.checks]
    assert len(bad) >= 20 and len(cases.CASES) - len(bad) >= 20
    assert sum(case.after_thresholds for case in cases.CASES.values()) == 20
    assert {case.blame for case in bad} == causes
    for case in cases.CASES.values():
        assert case.name.startswith("bad_" if case.checks else "good_")
        assert case.checks <= known
        assert (case.blame is None) == (not case.checks)
        assert case.replicas * case.ps >= 1.0
        assert len(case.atoms()) > 1


QUICK = [
    "good_ar_nve",
    "good_cu_nvt",
    "bad_hole_metal",
    "bad_nan",
    "bad_wrong_sign",
    "bad_unit_small",
    "bad_stress_sign",
    "bad_stale",
    "bad_slow_heating",
    "bad_timestep_metal",
    "bad_start_crystal",
]


@pytest.mark.parametrize("name", QUICK)
def test_good_and_bad_are_told_apart(cases, name):
    case = cases.CASES[name]
    if not case.available:
        pytest.skip(f"{case.needs} is not installed")
    found = cases.run_case(case)
    assert found["verdict"] == case.verdict, found["reason"]
    assert found["right_check"] in (None, True), found["failed"]
    if found["blame"] is not None:
        assert found["blame"] == case.blame


def test_what_was_run_is_not_run_again(cases, monkeypatch, tmp_path):
    ran = []

    def run(name):
        ran.append(name)
        return {"case": name, "verdict": "stable", "seconds": 0.0}

    monkeypatch.setattr(cases, "run_one", run)
    chosen = [cases.CASES["good_cu_nvt"], cases.CASES["bad_stale"]]
    journal = tmp_path / "results" / "cases.jsonl"
    arguments = {"workers": 1, "journal": journal}
    cases.run_cases(chosen[:1], fresh=False, **arguments)
    found = cases.run_cases(chosen, fresh=False, **arguments)
    assert ran == ["good_cu_nvt", "bad_stale"]
    assert [result["case"] for result in found] == ran
    assert len(journal.read_text().splitlines()) == 2
    # Other code, or --fresh: all is run again.
    cases.run_cases(chosen[:1], fresh=True, **arguments)
    assert len(ran) == 3
    monkeypatch.setattr(cases, "code_version", lambda: "other")
    cases.run_cases(chosen[:1], fresh=False, **arguments)
    assert len(ran) == 4
    versions = [json.loads(line)["version"] for line in journal.read_text().splitlines()]
    assert versions[-1] == "other" != versions[0]


def test_a_case_that_is_refused_is_a_miss(cases, monkeypatch):
    """A user's error in one case must not end the benchmark."""

    def raises(case):
        raise UserError("no such element")

    monkeypatch.setattr(cases, "run_case", raises)
    found = cases.run_one("good_cu_nvt")
    assert found["verdict"] == "refused"
    assert cases.misses([found]) == ["good_cu_nvt: refused, should be stable (no such element)"]
    cases.print_tables([found])


def test_misses_are_named(cases):
    base = {"case": "x", "reason": "why", "failed": ["drift"], "right_check": None}
    right = {**base, "verdict": "stable", "wanted": "stable", "blame": None, "wanted_blame": None}
    assert cases.misses([right]) == []
    alarm = {**right, "verdict": "unstable"}
    assert cases.misses([alarm]) == ["x: unstable, should be stable (why)"]
    other = {**alarm, "wanted": "unstable", "right_check": False, "wanted_blame": "model"}
    assert cases.misses([other]) == ["x: caught by drift only"]
    wrong = {**other, "right_check": True, "blame": "timestep"}
    assert cases.misses([wrong]) == ["x: blames timestep, not model"]


def test_static_failures_count_as_caught(cases):
    """A suite that has static checks tells of them in `static`, or among its failures."""
    finding = SimpleNamespace(check="drift")
    for status, names in (("failed", {"drift", "work"}), ("warned", {"drift"})):
        static = SimpleNamespace(name="work", status=status)
        report = SimpleNamespace(failures=[finding], static=[static])
        assert cases.failed_checks(report) == names
    assert cases.failed_checks(SimpleNamespace(failures=[finding])) == {"drift"}
