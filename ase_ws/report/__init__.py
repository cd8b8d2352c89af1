"""Results to one self-contained HTML page: pure functions of plain dictionaries."""

from ase_ws.report.html import render_demo_report, write_demo_report
from ase_ws.report.schema import SCHEMA_VERSION, DemoResults, read_results

__all__ = [
    "SCHEMA_VERSION",
    "DemoResults",
    "read_results",
    "render_demo_report",
    "write_demo_report",
]
