"""Results to self-contained HTML pages: pure functions of plain dictionaries."""

from ase_ws.report.demo.page import render_demo_report, write_demo_report
from ase_ws.report.stability.page import render_stability_report, write_stability_report
from ase_ws.results.demo import SCHEMA_VERSION, DemoResults, read_results
from ase_ws.results.report import SCHEMA_VERSION as STABILITY_SCHEMA_VERSION
from ase_ws.results.report import StabilityReport, read_stability

__all__ = [
    "SCHEMA_VERSION",
    "STABILITY_SCHEMA_VERSION",
    "DemoResults",
    "StabilityReport",
    "read_results",
    "read_stability",
    "render_demo_report",
    "render_stability_report",
    "write_demo_report",
    "write_stability_report",
]
