"""Turn an iCE40 bitstream into Verilog that simulates the board, without any other file of the design."""

import re
import shutil
import subprocess
from pathlib import Path

from fpga.boards import Board
from fpga.ice40.readback import unpacked_text
from fpga.ice40.routed import board_around, cells_sim
from synth.run import BuildError

ICEBOX = "icebox_vlog"


def unpacked_verilog(bitstream: Path, board: Board, folder: Path) -> str:
    """Return a module ``board`` that simulates a bitstream.

    iceunpack writes the bits as text to unpacked.asc.  icebox_vlog of Project IceStorm turns the text into LUTs, carries,
    flip-flops and block RAMs, which are written to unpacked.v.  Of the design it knows only the names of the pins.  Flip-flops
    start at 0 and block RAMs with their contents, as after configuration, and ``rst`` is not connected.

    icebox_vlog does not know MAC16, SPRAM and PLL.  So the clock of the bitstream must be the oscillator.

    Parameters
    ----------
    bitstream : Path
        The file to simulate.
    board : Board
        The board that it was built for.
    folder : Path
        The folder for intermediate files.

    Raises
    ------
    BuildError
        The device has MAC16 or SPRAM, the file is no bitstream, its pins are not those of the board, or icebox_vlog is not
        installed.
    """
    if board.device.cells.dsps:
        raise BuildError(f"{board.name}: {ICEBOX} knows nothing of an {board.device.name}'s MAC16 and SPRAM")
    if shutil.which(ICEBOX) is None:
        raise BuildError(f"{ICEBOX} is not there: on Debian, as root, apt-get install fpga-icestorm")
    folder.mkdir(parents=True, exist_ok=True)
    if bitstream.resolve() != (folder / "top.bin").resolve():
        shutil.copyfile(bitstream, folder / "top.bin")
    text = unpacked_text(folder / "top.bin")
    pins = board.pins
    # icebox_vlog refuses attributes such as -pullup.
    (folder / "pins.pcf").write_text("".join(f"set_io {name} {pin.site}\n" for name, pin in pins.items()))
    ran = subprocess.run(
        [ICEBOX, "-s", "-n", "icebox", "-d", board.package.lower(), "-p", "pins.pcf", text.name],
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
    return "\n".join(("`define NO_ICE40_DEFAULT_ASSIGNMENTS", cells_sim(), netlist, board_around("icebox")))


def _without(ports, wires: str) -> str:
    """Return a declaration of ``wires`` without ``ports``, because icebox_vlog declares ports twice and Verilator refuses that."""
    left = [wire for wire in wires.split(", ") if wire not in ports]
    return f"wire {', '.join(left)};" if left else ""
