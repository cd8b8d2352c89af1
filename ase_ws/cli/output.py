"""What several commands print, and how."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

out_console = Console()
err_console = Console(stderr=True)

COLOURS = {"stable": "green", "unstable": "red", "inconclusive": "yellow"}


def plain(text: str) -> str:
    """Write text of any origin in one line, without markup of its own."""
    return escape(" ".join(text.split()))


def say(line: str) -> None:
    """Print a line on stderr, beside the results."""
    err_console.print(plain(line), highlight=False, soft_wrap=True)


def say_json(text: str) -> None:
    """Print JSON for programs: without colours, whatever the terminal."""
    out_console.print(text, markup=False, highlight=False, soft_wrap=True, style=None)


def say_path(label: str, path: Path) -> None:
    """Say where something is: in one line, letter by letter."""
    out_console.print(f"{label}: {path}", markup=False, highlight=False, soft_wrap=True)


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"


def end_with(verdict: str) -> None:
    """End with the exit code of a verdict: 0 stable, 3 unstable, 1 inconclusive."""
    if verdict != "stable":
        raise typer.Exit(3 if verdict == "unstable" else 1)


def command() -> str:
    """Command line as it was given."""
    return shlex.join(["ase-ws", *sys.argv[1:]])
