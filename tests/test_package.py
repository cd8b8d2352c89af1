"""Importing is quick and changes nothing; the promised names are there."""

import importlib.metadata
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ase_ws

PROMISED = [
    "GradientLoss",
    "PISCLoss",
    "PITCLoss",
    "PotentialCalculator",
    "check_stability",
    "finetune",
    "load_potential",
    "save_potential",
]


def python(code):
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.wall_clock
def test_importing_is_quick():
    def seconds(code):
        start = time.perf_counter()
        python(code)
        return time.perf_counter() - start

    bare = min(seconds("pass") for _ in range(3))
    assert min(seconds("import ase_ws") for _ in range(3)) - bare < 0.5


def test_importing_changes_nothing():
    python(
        """
import logging, os, sys, warnings
before = (dict(os.environ), list(logging.root.handlers), logging.root.level,
          list(warnings.filters))
import ase_ws
assert before == (dict(os.environ), list(logging.root.handlers), logging.root.level,
                  list(warnings.filters))
heavy = {"torch", "mace", "e3nn", "matplotlib", "ase"} & set(sys.modules)
assert not heavy, heavy
"""
    )


def test_the_command_line_starts_without_torch():
    python("import sys; import ase_ws.cli; assert not {'torch', 'mace'} & set(sys.modules)")


def test_libraries_of_rare_files_come_with_the_files():
    python("import sys; import ase_ws.frames; assert not {'h5py', 'lmdb'} & set(sys.modules)")


def test_using_everything_changes_nothing_either():
    """The heavy imports come with side effects of upstream: all of them must be undone."""
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import logging, os
import torch
before = dict(os.environ), torch.get_default_dtype(), torch.get_rng_state()
handlers = list(logging.root.handlers)
from ase_ws import PotentialCalculator, load_potential, save_potential, finetune
from ase_ws import check_stability, PITCLoss, PISCLoss
changed = {k for k in {*before[0], *os.environ} if before[0].get(k) != os.environ.get(k)}
assert not changed, changed
assert torch.get_default_dtype() == before[1]
assert torch.equal(torch.get_rng_state(), before[2])
assert logging.root.handlers == handlers, logging.root.handlers
# torch adds classes of its own when parts of it are first used.
safe = torch.serialization.get_safe_globals()
assert all(getattr(x, "__module__", "").startswith("torch.") for x in safe), safe
""",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("name", PROMISED)
def test_promised_names(name):
    assert callable(getattr(ase_ws, name))
    assert name in dir(ase_ws)
    assert name in ase_ws.__all__


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ase_ws.nonsense
    with pytest.raises(ImportError):
        from ase_ws import nonsense  # noqa: F401


def test_version():
    assert importlib.metadata.version("ase-ws") == ase_ws.__version__


def test_entry_point():
    (entry,) = [
        e
        for e in importlib.metadata.entry_points(group="console_scripts")
        if e.name == "ase-ws" and e.dist is not None and e.dist.name in ("ase-ws", "ase_ws")
    ]
    assert entry.value == "ase_ws.cli:main"


def test_typed():
    from importlib.resources import files

    assert (files("ase_ws") / "py.typed").is_file()


def test_lengths_are_in_angstroms_everywhere():
    """Å, not A, in all that is said, shown or written."""
    bare = re.compile(r"(?:[\d}] |eV/)A\b|[\"']A[\"']")
    for path in Path(ase_ws.__file__).parent.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not bare.search(line), f"{path.name}, line {number}: {line}"
