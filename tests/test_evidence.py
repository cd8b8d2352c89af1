"""The evidence: its design, its tables, and a reduced form that asserts the signs."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from shared_data import SHARED, shared_file

from ase_ws.calculators import PotentialCalculator
from ase_ws.frames import frame_from_atoms, read_frames

BENCHMARKS = Path(__file__).parent / "benchmarks"
MODULES = (
    "case",
    "claims",
    "data",
    "design",
    "figures",
    "report",
    "selection",
    "spreads",
    "tables",
)


@pytest.fixture
def evidence(monkeypatch):
    """Import a module of the evidence by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "evidence"))

    def load(name):
        return __import__(name)

    yield load
    for name in (*MODULES, "runner"):
        sys.modules.pop(name, None)


def result(case, energy, forces=None, valid_loss=1.0):
    errors = {"energy_mev": energy, "forces_mev_per_angstrom": forces}
    return {"case": case, "tests": {"test": errors}, "valid_loss": valid_loss, "seconds": 36.0}


def group(evidence, **changes):
    settings = {"title": "t", "why": "w", "set": ["ethanol"], "n": [20], "steps": [10]}
    return evidence("design").Group.model_validate(
        {**settings, "method": ["supervised", "noisy nodes"], **changes}
    )


def test_the_design_is_read_and_its_cases_can_be_configured(evidence):
    """Every run that is planned has a configuration that `ase-ws finetune` takes."""
    from ase_ws.training import FinetuneConfig

    design = evidence("design").load_design()
    for g in design.groups.values():
        assert {*g.tries} <= {*g.method}
        assert {*g.method} <= {*design.methods}
        for case in evidence("selection").tuning(g):
            config = evidence("case").config_of(evidence("design").plain(case), "energy")
            if case["start"] != "scratch":
                config["model"]["base"] = "b"
            FinetuneConfig.model_validate(config).resolved(
                has_forces=case["labels"] != "energy",
                conservative=case["forces"] == "conservative",
            )
    for claim in design.claims:
        assert claim.group in design.groups
        assert claim.method in design.groups[claim.group].method


def test_seeds_come_outermost(evidence):
    cases = group(evidence, n=[20, 50]).cases()
    assert [c["seed"] for c in cases] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_method_may_differ_and_combinations_be_left_out(evidence):
    g = group(
        evidence,
        n=[20, 50],
        changes=[{"when": {"method": "noisy nodes"}, "to": {"steps": 5}}],
        skip=[{"n": 50, "method": "noisy nodes"}],
    )
    steps = {(c["n"], c["method"]): c["steps"] for c in g.cases()}
    assert steps == {(20, "supervised"): 10, (20, "noisy nodes"): 5, (50, "supervised"): 10}


def test_the_best_try_by_validation_goes_on(evidence):
    """Not the one with the best test error, and never one that broke off."""
    g = group(evidence, tries={"noisy nodes": [{"strength": s} for s in (0.1, 1.0, 10.0)]})
    selection = evidence("selection")
    tries = [c for c in selection.tuning(g) if c["method"] == "noisy nodes"]
    assert [c["seed"] for c in tries] == [0, 0, 0]
    plain = evidence("design").plain
    losses = (2.0, 1.0, None)
    done = [
        result(plain(c), e, valid_loss=v)
        for c, e, v in zip(tries, (5.0, 7.0, 1.0), losses, strict=True)
    ]
    chosen = [c for c in selection.chosen(g, done) if c["method"] == "noisy nodes"]
    assert [(c["seed"], c["strength"]) for c in chosen] == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert not [c for c in selection.chosen(g, done[:1]) if c["method"] == "noisy nodes"]


def test_runs_that_broke_off_stand_in_a_table_of_their_own(evidence):
    g = group(evidence, seed=[0])
    plain, report = evidence("design").plain, evidence("report")
    good, bad = (result(plain(c), 1.0) | {"cpu_seconds": 1.0} for c in g.cases())
    bad |= {"failed": "the loss became NaN", "tests": {}, "valid_loss": None}
    del bad["cpu_seconds"]
    found = report.collect(g, {0: good, 1: bad})
    assert [set(by_method) for _, by_method in found] == [{"supervised"}]
    assert "supervised" in report.group_table(g, found)
    assert "the loss became NaN" in evidence("tables").failures([bad])


def test_what_a_group_lacks_is_named(evidence, monkeypatch, tmp_path):
    data = evidence("data")
    monkeypatch.setattr(data, "RUNS", tmp_path)
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    assert data.missing("other molecules", "methanol") is None
    assert "tblite" in data.missing("cheap level", "methanol")
    monkeypatch.setattr(data, "find_spec", lambda name: object())
    assert data.missing("cheap level", "methanol") is None
    gone = data.Set(tmp_path / "gone.xyz", {})
    monkeypatch.setitem(data.SETS, "methanol", gone)
    assert "gone.xyz" in data.missing("scratch", "methanol")


def test_runs_on_a_gpu_are_said_to_be(evidence):
    elsewhere = evidence("tables").elsewhere
    assert elsewhere([{}, {"device": "CPU"}]) == ""
    assert elsewhere([{}, {"device": "X1"}, {"device": "X1"}]) == ", 2 of them on an X1"


def test_ratios_are_of_pairs(evidence):
    spreads = evidence("spreads")
    mine = [result({"seed": s}, e) for s, e in ((0, 2.0), (1, 8.0), (2, 1.0))]
    other = [result({"seed": s}, e) for s, e in ((1, 4.0), (0, 4.0))]
    ratio = spreads.ratio(mine, other, "test", "energy_mev")
    assert ratio.mean == pytest.approx(1.0)
    assert (ratio.low, ratio.high) == pytest.approx((0.5, 2.0))
    assert spreads.ratio(mine, [], "test", "energy_mev") is None


def test_equal_values_have_no_range(evidence):
    """Their mean, rounded, may lie outside of it, and a figure's bars must not be negative."""
    value = 490.5483342537842
    assert evidence("spreads").spread([value] * 3) == (value, value, value)


def test_worst_and_best_of_a_grid_need_all_of_it(evidence):
    """Over the seeds that are complete; a cell that is missing is not passed over."""
    g = group(
        evidence,
        kind="grid",
        learning_rate=[1e-3, 3e-3],
        steps=[10, 20],
        method=["supervised", "noisy nodes", "gauss-newton"],
        tries={"noisy nodes": [{"strength": 0.1}]},
        changes=[
            {"when": {"method": "gauss-newton"}, "to": {"steps": None, "learning_rate": None}}
        ],
        seed=[0, 1],
    )
    plain = evidence("design").plain
    done = {}
    for case in map(plain, evidence("selection").tuning(g)):
        done[str(case)] = result(case, 1.0, forces=100.0)
    for case in map(plain, evidence("selection").chosen(g, done.values())):
        force = {10: 100.0, 20: 200.0, None: 90.0}[case.get("steps")]
        force += 1e4 * (case.get("learning_rate") or 0.0) + 10 * case["seed"]
        force *= 2 if case["method"] == "noisy nodes" else 1
        done[str(case)] = result(case, 1.0, forces=force)
    assert len(done) == 8 + 8 + 2
    collect, quantity = evidence("report").collect, "forces_mev_per_angstrom"
    problem = ("ethanol", "scratch", "energy+forces", 20)

    def extremes():
        return evidence("tables").extremes(collect(g, done), quantity)[problem]

    assert extremes()["supervised"] == (235.0, 115.0, 235.0, 115.0, 2)
    assert extremes()["noisy nodes"] == (470.0, 230.0, 235.0, 115.0, 2)
    assert extremes()["gauss-newton"] == (95.0, 95.0, 235.0, 115.0, 2)
    cells = collect(g, done)
    assert [len(by["gauss-newton"]) for _, by in cells] == [2] * 4
    seconds = [
        k for k, r in done.items() if r["case"]["seed"] == 1 and r["case"].get("steps") == 20
    ]
    del done[next(k for k in seconds if "supervised" in k)]
    assert extremes()["noisy nodes"] == (460.0, 220.0, 230.0, 110.0, 1)
    assert extremes()["gauss-newton"] == (90.0, 90.0, 230.0, 110.0, 1)


def test_a_claim_that_fails_says_so(evidence):
    """And of the cells planned only those count that its method is run in."""
    module = evidence("design")
    g = group(evidence, n=[20, 50], skip=[{"method": "noisy nodes", "n": 50}])
    claim = {"says": "x", "group": "g", "method": "noisy nodes", "what": "energy", "at_most": 0.5}
    design = module.Design(methods={}, groups={"g": g}, claims=[claim])
    by_method = {
        "supervised": [result({"seed": 0}, 10.0)],
        "noisy nodes": [result({"seed": 0}, 8.0)],
    }
    text = evidence("claims").table(design, {"g": [(g.cells()[0], by_method)]})
    assert "0.800 (ethanol, 20 labels)" in text
    assert "0 of 1 measured, 1 planned | 1 |" in text
    assert "not measured" in evidence("claims").table(design, {"g": []})


def test_results_and_readme_are_what_the_runs_on_file_give(evidence):
    """Nothing is typed by hand: writing them again changes nothing."""
    report, read = evidence("report"), evidence("runner").read_results
    design, done = evidence("design").load_design(), read("evidence")
    found = {name: report.collect(g, done) for name, g in design.groups.items()}
    page = report.results_page(design, found, done)
    assert (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8") == page
    readme = report.README.read_text(encoding="utf-8")
    assert report.MARK.findall(readme)
    assert report.filled(readme, design, found) == readme


def test_what_was_trained_on_is_not_tested_on(evidence, monkeypatch, tmp_path):
    """Nor the same turned; where no forces can be compared, the same frame alone is left out."""
    data = evidence("data")
    atoms = molecule("CH3OH")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=0.1 * atoms.positions)
    turned, other = atoms.copy(), atoms.copy()
    turned.rotate(40, "x")
    turned.calc = SinglePointCalculator(turned, energy=-1.0, forces=0.1 * turned.positions)
    other.calc = SinglePointCalculator(other, energy=-1.0, forces=0.2 * other.positions)
    bare = [atoms.copy(), turned.copy()]
    for copy in bare:
        copy.calc = SinglePointCalculator(copy, energy=-1.0)
    write(tmp_path / "train.xyz", [atoms])
    write(tmp_path / "test.xyz", [atoms, turned, other])
    write(tmp_path / "bare.xyz", bare)
    files = {"test": tmp_path / "test.xyz", "bare": tmp_path / "bare.xyz"}
    monkeypatch.setitem(data.SETS, "methanol", data.Set(tmp_path / "train.xyz", files))
    (kept,) = data.test_frames("methanol")["test"]
    assert kept.forces == pytest.approx(0.2 * other.positions)
    (kept,) = data.test_frames("methanol")["bare"]
    assert kept.positions == pytest.approx(turned.positions)


@pytest.mark.parametrize("periodic", [False, True])
def test_errors_are_of_molecules_or_of_atoms_of_crystals(evidence, periodic, small_mace):
    """Energies off by 6 meV a structure of two atoms."""
    atoms = Atoms("H2", [(0, 0, 0), (0, 0, 0.8)], cell=3 * [9.0], pbc=periodic)
    atoms.calc = PotentialCalculator(small_mace)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    frame = frame_from_atoms(atoms)
    frame = replace(frame, energy=energy + 0.006, forces=forces + 0.002)
    found = evidence("case").errors(small_mace, [frame])
    assert found["energy_mev"] == pytest.approx(3.0 if periodic else 6.0, rel=1e-3)
    assert found["forces_mev_per_angstrom"] == pytest.approx(2.0, rel=1e-3)


def test_labels_are_drawn_apart_from_validation_and_by_seed(evidence):
    data = evidence("data")
    (train, valid), (other, _) = data.draw("methanol", 20, 0), data.draw("methanol", 20, 1)
    sources = {f.source for f in train}
    assert (len(train), len(valid)) == (20, 10)
    assert not sources & {f.source for f in valid}
    assert sources != {f.source for f in other}
    with pytest.raises(ValueError, match="300 there"):
        data.draw("methanol", 290, 0)


@pytest.mark.parametrize("name", ["acac", "ethanol"])
def test_labels_are_none_of_the_frames_of_the_base_model(evidence, name):
    data = evidence("data")
    path = shared_file(str(data.SETS[name].train.relative_to(SHARED)))
    of_base = {f.source for f in read_frames(path)[-data.BASE_FRAMES :]}
    assert len(of_base) == data.BASE_FRAMES
    train, valid = data.draw(name, 100, 0, "cheap level")
    assert not of_base & {f.source for f in (*train, *valid)}


def test_reduced_weak_losses_pay_for_direct_forces(evidence):
    """The signs: better energies, forces closer to -dE/dr."""
    shared_file("rmd17/ethanol_train.xyz")
    case = {"set": "ethanol", "forces": "direct", "n": 50, "seed": 0, "steps": 300, "batch": 5}
    evidence("data").MOST_TEST_FRAMES = 100
    run = evidence("case").run
    plain = run({**case, "method": "supervised"})["tests"]["test"]
    for method in (
        {"method": "PITC + PISC, order 2", "strength": 10.0},
        {"method": "gradient"},
        {"method": "gradient and labels"},
    ):
        weak = run({**case, **method})["tests"]["test"]
        assert weak["energy_mev"] < plain["energy_mev"]
        assert weak["consistency_mev_per_angstrom"] < 0.6 * plain["consistency_mev_per_angstrom"]


def test_reduced_energies_alone_from_a_base_model(evidence):
    """The signs: both ways beat the base by far, and Gauss-Newton needs no tuning for it."""
    from ase_ws.data import BASE_MODEL
    from ase_ws.potentials.files import load_potential
    from ase_ws.training import evaluate_potential

    module, data = evidence("case"), evidence("data")
    case = {
        "set": "methanol",
        "start": "other molecules",
        "forces": "conservative",
        "labels": "energy",
        "n": 50,
        "seed": 0,
    }
    test = data.test_frames("methanol")["test"]
    base = evaluate_potential(load_potential(BASE_MODEL), test).metrics
    key = "forces_mev_per_angstrom"
    adam = module.run({**case, "method": "supervised", "steps": 200})["tests"]["test"][key]
    closed = module.run({**case, "method": "gauss-newton"})["tests"]["test"][key]
    assert adam < 0.7 * base["forces_rmse_mev_per_angstrom"]
    assert closed < 0.5 * base["forces_rmse_mev_per_angstrom"]


def test_a_run_is_judged_by_md(evidence, monkeypatch):
    module = evidence("case")
    monkeypatch.setattr(module, "JURY", {"temperature": (300.0,), "replicas": 2, "ps": 0.02})
    monkeypatch.setattr(module, "NVE", {"temperature": 300.0, "replicas": 4, "ps": 0.1})
    from ase_ws.data import BASE_MODEL
    from ase_ws.potentials.files import load_potential

    found = module.judge(load_potential(BASE_MODEL), "methanol")
    assert found["nvt"] == {"300 K": {"failed": 0, "by": {}, "ps": 0.04}}
    assert len(found["nve_drift_mev_per_atom_ps"]) == 4


def test_direct_forces_are_not_judged_by_what_they_cannot_conserve(
    evidence, monkeypatch, direct_mace
):
    module = evidence("case")
    monkeypatch.setattr(module, "JURY", {"temperature": (300.0,), "replicas": 1, "ps": 0.02})
    monkeypatch.setattr(module, "NVE", {"temperature": 300.0, "replicas": 1, "ps": 0.02})
    from ase_ws import stability
    from ase_ws.stability import check_stability

    asked = []

    def noted(*args, **settings):
        checks = settings["checks"]
        asked.append((settings["ensemble"], {c.name for c in checks}))
        return check_stability(*args, **settings)

    monkeypatch.setattr(stability, "check_stability", noted)
    module.judge(direct_mace, "methanol")
    (_, in_nvt), (_, in_nve) = asked
    assert not {"drift", "fluctuation"} & in_nvt
    assert in_nve == in_nvt | {"drift"}
