"""The command line: each command parses, calls one function, prints.

Exit codes: 0 done, 2 bad input (one line), 3 unstable, 1 anything else.

| file | holds |
| --- | --- |
| `app.py` | the program, and how it ends |
| `options.py`, `inputs.py`, `output.py`, `progress.py` | what several commands share |
| `demo.py`, `train.py`, `md.py`, `models.py` | commands |
| `stability.py`, `campaign.py`, `report.py` | more of them |
"""

from ase_ws.cli.app import app, main

__all__ = ["app", "main"]
