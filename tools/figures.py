"""Print docs/figures.md, and the table of boards in README.md, from the reports in docs/reports.

    python tools/figures.py            write them
    python tools/figures.py --check    name the files that are out of date; exit 1 if there are any

People edit `measured.json`: a list of tables, each with its columns, its rows and the command that printed its figures.
The files that name a board are those that `hardwire fpga build` wrote as `report.json`.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.printed import out_of_date, write_or_check  # noqa: E402

REPORTS = ROOT / "docs/reports"
PAGE, README = ROOT / "docs/figures.md", ROOT / "README.md"

HEAD = """\
# Figures

Every figure has a kind. *Measured*: a tool or a simulation counted it. *Derived*: it follows from measured figures alone.
*Projected*: an assumption, which stands next to it, is part of it. Printed by `tools/figures.py` from `docs/reports/`.
"""

BOARDS = """\
## On boards

Measured after place and route: LUTs to MHz. Cycles are measured on the simulated chip, since nobody has run a bitstream on a
real board yet. Tokens a second are derived from them, at the clock. The command is `hardwire fpga build MODEL --board BOARD`.
"""


def table(columns: list[str], rows: list[list]) -> str:
    """Print a table in Markdown, with commas in integers."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *cells])


def reports() -> list[dict]:
    """Read the reports of boards.  The slowest board comes first."""
    found = [json.loads(path.read_text()) for path in REPORTS.glob("*.json")]
    return sorted((report for report in found if "board" in report), key=lambda report: report["tokens_per_second"])


def board_rows() -> list[list]:
    """The rows of README's table of boards."""
    return [
        [
            report["board"],
            f"`{report['model']}`",
            f"{report['fmax_mhz']} MHz, clock {report['clock_mhz']:g}",
            f"{report['cycles_per_token']:,} at context {report['context']}",
            report["tokens_per_second"],
        ]
        for report in reports()
    ]


def boards() -> str:
    """The section on boards: the table of README, and the resources of each design."""
    used = [
        [
            report["board"],
            *(report[name] for name in ("luts", "flip_flops", "block_rams", "dsps")),
            report.get("sprams", "none"),
            report["seed"],
            ", ".join(f"{tool} {version}" for tool, version in report["tools"].items()),
        ]
        for report in reports()
    ]
    paths = [
        [
            report["board"],
            " to ".join(f"`{part['unit'].removeprefix('board.core.')}`" for part in report["critical_path"]),
            f"{sum(part['logic_ns'] for part in report['critical_path']):.2f}",
            f"{sum(part['wires_ns'] for part in report['critical_path']):.2f}",
        ]
        for report in reports()
    ]
    return "\n\n".join(
        [
            BOARDS + "\n" + table(["board", "model", "after route", "cycles a token", "tokens/s"], board_rows()),
            table(["board", "LUTs", "flip-flops", "block RAMs", "DSPs", "SPRAMs", "seed", "tools"], used),
            table(["board", "critical path", "ns in logic", "ns in wires"], paths),
        ]
    )


def page() -> str:
    """Print docs/figures.md."""
    sections = [HEAD]
    for group in json.loads((REPORTS / "measured.json").read_text()):
        lines = [f"## {group['title']}", group["text"]]
        if "command" in group:
            lines.append(f"Command: `{group['command']}`")
        sections.append("\n\n".join(line for line in [*lines, table(group["columns"], group["rows"])] if line) + "\n")
    return "\n".join([*sections, boards()]) + "\n"


def differing() -> dict[Path, str]:
    """The files that are out of date, with their new contents."""
    part = table(["board", "model", "after route", "cycles a token", "tokens/s"], board_rows())
    readme, found = re.subn(
        r"(<!-- printed: boards -->\n).*?(<!-- end -->)",
        lambda marks: f"{marks[1]}\n{part}\n\n{marks[2]}",
        README.read_text(),
        flags=re.DOTALL,
    )
    if found != 1:
        raise SystemExit(f"{README}: has {found} places for the table of boards, not 1")
    return out_of_date({PAGE: page(), README: readme})


if __name__ == "__main__":
    sys.exit(write_or_check(__file__, differing(), sys.argv[1:]))
