"""The demonstration, shortened: every stage runs, and what it writes holds what it found."""

import json

import pytest

from ase_ws.demo.run import DemoSettings, run_demo
from ase_ws.demo.sentences import findings
from ase_ws.errors import UserError

SHORT = DemoSettings(n_train=10, n_valid=5, steps=12, temperatures=(300.0,), ps=0.02)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(out, SHORT, command="ase-ws demo")


def test_it_writes_report_results_and_models(demo):
    out, results = demo
    written = json.loads((out / "results.json").read_text())
    assert [m["key"] for m in written["models"]] == [
        "base", "supervised", "weak", "gauss_newton",
    ]  # fmt: skip
    assert written["findings"] == results["findings"]
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    for name in ("supervised", "weak", "gauss_newton"):
        assert (out / name / "model.safetensors").is_file()


def test_the_models_differ_and_were_tested_on_frames_with_forces(demo):
    _, results = demo
    errors = {m["key"]: m["errors"] for m in results["models"]}
    assert all(e["n_frames"] >= 50 for e in errors.values())
    assert len({e["forces_rmse_mev_per_angstrom"] for e in errors.values()}) == 4
    # The base model at the new level's E0 is a fair start: no offset of hundreds of meV.
    assert errors["base"]["energy_rmse_mev_per_atom"] < 20


def test_twenty_femtoseconds_are_not_called_stable(demo):
    _, results = demo
    for model in results["models"][1:]:
        assert [r["verdict"] for r in model["stability"]] == ["inconclusive"]


def test_an_earlier_demonstration_is_not_overwritten(demo):
    out, _ = demo
    with pytest.raises(UserError, match="not empty"):
        run_demo(out, SHORT)


def _models(supervised, weak):
    def model(key, energy, forces):
        return {
            "key": key,
            "name": key,
            "errors": {"energy_rmse_mev_per_atom": energy, "forces_rmse_mev_per_angstrom": forces},
            "stability": [
                {"verdict": "stable", "total_ps": 1.0, "temperatures": [{"temperature": 300.0}]}
            ],
        }

    return [model("base", 10.0, 200.0), model("supervised", *supervised), model("weak", *weak)]


def test_findings_say_what_the_closed_form_did():
    models = _models((2.0, 100.0), (2.0, 100.0))
    closed = {**models[1], "key": "gauss_newton", "name": "closed"}
    closed["errors"] = {"energy_rmse_mev_per_atom": 1.5, "forces_rmse_mev_per_angstrom": 100.0}
    said = [*findings(models), *findings([*models, closed])]
    assert sum("The closed form lowered the energy error" in s for s in said) == 1
    assert sum("'closed'" in s for s in said) == 1


@pytest.mark.parametrize(
    ("weak", "said"),
    [
        ((2.02, 101.0), "brought nothing"),
        ((2.0, 120.0), "made an error worse"),
        ((1.5, 80.0), "lowered the force error"),
    ],
)
def test_findings_say_what_the_weak_losses_did(weak, said):
    text = " ".join(findings(_models((2.0, 100.0), weak)))
    assert said in text
    assert ("brought nothing" in text) == (said == "brought nothing")
    assert ("worse" in text) == (said == "made an error worse")
