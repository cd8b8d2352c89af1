"""The report page: complete, self-contained, and honest about what is missing."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from pages import (
    HOSTILE,
    Page,
    assert_names_are_unique_and_known,
    assert_self_contained,
    hostile,
    look,
    needs_browser,
    paths,
    replace_numbers,
)
from stability_results import make_run

from ase_ws.errors import UserError
from ase_ws.report import read_results, render_demo_report, write_demo_report
from ase_ws.report.drawing.text import number


def _history(rng, start, end):
    steps = np.linspace(0, 1500, 16)
    decay = end + (start - end) * np.exp(-steps / 300)
    noise = np.exp(rng.normal(0, 0.05, len(steps)))
    return [
        {
            "step": int(step),
            "energy_rmse_mev_per_atom": value,
            "forces_rmse_mev_per_angstrom": None,
            "loss": value**2 / 100,
            "train_loss": value**2 / 140 if step else None,
        }
        for step, value in zip(steps, decay * noise, strict=True)
    ]


def _parity(rng, energy_error, force_error):
    energy, forces = rng.normal(0, 0.25, 60), rng.normal(0, 1.1, 60 * 6 * 3)
    return {
        "energy_ref": energy.tolist(),
        "energy_pred": (0.97 * energy + rng.normal(0, energy_error, 60)).tolist(),
        "forces_ref": forces.tolist(),
        "forces_pred": (forces + rng.normal(0, force_error, len(forces))).tolist(),
    }


def _stability(name, *failing):
    """What MD at 300 and 500 K came to, of three runs each."""
    run = make_run(name, failing, temperatures=(300.0, 500.0), replicas=3, points=60)
    return [{**run, "name": name}]


def make_results() -> dict:
    rng = np.random.default_rng(0)

    def model(name, key, weak, errors, energy_error, force_error, stability):
        settings = {"lr": 0.003, "weak": {"weight": 0.1 if weak != "none" else 0.0, "eps": 0.15}}
        training = {"steps": 1500, "seconds": 61.2, "weak": weak, "settings": settings}
        return {
            "name": name,
            "key": key,
            "training": weak and {**training, "history": _history(rng, 34.0, errors[0])},
            "errors": {
                "n_frames": 60,
                "energy_rmse_mev_per_atom": errors[0],
                "energy_mae_mev_per_atom": errors[0] * 0.8,
                "forces_rmse_mev_per_angstrom": errors[1],
                "forces_mae_mev_per_angstrom": errors[1] * 0.7,
            },
            "parity": _parity(rng, energy_error, force_error),
            "stability": stability,
        }

    return {
        "schema_version": 1,
        "ase_ws_version": "0.1.0",
        "command": "ase-ws demo --seed 0",
        "created": "2025-01-31 14:05 UTC",
        "wall_time_s": 214.0,
        "versions": {"python": "3.11.7", "torch": "2.9.0", "mace-torch": "0.3.16", "ase": "3.27.0"},
        "system": {"threads": 2, "device": "cpu", "dtype": "float32"},
        "title": "Methanol at coupled-cluster level from 50 energies",
        "data": {
            "train": "50 CCSD(T) energies of methanol, no forces",
            "valid": "20 CCSD(T) energies of methanol",
            "test": "60 frames with energies and forces",
            "level": "CCSD(T)/cc-pVTZ",
        },
        "models": [
            model("base model (GFN2-xTB)", "base", None, (12.3, 412.0), 0.05, 0.41, []),
            model(
                "supervised only",
                "supervised",
                "none",
                (6.71, 231.0),
                0.03,
                0.23,
                _stability("supervised only", 0, 2),
            ),
            model(
                "weak losses (PITC + PISC)",
                "weak",
                "both",
                (5.42, 168.0),
                0.02,
                0.16,
                _stability("weak losses (PITC + PISC)", 0, 0),
            ),
        ],
        "findings": [
            "With the weak losses the force error falls from 231 to 168 meV/Å (27 % lower).",
            "The energy error falls by 19 %, which is within what another seed changes.",
            "At 500 K the supervised model lost an O–H bond; the one with weak losses did not.",
        ],
    }


@pytest.fixture(scope="module")
def results():
    return make_results()


@pytest.fixture(scope="module")
def html(results):
    return render_demo_report(results)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_page_says_what_matters(page):
    for words in (
        "Methanol at coupled-cluster level from 50 energies",
        "500 K: 2 of 3 replicas failed",
        "none of 3 replicas failed in 3 ps; failure rate below 1 /ps (95 % limit)",
        "What failed first, and why",
        "the force error falls from 231 to 168 meV/Å",
        "ase-ws demo --seed 0",
        "The validation data have no forces",
        "×0.73",
        "bond C0-H5 is 2.21 Å long",
    ):
        assert words in page.text


def test_verdict_cards_are_of_the_fine_tuned_models(page):
    cards = [attrs["class"] for attrs in page.named("article")]
    assert cards == ["card bad", "card good"]


def test_best_error_is_bold(html):
    assert "<strong>168</strong>" in html
    assert "<strong>5.42</strong>" in html
    assert "<strong>231</strong>" not in html


def test_nothing_is_loaded_from_elsewhere(html):
    assert_self_contained(html)


def test_every_image_has_words(page):
    for image in page.named("img"):
        assert image["src"].startswith("data:")
        assert image["alt"]
    drawn = page.named("svg")
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in drawn)
    figures = [svg["aria-label"] for svg in drawn if svg.get("role") == "img"]
    # Learning, parity, the failing frame, three for each temperature, static curves.
    assert len(figures) == 2 + 6 + 1 + 2 * 3 + 4
    assert len(set(figures)) == len(figures)
    assert any("RMSE 168 meV/Å" in words for words in figures)


def test_names_in_the_page_are_unique_and_known(html):
    assert_names_are_unique_and_known(html)


def test_same_results_give_the_same_page(results, html):
    assert render_demo_report(copy.deepcopy(results)) == html


def test_survives_json(results, html):
    assert render_demo_report(json.loads(json.dumps(results))) == html


def test_figures_follow_the_theme(html):
    assert "prefers-color-scheme: dark" in html
    assert 'style="fill: var(--soft)' in html
    figures = html.split("<main>")[1]
    assert not re.search(r"#(1d2129|5b6370|dcdfe4|000000)", figures)


def test_hostile_strings_are_shown_as_text(results):
    html = render_demo_report(hostile(results))
    page = Page(html)
    assert not page.named("script")
    assert not page.named("img")
    assert not any("onerror" in attrs for _, attrs in page.elements)
    assert HOSTILE in page.text
    keys = render_demo_report({"data": {HOSTILE: 1}, "versions": {HOSTILE: {HOSTILE: None}}})
    assert not Page(keys).named("script")


@pytest.mark.parametrize("replacement", [None, math.nan, math.inf, -math.inf])
def test_missing_numbers_are_let_pass(results, replacement):
    holed = replace_numbers(results, replacement, rng=np.random.default_rng(0))
    page = Page(render_demo_report({**holed, "schema_version": 1}))
    assert not re.search(r"\bnan\b|\bNone\b", page.text)


def test_every_field_may_be_absent(results, monkeypatch):
    # Drawing is tested above; without it the several hundred pages take a moment.
    for name in ("learning_curve", "parity"):
        monkeypatch.setattr(f"ase_ws.report.demo.plots.{name}", lambda *_, **__: None)
    results = copy.deepcopy(results)
    for model in results["models"]:
        model["stability"] = []  # its fields are those of the page of stability runs
    monkeypatch.setattr("ase_ws.report.drawing.panels.inline_svg", lambda *_: "")
    for path in paths(results):
        if path[-1] in ("name", "schema_version"):
            continue
        for absent in ("dropped", None):
            holed = copy.deepcopy(results)
            node = holed
            for step in path[:-1]:
                node = node[step]
            if absent is None:
                node[path[-1]] = None
            else:
                del node[path[-1]]
            render_demo_report(holed)


def test_empty_results_are_said_in_words():
    page = Page(render_demo_report({}))
    for words in (
        "there is no verdict",
        "No findings were written",
        "No model was measured",
        "No learning curve was recorded",
        "No check was run",
    ):
        assert words in page.text


def test_a_model_without_md_has_no_verdict(results):
    bare = copy.deepcopy(results)
    for model in bare["models"]:
        model["stability"] = []
    page = Page(render_demo_report(bare))
    assert "there is no verdict" in page.text
    assert not page.named("article")


@pytest.mark.parametrize("verdict", ["", None, "fine", "STABLE?"])
def test_an_unknown_verdict_is_never_stable(results, verdict):
    odd = copy.deepcopy(results)
    for run in odd["models"][2]["stability"]:
        run["verdict"] = verdict
    html = render_demo_report(odd)
    assert [attrs["class"] for attrs in Page(html).named("article")] == ["card bad", "card open"]


def test_a_wild_prediction_does_not_flatten_the_parity_plots(results):
    wild = copy.deepcopy(results)
    wild["models"][0]["parity"]["energy_pred"][3] = 1e6
    assert len(render_demo_report(wild)) < 4_000_000


def test_bad_results_are_a_user_error(results):
    with pytest.raises(UserError, match=r"schema_version is 99.*update"):
        read_results({**results, "schema_version": 99})
    with pytest.raises(UserError, match=r"models\.0\.errors\.energy_rmse"):
        read_results({"models": [{"name": "a", "errors": {"energy_rmse_mev_per_atom": "big"}}]})


def test_file_is_written_whole_or_not_at_all(results, tmp_path):
    target = tmp_path / "report.html"
    assert write_demo_report(results, target) == target
    before = target.read_text(encoding="utf-8")
    assert before.rstrip().endswith("</html>")
    with pytest.raises(UserError):
        write_demo_report({**results, "schema_version": 99}, target)
    assert target.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (0, "0"),
        (0.5, "0.5"),
        (-0.25, "−0.25"),
        (1234.4, "1234"),
        (12345, "12\u202f345"),
        (2.04e-7, "2.04 × 10⁻⁷"),
        (3e12, "3 × 10¹²"),
    ],
)
def test_numbers_are_written_for_people(value, written):
    assert number(value) == written


ALONE = """
import sys
import matplotlib
before = matplotlib.rcParams.copy()
import ase_ws.report

rooms = {"report", "results", "files", "errors", "_version"}
points = {"energy_ref": [1, 2], "energy_pred": [1, 2]}
ase_ws.report.render_demo_report({"models": [{"name": "a", "parity": points}]})
loaded = [name.split(".") for name in sys.modules]
assert not {"torch", "mace", "ase"} & {name[0] for name in loaded}
assert not {name[1] for name in loaded if name[0] == "ase_ws" and name[1:]} - rooms
assert "matplotlib.pyplot" not in sys.modules
now = matplotlib.rcParams.copy()
assert all(now[key] == before[key] for key in before if key != "backend")  # reading it sets it
"""


def test_results_of_earlier_versions_with_a_report_for_each_temperature_are_shown(results):
    old = copy.deepcopy(results)
    old["models"][1]["stability"] = [
        make_run("a", (n,), temperatures=(kelvin,), replicas=2, points=20)
        for kelvin, n in ((300.0, 0), (500.0, 1))
    ]
    text = Page(render_demo_report(old)).text
    assert "supervised only, 300 K" in text
    assert "supervised only, 500 K" in text


def test_the_room_imports_no_other_room():
    subprocess.run([sys.executable, "-W", "error", "-c", ALONE], check=True, timeout=120)


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_the_page(html, tmp_path, width):
    seen = look(html, tmp_path, width)
    assert len(seen["images"]) == 6  # the clouds of points
    assert all(image > 100 for image in seen["images"])
    assert len(seen["figures"]) == 19
    # The small multiples of static curves, four in a row, may be narrower.
    assert sum(w > 250 and h > 150 for w, h in seen["figures"]) >= 15
    assert all(w > 200 and h > 120 for w, h in seen["figures"])
    assert seen["wide"] <= 0, "the page is wider than the window"
