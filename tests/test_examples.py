"""The examples a newcomer would copy run, in a shortened form."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "md_examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {
        "compare_two_models",
        "finetune_then_check",
        "judge_a_potential",
        "many_replicas",
        "npt_of_silicon",
        "nve_and_nvt_with_checks",
        "relax_with_a_potential",
        "resume_a_run",
        "stop_where_a_committee_disagrees",
        "thermal_ramp",
        "vibrations_and_entropy",
    }


def test_relax(capsys):
    largest = load("relax_with_a_potential").main()
    assert largest <= 0.01
    assert "largest force" in capsys.readouterr().out


def test_nve_and_nvt(capsys):
    nve, nvt = load("nve_and_nvt_with_checks").main(picoseconds=0.1)
    assert nve.stopped_by is None
    assert nvt.stopped_by is None
    conserved = nve.traces["conserved_ev_per_atom"]
    # NVE of a smooth potential at 0.5 fs: the total energy only fluctuates.
    assert np.ptp(conserved) < 5e-3
    # The kinetic energy must do more than that, or nothing was tested.
    assert np.ptp(nve.traces["kinetic_ev_per_atom"]) > 1e-2
    assert "ns/day" in capsys.readouterr().out


def test_finetune_then_check(tmp_path, capsys):
    report = load("finetune_then_check").main(tmp_path / "run", steps=20, picoseconds=0.05)
    # Too short to say more; the verdict must admit it.
    assert report.verdict == "inconclusive"
    assert report.total_ps == pytest.approx(0.05)
    out = capsys.readouterr().out
    assert "held-out frames" in out
    assert "inconclusive" in out


def test_vibrations(capsys):
    wavenumbers = load("vibrations_and_entropy").main()
    assert len(wavenumbers) == 12
    assert wavenumbers[0] > 100
    assert "entropy" in capsys.readouterr().out


def test_npt():
    result = load("npt_of_silicon").main(picoseconds=0.1)
    assert result.stopped_by is None
    # Silicon has 20 Å³ an atom.
    assert result.traces["volume_a3"][-1] / 64 == pytest.approx(20, abs=1)


def test_thermal_ramp():
    assert load("thermal_ramp").main(temperatures=(300.0, 600.0), picoseconds=0.05) == 600.0


def test_many_replicas(capsys):
    results = load("many_replicas").main(seeds=1, picoseconds=0.02)
    assert len(results) == 4
    assert all(r.stopped_by is None for r in results)
    assert "ns/day over all" in capsys.readouterr().out


def test_committee(tmp_path, capsys):
    # Members of five steps hardly differ; `test_committee_guarded` has the stop itself.
    result = load("stop_where_a_committee_disagrees").main(tmp_path, steps=5, md_steps=20)
    assert result.stopped_by is None
    assert "no atom's forces spread by more than 0.6" in capsys.readouterr().out


def test_compare(capsys):
    reports = load("compare_two_models").main(picoseconds=0.02)
    assert len(reports) == 2
    assert capsys.readouterr().out.count("stretch") == 2


def test_resume(tmp_path, capsys):
    load("resume_a_run").main(tmp_path, steps=40)
    assert "the same floats" in capsys.readouterr().out


def test_judge(tmp_path, capsys):
    good, bad = load("judge_a_potential").main(picoseconds=0.02, out=tmp_path)
    # Too short for a verdict on the good one; the curl is seen without any MD.
    assert good.verdict == "inconclusive"
    assert bad.verdict == "unstable"
    assert {finding.check for finding in bad.failures} >= {"work"}
    assert "with a curl" in (tmp_path / "report.html").read_text()
    assert "blame: model" in capsys.readouterr().out
