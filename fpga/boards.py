"""The boards that a chip can be built for, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fpga.devices import ECP5_25, ECP5_85, HX8K, UP5K, Device
from fpga.link.protocol import FTDI_BAUD
from weights_to_rom.errors import HardwireError
from weights_to_rom.names import did_you_mean


@dataclass(frozen=True)
class Pin:
    """The package pin of one port of the design.

    Parameters
    ----------
    site : str
        The name of the pin, as the package has it.
    attributes : mapping of str to str
        Its electrical attributes (I/O standard, pull-up, drive), in the words of the family's tools.
    """

    site: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Board:
    """A board with an FPGA.  Its pins, package, speed grade and oscillator come from the package amaranth-boards.

    Parameters
    ----------
    name : str
        The name that a user gives on the command line.
    platform : str
        The description of the board: "module:class" within ``amaranth_boards``.
    device : Device
        The FPGA on the board.
    flasher : str
        The name of the board in openFPGALoader.
    baud : int
        Bits a second on the serial line.  It is ``FTDI_BAUD`` if an FTDI chip connects the line to USB.
    """

    name: str
    platform: str
    device: Device
    flasher: str
    baud: int = 1_000_000

    def _platform(self) -> Any:
        module, name = self.platform.split(":")
        return getattr(import_module(f"amaranth_boards.{module}"), name)()

    @property
    def package(self) -> str:
        """The package of the FPGA."""
        return self._platform().package

    @property
    def speed(self) -> str | None:
        """The speed grade, or None where the family has only one."""
        return getattr(self._platform(), "speed", None)

    @property
    def oscillator_mhz(self) -> float:
        """The frequency of the oscillator on the board, which clocks the FPGA, in MHz."""
        platform = self._platform()
        return platform.resources[platform.default_clk, 0].clock.frequency / 1e6

    @property
    def pins(self) -> dict[str, Pin]:
        """The pins of the ports ``clk``, ``rx`` and ``tx``.  The FPGA receives on ``rx`` and sends on ``tx``."""
        platform = self._platform()
        clock, uart = platform.resources[platform.default_clk, 0], platform.resources["uart", 0]
        lines = {signal.name: signal for signal in uart.ios}
        return {
            "clk": Pin(clock.ios[0].names[0], clock.attrs),
            **{name: Pin(lines[name].ios[0].names[0], {**uart.attrs, **lines[name].attrs}) for name in ("rx", "tx")},
        }


BOARDS = {
    board.name: board
    for board in (
        Board("ulx3s-85f", "ulx3s:ULX3S_85F_Platform", ECP5_85, flasher="ulx3s", baud=FTDI_BAUD),
        Board("icesugar-pro", "icesugar_pro:ICESugarProPlatform", ECP5_25, flasher="icesugar-pro"),
        Board("icepi-zero", "icepi_zero:IcepiZero1_3Platform", ECP5_25, flasher="icepi-zero"),
        Board("icebreaker", "icebreaker:ICEBreakerPlatform", UP5K, flasher="ice40_generic", baud=FTDI_BAUD),
        Board("ice40-hx8k-b-evn", "ice40_hx8k_b_evn:ICE40HX8KBEVNPlatform", HX8K, flasher="ice40_generic", baud=FTDI_BAUD),
    )
}


def board_named(name: str) -> Board:
    """Return a board.  Raises HardwireError, with the name that is meant or all names, if no board has this name."""
    if name not in BOARDS:
        raise HardwireError(f"no board is called {name}{did_you_mean(name, BOARDS) or ': there are ' + ', '.join(BOARDS)}")
    return BOARDS[name]
