"""A LiteX system with a chip: ``python -m examples.litex.soc OUT BUILD``.

It has no CPU.  The master of its bus is outside, on an AXI-Lite port with the name ``host``; a board would have
``add_uartbone()`` or a CPU instead, and nothing else in this file would differ.

BUILD gets gateware/hardwire_soc.v, and csr.csv with the addresses of the registers.
"""

import argparse
import sys
from pathlib import Path

from litex.build.generic_platform import GenericPlatform, Pins
from litex.soc.integration.builder import Builder
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import axi
from migen import ClockDomain, Module

import hardwire
from examples.litex.core import HardwireChip, HardwireRegisters

NAME = "hardwire_soc"
CLOCK_HZ = 50e6
IO = [("clk", 0, Pins(1)), ("rst", 0, Pins(1))]


class Platform(GenericPlatform):
    """A platform without a board: it writes Verilog, and no bitstream."""

    def __init__(self):
        super().__init__("", IO, name=NAME)

    def build(self, design, build_dir: str, build_name: str, **_options) -> None:
        """Write the Verilog of a finished system."""
        folder, fragment = Path(build_dir), design.get_fragment()
        folder.mkdir(parents=True, exist_ok=True)
        self.finalize(fragment)
        self.get_verilog(fragment, name=build_name).write(str(folder / f"{build_name}.v"))


class Clocking(Module):
    """The clock and the reset of the pins."""

    def __init__(self, platform):
        self.clock_domains.cd_sys = ClockDomain()
        self.comb += [self.cd_sys.clk.eq(platform.request("clk")), self.cd_sys.rst.eq(platform.request("rst"))]


class HardwireSoC(SoCMini):
    """A chip with its registers on a bus.

    Parameters
    ----------
    platform : LiteX platform
    folder : Path    OUT of ``hardwire compile``

    Members
    -------
    chip : HardwireChip
    hardwire : HardwireRegisters    the CSRs are named ``hardwire_...``
    """

    def __init__(self, platform, folder: Path):
        self.crg = Clocking(platform)
        super().__init__(platform, CLOCK_HZ)
        self.chip = HardwireChip(platform, folder)
        self.hardwire = HardwireRegisters(self.chip)


def main() -> None:
    """Write the system that the command line asks for."""
    parser = argparse.ArgumentParser(description="Write a LiteX system with a compiled chip.")
    parser.add_argument("out", type=Path, help="OUT of hardwire compile")
    parser.add_argument("build", type=Path, help="folder to write")
    given = parser.parse_args()
    platform = Platform()
    try:
        soc = HardwireSoC(platform, given.out)
    except hardwire.HardwireError as error:
        sys.exit(f"error: {error}")
    host = axi.AXILiteInterface()
    platform.add_extension(host.get_ios("host"))
    soc.comb += host.connect_to_pads(platform.request("host"), mode="slave")
    soc.bus.add_master("host", host)
    Builder(soc, str(given.build), csr_csv=str(given.build / "csr.csv"), compile_software=False, compile_gateware=False).build(
        build_name=NAME
    )


if __name__ == "__main__":
    main()
