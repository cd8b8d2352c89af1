"""The READMEs: short where they should be, and nothing in them that is not there."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

from ase_ws.cli.app import app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("ase_ws/*/README.md")), ROOT / ".github" / "CONTRIBUTING.md"]
DESIGN = yaml.safe_load(
    (ROOT / "tests/benchmarks/evidence/design.yaml").read_text(encoding="utf-8")
)
RESULTS = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))

LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
#: A file or folder of this repository, as text names it between backticks.
PATH = re.compile(r"`(?:python\s+|pytest\s+)?((?:ase_ws|tests|md_examples)/[\w./-]+)")


def blocks(page, language):
    return [
        text for name, text in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language
    ]


def anchors(page):
    """Give the names that GitHub gives to the headings of a page."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {name.strip().replace(" ", "-") for name in plain}


def commands(page):
    """Give the command lines of `ase-ws`, in blocks and within lines, as lists of words."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [
        line for block in BLOCK.findall(text) if block[0] == "sh" for line in block[1].split("\n")
    ]
    spans = [span.replace("\n", " ") for span in re.findall(r"`(ase-ws [^`]+)`", text)]
    for line in [*lines, *spans]:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words[:1] == ["ase-ws"]:
                yield words[1:]


def test_the_tests_are_run_as_the_readme_says():
    """What contributors and the checks type is one thing."""
    for command in ('pip install -e ".[test]"', "pytest -n auto"):
        assert command in README.read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert '-e ".[test]"' in script
    assert "pytest -n auto" in script


def test_the_readme_is_read_in_five_minutes():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 16 * 1024


@each_page
def test_links_resolve(page):
    for in_text, in_html in LINK.findall(page.read_text(encoding="utf-8")):
        link = in_text or in_html
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@each_page
def test_files_that_are_named_are_there(page):
    named = PATH.findall(page.read_text(encoding="utf-8"))
    gone = [name for name in named if not (ROOT / name).exists()]
    assert not gone
    groups = re.findall(r"--only ([\w-]+)", page.read_text(encoding="utf-8"))
    assert {*groups} <= {*DESIGN["groups"], "GROUP"}


@each_page
def test_commands_and_their_options_exist(page):
    known = typer.main.get_command(app).commands
    for name, *words in commands(page):
        if name in ("COMMAND", "--help", "--version"):
            continue
        assert name in known, name
        options = {o for p in known[name].params for o in (*p.opts, *p.secondary_opts)}
        given = {w.partition("=")[0] for w in words if w.startswith("--")}
        assert given <= {*options, "--help"}, (name, given - options)


@each_page
def test_python_compiles_and_what_it_imports_is_there(page):
    for k, text in enumerate(blocks(page, "python")):
        compile(text, f"{page}[{k}]", "exec")
        imports = re.findall(r"^from (?:ase_ws|ase)\b.*$", text, re.MULTILINE)
        exec("\n".join(imports), {})


@pytest.mark.parametrize(
    ("group", "row", "numbers"),
    [
        (
            "Direct forces as shipped",
            "| ethanol | gradient and labels |",
            ("0.35 (0.33–0.39)", "0.99"),
        ),
        (
            "CCSD(T) energies of methanol",
            "| from a base (other molecules), 100 labels | gauss-newton |",
            ("0.67 (0.59–0.79)", "0.69"),
        ),
        (
            "CCSD(T) energies of methanol",
            "| from a base (other molecules), 100 labels | difference to the base, 0.1 |",
            ("1.25 (1.20–1.29)",),
        ),
    ],
)
def test_the_readme_quotes_the_results(group, row, numbers):
    section = RESULTS.partition(f"\n## {group}\n")[2].partition("\n## ")[0]
    (line,) = (line for line in section.splitlines() if line.startswith(row))
    readme = README.read_text(encoding="utf-8").replace("*", "")
    for number in numbers:
        assert number in line
        assert number in readme
