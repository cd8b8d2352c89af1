"""What the package imports is what setup.cfg asks for."""

import ast
import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Modules whose distributions bear another name, absent ones (extras) among them.
NAMES = {"yaml": "pyyaml", "mace": "mace-torch", "dask": "distributed", "graph_pes": "graph-pes"}


def imported():
    """Give the modules of others that the package imports, by file."""
    found = {}
    for path in sorted((ROOT / "ase_ws").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in (name.partition(".")[0] for name in names):
                if name != "ase_ws" and name not in sys.stdlib_module_names:
                    found.setdefault(name, path.relative_to(ROOT).as_posix())
    return found


def declared():
    """Give the distributions that the package needs, and those of its extras."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    needed, *extras = [
        {re.split(r"[^\w.-]", line)[0].lower() for line in text.split("\n") if line}
        for text in texts
    ]
    return needed, set().union(*extras)


def test_what_is_imported_is_declared():
    needed, extras = declared()
    names = {NAMES.get(name, name).lower(): file for name, file in imported().items()}
    unknown = {name: file for name, file in names.items() if name not in needed | extras}
    assert not unknown
    # The other way round: nothing is asked for that nobody imports.
    assert needed <= names.keys()
