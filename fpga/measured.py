"""The builds whose figures stand in docs: the reports of ``hardwire fpga build`` in docs/reports, one a board."""

import json
from pathlib import Path

REPORTS = Path(__file__).with_name("reports")
"""A link to docs/reports, so that the reports are installed with the package.  Some of its files are tables of other figures."""


def builds() -> list[dict]:
    """Return the reports of the builds in docs, by the name of their file."""
    found = (json.loads(path.read_text()) for path in sorted(REPORTS.glob("*.json")))
    return [report for report in found if isinstance(report, dict) and "board" in report]
