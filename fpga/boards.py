"""The boards that a chip can be put on: ``hardwire boards``."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from fpga.devices import ECP5_25, ECP5_85, HX8K, UP5K, Device
from fpga.link.uart import BAUD


@dataclass(frozen=True)
class Pin:
    """A port's place and electrical attributes."""

    site: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Board:
    """A board that amaranth-boards knows: its pins, package, speed grade and oscillator come from there.

    platform   module:class in ``amaranth_boards``
    device     what is on it
    flasher    openFPGALoader's name of it
    baud       of the serial line: BAUD where an FTDI chip is at its other end
    """

    name: str
    platform: str
    device: Device
    flasher: str
    baud: int = 1_000_000

    def _platform(self):
        module, name = self.platform.split(":")
        return getattr(import_module(f"amaranth_boards.{module}"), name)()

    @property
    def package(self) -> str:
        return self._platform().package

    @property
    def speed(self) -> str | None:
        """The speed grade, where the family has several."""
        return getattr(self._platform(), "speed", None)

    @property
    def oscillator_mhz(self) -> float:
        platform = self._platform()
        return platform.resources[platform.default_clk, 0].clock.frequency / 1e6

    @property
    def pins(self) -> dict[str, Pin]:
        """Of the ports ``clk``, ``rx`` and ``tx``; rx and tx as the FPGA sees them."""
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
        Board("ulx3s-85f", "ulx3s:ULX3S_85F_Platform", ECP5_85, flasher="ulx3s", baud=BAUD),
        Board("icesugar-pro", "icesugar_pro:ICESugarProPlatform", ECP5_25, flasher="icesugar-pro"),
        Board("icepi-zero", "icepi_zero:IcepiZero1_3Platform", ECP5_25, flasher="icepi-zero"),
        Board("icebreaker", "icebreaker:ICEBreakerPlatform", UP5K, flasher="ice40_generic", baud=BAUD),
        Board("ice40-hx8k-b-evn", "ice40_hx8k_b_evn:ICE40HX8KBEVNPlatform", HX8K, flasher="ice40_generic", baud=BAUD),
    )
}


def board_named(name: str) -> Board:
    """Raises ValueError with the names there are."""
    if name not in BOARDS:
        raise ValueError(f"no board is called {name}; there are {', '.join(BOARDS)}")
    return BOARDS[name]
