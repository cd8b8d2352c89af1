"""Reduced forms of the long benchmarks: that they run, and that their signs are right."""

import importlib.util
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

import pytest
from shared_data import shared_file

from ase_ws import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.frames import read_frames
from ase_ws.training import evaluate_potential, finetune

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Load a script of the benchmarks' folder as a module."""

    def load(name):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        # Its functions go to worker processes by name.
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_direct_forces_are_drawn_to_the_energy(tmp_path):
    """Second-order PITC and PISC on ethanol: more consistent, better energies."""
    frames = read_frames(str(shared_file("rmd17/ethanol_train.xyz")) + "@:60")
    test = read_frames(str(shared_file("rmd17/ethanol_test.xyz")) + "@:100")
    errors = {}
    for kind in ("none", "both"):
        result = finetune(
            frames[:40],
            frames[40:],
            config={
                "model": {"forces": "direct", "hidden_irreps": "16x0e+16x1o"},
                "weak": {"kind": kind},
                "optimizer": {"max_steps": 60},
            },
            out=tmp_path / kind,
        )
        errors[kind] = evaluate_potential(result.potential, test).metrics
    key = "force_consistency_rmse_mev_per_angstrom"
    assert errors["both"][key] < 0.7 * errors["none"][key]


@pytest.fixture
def step_cost(benchmark, monkeypatch):
    """Give the ratios of a small cost benchmark, for a number of rounds."""
    shared_file("rmd17/ethanol_train.xyz")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    module = benchmark("step_cost")
    setting = module.Setting("ethanol", "direct", "cpu", n_frames=6)
    cases = module.cases(setting)

    def ratios(rounds):
        times = module.measure(cases, rounds=rounds, device="cpu", warm_up=6)
        assert {name: len(each) for name, each in times.items()} == dict.fromkeys(cases, rounds)
        return {what: median for what, median, *_ in module.ratios(times)}

    return ratios


def test_every_case_of_the_cost_benchmark_runs(step_cost):
    assert {"PITC / (supervised + energy only)", "lists rebuilt / kept"} <= step_cost(1).keys()


@pytest.mark.wall_clock
def test_steps_cost_what_their_parts_cost(step_cost):
    """Generous bounds, for machines are noisy."""
    found = step_cost(7)
    assert found["PITC / (supervised + energy only)"] < 2
    assert found["lists rebuilt / kept"] > 0.8


@pytest.fixture
def runner(benchmark, monkeypatch, tmp_path):
    """Give the runner, with its results in a folder of the test's own."""
    module = benchmark("runner")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def test_a_killed_benchmark_goes_on(runner, tmp_path):
    cases = [{"x": k} for k in range(3)]
    done = {"case": {"x": 1}, "double": -1, "seconds": 0.0, "versions": {}}
    (tmp_path / "toy.jsonl").write_text(json.dumps(done) + "\n")
    found = runner.run_cases("toy", _double, cases)
    # What was done is not done again: its odd value stands.
    assert [r["double"] for r in found] == [0, -1, 4]
    assert len((tmp_path / "toy.jsonl").read_text().splitlines()) == 3
    assert all("torch" in r["versions"] for r in found if r["case"]["x"] != 1)


def test_a_line_that_a_kill_cut_short_is_run_again(runner, tmp_path):
    done = {"case": {"x": 1}, "double": -1, "seconds": 0.0, "versions": {}}
    (tmp_path / "toy.jsonl").write_text(json.dumps(done) + "\n" + '{"case": {"x": 2}, "dou')
    assert len(runner.read_results("toy")) == 1
    found = runner.run_cases("toy", _double, [{"x": 1}, {"x": 2}])
    assert [r["double"] for r in found] == [-1, 4]
    assert len((tmp_path / "toy.jsonl").read_text().splitlines()) == 2


def test_a_killed_worker_is_no_endless_wait(runner):
    with pytest.raises(UserError, match=r"toy was killed .* the same command again"):
        runner.run_cases("toy", _die, [{"x": 1}])
    assert runner.read_results("toy") == {}


def test_a_run_that_fails_ends_the_benchmark_and_what_was_done_is_kept(runner, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(ZeroDivisionError):
        runner.run_cases("toy", _divide, [{"x": 1}, {"x": 0}, {"x": -1}])
    assert [r["case"]["x"] for r in runner.read_results("toy").values()] == [1]


def test_when_its_time_is_over_a_benchmark_gives_up_what_is_running(runner):
    # The case sleeps for good: that this ends at all is the test.
    found = runner.run_cases("toy", _divide, [{"x": -1}], until=time.monotonic() + 2)
    assert found == []


def _double(case):
    return {"double": 2 * case["x"]}


def _die(_case):
    os.kill(os.getpid(), signal.SIGKILL)


def _divide(case):
    """Give 1/x; negative ones take ten minutes."""
    if case["x"] < 0:
        time.sleep(600)
    return {"inverse": 1 / case["x"]}


@pytest.mark.wall_clock
def test_md_is_faster_than_upstreams(benchmark, monkeypatch):
    """Steps per second on ethanol, one by one and in replicas; far below what is measured."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    module = benchmark("md_speed")
    atoms, potential = module.structures()["ethanol"], module.potential_for("ethanol")
    runs = {
        "ours": module.md(atoms, PotentialCalculator(potential), 10),
        "upstream": module.md(atoms, module.upstream(potential), 10),
        "replicas": module.replicas(atoms, potential, n=16, steps=10),
    }
    medians = {k: statistics.median(v) for k, v in module.in_turn(runs, 5).items()}
    assert medians["upstream"] > 1.2 * medians["ours"]
    assert medians["upstream"] > 2.0 * medians["replicas"]


def test_the_table_of_model_speeds_is_of_its_results(benchmark):
    module = benchmark("model_speed")
    assert module.tables() in module.README.read_text(encoding="utf-8")
    # What is timed is a liquid, not molecules on top of each other.
    for atoms in module.structures((1, 6, 8)).values():
        distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
        assert distances[distances > 0].min() > 0.9
