"""The page of stability runs: complete, self-contained, readable whatever is absent."""

from __future__ import annotations

import copy
import json
import math
import re

import numpy as np
import pytest
from pages import (
    HOSTILE,
    Page,
    assert_names_are_unique_and_known,
    assert_self_contained,
    browse,
    hostile,
    look,
    needs_browser,
    paths,
    replace_numbers,
)
from PIL import Image
from stability_results import make_run
from typer.testing import CliRunner

from ase_ws.cli import app
from ase_ws.errors import UserError
from ase_ws.report import (
    StabilityReport,
    read_stability,
    render_stability_report,
    write_stability_report,
)
from ase_ws.report.drawing.lines import Line
from ase_ws.report.drawing.looks import series
from ase_ws.report.drawing.structure import Picture, structure
from ase_ws.report.drawing.view import MAX_ATOMS, best_view, nearest_atoms
from ase_ws.report.stability.collect import collect_runs
from ase_ws.report.stability.plots import WRONG, band_of
from ase_ws.report.stability.sentences import blame_sentence, rate_text
from ase_ws.results.blame import Blame
from ase_ws.results.outcome import AtTemperature
from ase_ws.results.rates import Survival


@pytest.fixture(scope="module")
def run():
    return make_run("fine_tuned", (0, 3), compare="base")


def without_figures(run):
    """Leave out what is drawn, for the tests of tables."""

    def bare(outcome):
        rows = [{**row, "survival": None} for row in outcome["temperatures"]]
        replicas = [{**replica, "traces": None} for replica in outcome["replicas"]]
        return {**outcome, "temperatures": rows, "replicas": replicas}

    second = run["comparison"] and bare(run["comparison"])
    nothing = {"static": [], "bond_lengths": [], "failing_frame": None}
    return {**bare(run), **nothing, "comparison": second}


@pytest.fixture(scope="module")
def html(run):
    return render_stability_report([run])


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def many():
    """Eight models, one of them with 96 runs at each temperature."""
    runs = [make_run(f"model {i}", (0, i % 3), replicas=6, seed=i) for i in range(7)]
    return [*runs, make_run("campaign", (2, 40), replicas=96, points=300)]


@pytest.fixture(scope="module")
def many_html(many):
    return render_stability_report(many)


def test_page_says_what_matters(page):
    for words in (
        "Unstable",
        "3 of 8 replicas failed; bond C0-H5 is 2.21 Å long",
        "none of 4 replicas failed in 4 ps; failure rate below 0.75 /ps (95 % limit)",
        "The model is to blame: it fails again with half the time step (3 of 3) and in float64 "
        "(3 of 3), but no run fails with the second model.",
        "C0 and H5",
        "second model, on the seeds of fine_tuned",
        "‖J − Jᵀ‖ / 2‖J‖ of the force Jacobian",
        "fail 0.001 eV/Å",
        "1 place marked",
        "warning, contact",
        "ase-ws stability fine_tuned.safetensors methanol.xyz --temperature 300 500",
        "123456789",  # the seed that repeats a run, in full
        "train.xyz",
    ):
        assert words in page.text


def test_verdict_is_on_top_with_word_and_icon(html):
    start = html.split("</article>")[0].split("<main>")[1]
    assert '<article class="card bad hero">' in start
    assert '<svg class="icon bad"' in start
    assert "<strong>Unstable</strong>" in start


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        ("stable", "card good hero"),
        ("unstable", "card bad hero"),
        ("inconclusive", "card open hero"),
        ("fine", "card open hero"),
        (None, "card open hero"),
    ],
)
def test_only_a_known_verdict_is_stable(verdict, shown):
    page = Page(render_stability_report([{"verdict": verdict}]))
    assert [attrs["class"] for attrs in page.named("article")] == [shown]


def test_every_model_has_a_row_in_the_comparison(run):
    other = make_run("other", (0, 0), compare="base")
    html = render_stability_report([without_figures(run), without_figures(other)])
    table = html.split('<table class="stack models">')[1].split("</table>")[0]
    rows = re.findall(r'<th scope="row">.*?</svg>(.*?)<', table, re.DOTALL)
    # The second model ran on the same seeds to the same end twice: one row.
    assert [row.strip() for row in rows] == ["fine_tuned", "other", "base"]
    assert table.count("Failures at") == 2
    assert table.count("<div>0.83</div>") == 3  # ns/day


def test_figures_are_there_with_words(page):
    drawn = page.named("svg")
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in drawn)
    told = [svg["aria-label"] for svg in drawn if svg.get("role") == "img"]
    assert len(set(told)) == len(told) == 1 + 2 + 2 * 3 + 3 + 4
    for words in (
        "Picture of the failing frame, 6 atoms; ringed: C0 and H5.",
        "Fraction of runs without a failure at 500 K against time. "
        "fine_tuned: 3 of 4 replicas failed in 2.58 ps, 25 % at the end; base: none of 4",
        "Drift of the conserved energy at 300 K",
        "training data: mean 1.1 Å",
        "C0-H5 stretch: energy (eV) against distance (Å). fine_tuned: ",
        "wrong at 2",
    ):
        assert any(words in text for text in told), words


def test_page_is_self_contained(html, many_html):
    for text in (html, many_html):
        assert_self_contained(text)
        assert_names_are_unique_and_known(text)


def test_many_runs_stay_readable(many_html):
    assert len(many_html) < 3_000_000
    page = Page(many_html)
    assert "Median over the runs" in page.text
    # Of 192 runs the table shows some, those that failed first, and says how many are left out.
    assert "The other 152 are in the JSON file." in page.text
    looks = series(18)
    assert len({(look.colour, look.dash) for look in looks}) == len(looks)


def test_figures_follow_the_theme(html):
    figures = html.split("<main>")[1]
    assert "var(--soft)" in figures
    assert not re.search(r"#(1d2129|5b6370|dcdfe4|000000)", figures)


def test_same_runs_give_the_same_page_through_json():
    small = make_run("small", (1,), temperatures=(300.0,), replicas=2, points=12)
    html = render_stability_report([small])
    assert render_stability_report([json.loads(json.dumps(small))]) == html


def test_hostile_strings_are_shown_as_text(run):
    bad = hostile(run)
    bad["settings"][HOSTILE] = HOSTILE
    html = render_stability_report([{**bad, "schema_version": 2}])
    page = Page(html)
    assert_self_contained(html.replace("src=x", ""))
    assert not page.named("img")
    assert not any("onerror" in attrs for _, attrs in page.elements)
    assert HOSTILE in page.text


@pytest.mark.parametrize("replacement", [None, math.nan, math.inf, -math.inf])
def test_missing_numbers_are_let_pass(replacement):
    small = make_run("small", (0, 1), replicas=2, points=12, compare="base")
    holed = replace_numbers(small, replacement, rng=np.random.default_rng(0))
    page = Page(render_stability_report([{**holed, "schema_version": 2}]))
    assert not re.search(r"\b(nan|None|inf)\b", page.text)


def test_every_field_may_be_absent(monkeypatch):
    for name in ("survival", "energy_trace", "temperature_trace", "distribution", "scan"):
        monkeypatch.setattr(f"ase_ws.report.stability.plots.{name}", lambda *_, **__: None)
    monkeypatch.setattr("ase_ws.report.drawing.structure.structure", lambda picture: (None, 6))
    monkeypatch.setattr("ase_ws.report.drawing.panels.inline_svg", lambda *_: "")
    small = make_run("small", (1,), temperatures=(300.0,), replicas=2, points=4, compare="base")
    small["failures"][0]["replica"] = 0
    for path in paths(small):
        for absent in ("dropped", None):
            holed = copy.deepcopy(small)
            node = holed
            for step in path[:-1]:
                node = node[step]
            if absent is None:
                node[path[-1]] = None
            else:
                del node[path[-1]]
            render_stability_report([holed])


def test_what_is_absent_is_left_out():
    page = Page(render_stability_report([{"verdict": "stable", "name": "bare"}]))
    anchors = [attrs["id"] for attrs in page.named("section")]
    assert anchors == ["verdict", "checks", "reproduce"]
    assert "No check was run" in page.text
    assert "there is no verdict" in Page(render_stability_report([])).text


def test_a_file_of_version_1_is_shown(tmp_path):
    from ase.build import molecule

    from ase_ws import PotentialCalculator, check_stability
    from ase_ws.testing import Morse

    calculator = PotentialCalculator(Morse())
    report = check_stability(
        molecule("CH3OH"), calculator, temperature=[300.0, 500.0], ps=0.02, relax_steps=0
    )
    record = report.to_dict()
    for key in ("blame", "static", "bond_lengths", "failing_frame", "comparison", "provenance"):
        record.pop(key, None)
    record["schema_version"] = 1
    target = tmp_path / "report.html"
    assert write_stability_report([record], target) == target
    page = Page(target.read_text(encoding="utf-8"))
    assert "CH4O, 6 atoms, NVT, time step 0.5 fs" in page.text
    assert "min r_ij/(R_i + R_j)" in page.text
    assert {"verdict", "md", "checks"} <= {attrs["id"] for attrs in page.named("section")}


def test_the_schema_documents_every_field():
    schema = StabilityReport.schema()
    parts = [schema, *schema["$defs"].values()]
    fields = [field for part in parts for field in part["properties"].values()]
    assert len(fields) > 80
    assert all(field.get("description") for field in fields)
    assert set(make_run("a", (1, 0), compare="b")) <= set(schema["properties"])


def test_bad_files_are_a_user_error(run):
    with pytest.raises(UserError, match=r"schema_version is 99.*update ase-ws"):
        read_stability({**run, "schema_version": 99})
    with pytest.raises(UserError, match=r"run 1: field 'replicas\.0\.simulated_ps'"):
        render_stability_report([{"replicas": [{"simulated_ps": "long"}]}])


@pytest.mark.parametrize(
    ("failed", "total", "told"),
    [
        (0, 4.0, "below 0.75 /ps"),
        (2, 4.0, "0.5 /ps"),
        (0, 0.0, "not measured"),
    ],
)
def test_rates_in_words(failed, total, told):
    rate = AtTemperature(300.0, 2, failed, total, Survival())
    assert rate_text(rate) == told


def test_blame_that_is_not_settled_says_so():
    told = blame_sentence(Blame(cause="not settled"))
    assert told == "What is to blame is not settled."
    step = {"what": "half the timestep", "replicas": 4, "failed": 0}
    told = blame_sentence(Blame.from_dict({"cause": "timestep", "reruns": [step]}))
    assert told == "The time step is to blame: no run fails with half the time step."


def test_a_flat_molecule_is_seen_from_above():
    angles = np.radians(np.arange(0, 360, 60))
    ring = 1.4 * np.stack([np.cos(angles), np.zeros(6), np.sin(angles)], axis=1)
    seen = best_view(ring, np.full(6, 0.5), np.array([0]))
    in_picture = np.linalg.norm(seen[:, None, :2] - seen[None, :, :2], axis=2)
    in_space = np.linalg.norm(ring[:, None] - ring[None], axis=2)
    assert in_picture == pytest.approx(in_space)


def test_a_view_is_no_mirror_image():
    rng = np.random.default_rng(3)
    positions = rng.normal(size=(9, 3))
    seen = best_view(positions, np.full(9, 0.4), np.array([2]))
    volume = np.linalg.det(np.diff(positions[:4], axis=0))
    assert np.linalg.det(np.diff(seen[:4], axis=0)) == pytest.approx(volume)


def test_a_hidden_atom_is_turned_into_sight():
    # Along the shortest principal axis the marked atom sits behind another one.
    half = np.diag([3.0, 2.0, 0.7])
    positions = np.concatenate([half, -half])
    radii = np.full(6, 0.5)
    seen = best_view(positions, radii, np.array([5]))
    apart = np.linalg.norm(seen[2, :2] - seen[5, :2])
    assert apart > 0.9  # discs of 0.5 Å that hardly touch; 1.4 Å are possible


def test_of_large_structures_the_place_of_the_failure_is_shown():
    line = np.zeros((1000, 3))
    line[:, 0] = np.arange(1000)
    shown = nearest_atoms(line, np.array([500]))
    assert len(shown) == MAX_ATOMS
    assert abs(shown - 500).max() <= MAX_ATOMS // 2
    assert len(nearest_atoms(line[:10], np.array([], dtype=int))) == 10


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_failing_atoms_are_ringed_and_named(scale):
    positions = scale * np.random.default_rng(0).normal(size=(5, 3))
    names = ["C0", "H1", "X2", "H3", "H4"]
    symbols = ["C", "H", "X", "H", "H"]
    picture = Picture(symbols, positions, np.full(5, 0.6), [(0, 1)], [1, 4], names)
    figure, shown = structure(picture)
    assert shown == 5
    (axes,) = figure.axes
    rings = [patch for patch in axes.patches if not patch.get_fill()]
    assert len(rings) == 2
    assert {"H1", "H4"} <= {text.get_text() for text in axes.texts}
    gaps = [line for line in axes.lines if line.get_color() == WRONG]
    assert len(gaps) == (scale > 0)


def test_band_of_many_lines_follows_those_that_go_on():
    look = series(1)[0]
    time = np.linspace(0, 1, 11)
    lines = [Line(time, np.full(11, float(i)), look) for i in range(5)]
    lines.append(Line(time[:3], np.full(3, 1e6), look))
    band = band_of(lines, points=11)
    assert band.middle[-1] == 2.0
    assert band.high[-1] < 4.01
    assert band.high[0] > 4.01


def _write(folder, record):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stability.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_runs_are_found_and_told_apart(tmp_path):
    for folder, record in (
        ("a/x", {"name": "model", "verdict": "stable"}),
        ("b/x", {"name": "model", "verdict": "unstable"}),
        ("b/old", {"verdict": "stable"}),
    ):
        _write(tmp_path / folder, record)
    runs = collect_runs([tmp_path / "a" / "x", tmp_path / "a/x/stability.json", tmp_path])
    assert [run["name"] for run in runs] == ["model, a/x", "old", "model, b/x"]


def test_a_file_with_nan_is_read(tmp_path):
    _write(tmp_path, {"verdict": "stable", "name": "n", "total_ps": math.nan})
    text = (tmp_path / "stability.json").read_text()
    (tmp_path / "stability.json").write_text(text.replace("}", ', "failure_rate_per_ps": 1e999}'))
    (run,) = collect_runs([tmp_path])
    assert run["total_ps"] is None
    assert run["failure_rate_per_ps"] is None


def test_command_writes_page_and_data(tmp_path):
    records = [without_figures(make_run(name, (1, 0), replicas=2)) for name in ("one", "two")]
    folders = [_write(tmp_path / record["name"], record) for record in records]
    out = tmp_path / "out"
    arguments = ["report", *map(str, folders), "--out", str(out)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "two" in done.output
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "results.json"]
    assert json.loads((out / "results.json").read_text()) == records
    assert "2 runs compared" in (out / "report.html").read_text()
    with pytest.raises(UserError, match=r"not empty.*--overwrite"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    (out / "notes.txt").write_text("mine")
    done = CliRunner().invoke(app, [*arguments, "--overwrite", "-q"], catch_exceptions=False)
    assert done.output == ""
    assert (out / "notes.txt").exists()


def test_command_prints_the_schema():
    done = CliRunner().invoke(app, ["report", "--schema"], catch_exceptions=False)
    assert json.loads(done.output) == StabilityReport.schema()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, r"no stability\.json in it or below it"),
        ("{", r"stability\.json: is no JSON"),
        ("[1]", r"stability\.json: holds no stability run"),
        ('{"models": []}', r"stability\.json: holds no stability run"),
        ('{"verdict": "stable", "schema_version": 3}', r"schema_version is 3, expected at most 2"),
        ('{"verdict": "stable", "blame": "x"}', r"stability\.json: field 'blame'"),
        ("\udcff", r"is no JSON"),
    ],
)
def test_bad_input_is_told_in_one_line_and_costs_nothing(tmp_path, content, complaint):
    folder = tmp_path / "run"
    folder.mkdir()
    if content is not None:
        data = content.encode("utf-8", errors="surrogateescape")
        (folder / "stability.json").write_bytes(data)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=complaint) as caught:
        CliRunner().invoke(app, ["report", str(folder), "--out", str(out)], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_command_needs_runs_and_a_folder(tmp_path):
    for arguments in (["report"], ["report", str(tmp_path)], ["report", "--out", str(tmp_path)]):
        with pytest.raises(UserError, match="at least one run and a folder"):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(UserError, match="no such file or folder"):
        collect_runs([tmp_path / "nothing"])


@needs_browser
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_the_page(html, tmp_path, width):
    seen = look(html, tmp_path, width)
    assert len(seen["figures"]) == 16
    assert all(w > 190 and h > 120 for w, h in seen["figures"])
    assert seen["wide"] <= 0, "the page is wider than the window"


@needs_browser
def test_a_browser_shows_many_models(many_html, tmp_path):
    seen = look(many_html, tmp_path, 1280)
    assert all(w > 190 and h > 120 for w, h in seen["figures"])
    assert seen["wide"] <= 0, "the page is wider than the window"


@needs_browser
def test_a_screenshot_is_not_blank(html, tmp_path):
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    browse(tmp_path / "page.html", 1280, f"--screenshot={tmp_path / 'shot.png'}")
    with Image.open(tmp_path / "shot.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 100
    # The card of the verdict is red, and large.
    red = sum(n for n, (r, g, b) in colours if r > 240 and 225 < g < 240 and 225 < b < 240)
    assert red > 50_000
