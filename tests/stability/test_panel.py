"""The panel of real potentials: its bookkeeping, what a person looks at, and a handful of cases."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.morse import MorsePotential

from ase_ws.testing import bad, good

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODULES = ("stability_panel", "stability_panel_cases", "stability_panel_structures")


@pytest.fixture(scope="module")
def panel():
    """The benchmark's scripts as modules."""
    sys.path.insert(0, str(BENCHMARKS))
    by_hand = "stability_panel_by_hand"
    try:
        script, cases, structures, by_hand = map(importlib.import_module, (*MODULES, by_hand))
        yield SimpleNamespace(script=script, cases=cases, structures=structures, by_hand=by_hand)
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in [name for name in sys.modules if name.startswith("stability_")]:
            del sys.modules[name]


def test_the_panel_is_what_it_says(panel):
    """Cases enough, a third cheap ones at most, and every structure of use."""
    cases, potentials = panel.cases.CASES.values(), panel.cases.POTENTIALS
    assert len(cases) >= 66
    assert 3 * sum(potentials[case.potential].classical for case in cases) <= len(cases)
    assert len(panel.structures.STRUCTURES) >= 30
    assert {case.structure for case in cases} == set(panel.structures.STRUCTURES)
    assert {case.potential for case in cases} == set(potentials)
    for case in cases:
        assert case.expected in {"stable", "unstable", "inconclusive"}
        assert case.why or case.expected == "stable"
        assert 0 < case.timestep <= 4.0


def test_the_structures_are_sane(panel):
    """No two atoms on top of each other, none lost, and small enough to run."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    for name, make in panel.structures.STRUCTURES.items():
        atoms = make()
        i, j, length = neighbor_list("ijd", atoms, 5.0)
        ratio = length / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
        assert len(set(i)) == len(atoms) <= 40, name
        assert ratio.min() > 0.8, name


def test_absent_packages_and_files_are_named(panel, monkeypatch, tmp_path, capsys):
    """What cannot be run is left out with its reason."""
    monkeypatch.setenv(panel.cases.MACE_FILES, str(tmp_path))
    names = ["emt_cu_300", "emim_emim_bf4_300"]
    kept = panel.script.available(names, lambda name: panel.cases.CASES[name].missing)
    assert kept == ["emt_cu_300"]
    assert "emim_bf4_l0_s123.model is not in the folder" in capsys.readouterr().err


def test_nve_tells_a_conservative_potential_from_another(panel):
    """EMT keeps its energy; the same with forces that are not its gradient does not."""
    found = {
        name: panel.by_hand.nve(bulk("Cu", a=3.6, cubic=True) * (2, 1, 1), calculator, 300, 4.0)
        for name, calculator in {
            "kept": good.emt(),
            "lost": bad.SlowHeating(good.emt(), rate=1.0),
        }.items()
    }
    assert abs(found["kept"]["slope"]) < 0.1
    assert found["kept"]["relaxed"] and found["kept"]["stretch"] < 1.2
    assert abs(found["lost"]["slope"]) > 1.0


def test_a_push_finds_the_hole_behind_a_wall_and_none_where_none_is(panel):
    """A wall that turns at 1.0 Å is found there; one that rises to the end is none."""
    dimer = bulk("Cu", a=3.6, cubic=True)[:2]
    dimer.pbc = False
    morse = MorsePotential(epsilon=1.0, r0=2.5, rho0=6.0)
    pair = ("Cu", "Cu")
    assert panel.by_hand.push(dimer, morse, pair) is None
    hole = panel.by_hand.push(dimer, bad.Hole(morse, 1.2, depth=1e5), pair)
    assert hole is not None and 0.9 < hole["turns"] < 1.2
    assert hole["depth"] > 100 and hole["wall"] > 1


def test_coming_down_to_the_minimum_is_no_wall(panel):
    """The start may be up to 30 eV above the minimum: the energy falls there, behind no wall."""
    r = np.arange(3.0, 0.4, -0.02)
    well = 30 * (r - 1.0) ** 2
    assert panel.by_hand.first_top(well) is None
    turned = np.where(r < 0.7, 2.7 - 100 * (0.7 - r), well)
    top = panel.by_hand.first_top(turned)
    assert top is not None and r[top] == pytest.approx(0.7, abs=0.03)


def test_a_killed_panel_goes_on_where_it_was(panel, tmp_path):
    """Results of this version are kept, those of another are run anew."""
    ran = []

    def run(name):
        ran.append(name)
        return {"value": len(ran)}

    journal = tmp_path / "panel.jsonl"
    for version in ("a", "a", "b"):
        results = panel.script.run_all(run, ["x", "y"], journal, 1, version)
        assert list(results) == ["x", "y"]
    assert ran == ["x", "y", "x", "y"]


def test_the_last_results_are_shown(panel, tmp_path):
    """The last of each name, of whatever version; what was never run is left out."""
    journal = tmp_path / "panel.jsonl"
    for k, version in enumerate("ab"):
        panel.script.run_all(lambda name, k=k: {"value": k}, ["x"], journal, 1, version)
    assert [r["value"] for r in panel.script.last(journal, ["x", "y"]).values()] == [1]


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize(
    ("name", "turns"), [("chgnet:Si-Si", 1.1), ("sevennet:Si-Si", 1.16), ("sevennet:Cu-Cu", 1.24)]
)
def test_known_holes_of_real_potentials(panel, name, turns):
    """Two atoms alone: the wall turns where a scan by hand has found it, 10 to 30 eV up."""
    if reason := panel.cases.POTENTIALS[name.split(":")[0]].missing:
        pytest.skip(reason)
    ((_, _, hole),) = panel.script.scanned(name)["holes"]
    assert hole["turns"] == pytest.approx(turns, abs=0.05)
    assert 10 < hole["wall"] < 30 and hole["depth"] > 20


QUICK = [
    "emt_cu_300",
    "emt_al_600",
    "tersoff_diamond_300",
    "sw_si_300",
    "xtb_water_dimer_100",
    # Called unstable once, for the truncation error of finite differences.
    "chgnet_nacl_300",
]


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize("name", QUICK)
def test_verdicts_of_the_quick_cases(panel, name):
    """The suite says what a person says."""
    case = panel.cases.CASES[name]
    if case.missing:
        pytest.skip(case.missing)
    result = panel.script.judged_by_suite(name)
    assert result["verdict"] == case.expected, result["reason"]
    table = "\n".join(panel.script.suite_table({name: result | {"seconds": 1.0}}, {}))
    where = f"{case.potential} | {case.structure} | {case.temperature:.0f}"
    assert f"| {where} | {case.expected} |" in table
