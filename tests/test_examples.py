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
    assert names == {"relax_with_a_potential", "nve_and_nvt_with_checks", "finetune_then_check"}


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
