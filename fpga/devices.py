"""What FPGAs consist of."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cells:
    """Counts of what a design takes, or a device has.

    luts         LUTs of four inputs; a bit of a carry chain takes one, too
    block_rams   of ``Family.block_ram_shapes``
    dsps         multipliers of 18 x 18 bits (ECP5), or 16 x 16 with their adder (iCE40)
    """

    luts: int
    flip_flops: int
    block_rams: int
    dsps: int


@dataclass(frozen=True)
class Family:
    """Devices of one kind, and the cells that Yosys makes of a design for them.

    luts               LUTs that a cell takes, by type
    flip_flop          how types of flip-flops begin
    block_ram          how types of block RAMs begin
    dsp                a multiplier's type
    block_ram_shapes   (words, bits) that one block RAM can have
    """

    name: str
    luts: Mapping[str, int]
    flip_flop: str
    block_ram: tuple[str, ...]
    dsp: str
    block_ram_shapes: tuple[tuple[int, int], ...]

    def count(self, by_type: Mapping[str, int]) -> Cells:
        """From the numbers of cells by type."""

        def beginning(*prefixes: str) -> int:
            return sum(n for kind, n in by_type.items() if kind.startswith(prefixes))

        return Cells(
            luts=sum(self.luts.get(kind, 0) * n for kind, n in by_type.items()),
            flip_flops=beginning(self.flip_flop),
            block_rams=beginning(*self.block_ram),
            dsps=beginning(self.dsp),
        )

    def block_rams(self, words: int, bits: int, widest: int | None = None) -> int:
        """Block RAMs of a memory that is read and written a word at a time, none of them of more than ``widest`` bits."""
        return min(
            -(-words // depth) * -(-bits // width) for depth, width in self.block_ram_shapes if widest is None or width <= widest
        )


@dataclass(frozen=True)
class Device:
    """``select`` are nextpnr's arguments for it."""

    name: str
    family: Family
    select: tuple[str, ...]
    cells: Cells


ECP5 = Family(
    "ecp5",
    luts={"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6, "PFUMX": 0, "L6MUX21": 0},
    flip_flop="TRELLIS_FF",
    block_ram=("DP16KD", "PDPW16KD"),
    dsp="MULT18X18D",
    block_ram_shapes=((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)),
)

ICE40 = Family(
    "ice40",
    luts={"SB_LUT4": 1},
    flip_flop="SB_DFF",
    block_ram=("SB_RAM40_4K",),
    dsp="SB_MAC16",
    block_ram_shapes=((256, 16), (512, 8), (1024, 4), (2048, 2)),
)

ECP5_85 = Device("LFE5U-85F", ECP5, ("--85k",), Cells(luts=83640, flip_flops=83640, block_rams=208, dsps=156))
ECP5_25 = Device("LFE5U-25F", ECP5, ("--25k",), Cells(luts=24288, flip_flops=24288, block_rams=56, dsps=28))
UP5K = Device("iCE40UP5K", ICE40, ("--up5k",), Cells(luts=5280, flip_flops=5280, block_rams=30, dsps=8))
HX8K = Device("iCE40HX8K", ICE40, ("--hx8k",), Cells(luts=7680, flip_flops=7680, block_rams=32, dsps=0))
