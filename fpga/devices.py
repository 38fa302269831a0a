"""The FPGAs of the boards, their families, and their resources."""

from dataclasses import dataclass

from synth import cells
from synth.cells import Library


@dataclass(frozen=True)
class Cells:
    """The resources that a design takes, or those that a device has.

    Parameters
    ----------
    luts : int
        LUTs of four inputs.  Each bit of a carry chain takes one, too.
    flip_flops : int
        Flip-flops of one bit.
    block_rams : int
        Block RAMs, each used in one of the shapes ``Family.block_ram_shapes``.
    dsps : int
        Multipliers of 18 x 18 bits (ECP5), or of 16 x 16 bits with an adder (iCE40).
    """

    luts: int
    flip_flops: int
    block_rams: int
    dsps: int


@dataclass(frozen=True)
class Family:
    """The devices that one tool flow can build for.

    Parameters
    ----------
    name : str
        The key of the family in ``fpga.toolchain.TOOLCHAINS`` and ``fpga.estimate.ESTIMATORS``.
    library : Library
        The types of cells that Yosys maps a design of the family to.
    block_ram_shapes : tuple of (int, int)
        The shapes of one block RAM: (words, bits of a word).
    """

    name: str
    library: Library
    block_ram_shapes: tuple[tuple[int, int], ...]

    def block_rams(self, words: int, bits: int, widest: int | None = None) -> int:
        """Return how many block RAMs a memory of ``words`` words of ``bits`` bits takes.

        The memory reads and writes one word at a time.  If ``widest`` is given, only shapes with words of at most ``widest`` bits
        are used.
        """
        return min(
            -(-words // depth) * -(-bits // width) for depth, width in self.block_ram_shapes if widest is None or width <= widest
        )


@dataclass(frozen=True)
class Device:
    """One FPGA.

    Parameters
    ----------
    name : str
        The manufacturer's name for it.
    family : Family
        The family that it belongs to.
    select : tuple of str
        The arguments by which nextpnr chooses the device.
    cells : Cells
        The resources of the device.
    """

    name: str
    family: Family
    select: tuple[str, ...]
    cells: Cells


ECP5 = Family("ecp5", cells.ECP5, ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)))
ICE40 = Family("ice40", cells.ICE40, ((256, 16), (512, 8), (1024, 4), (2048, 2)))

ECP5_85 = Device("LFE5U-85F", ECP5, ("--85k",), Cells(luts=83640, flip_flops=83640, block_rams=208, dsps=156))
ECP5_25 = Device("LFE5U-25F", ECP5, ("--25k",), Cells(luts=24288, flip_flops=24288, block_rams=56, dsps=28))
UP5K = Device("iCE40UP5K", ICE40, ("--up5k",), Cells(luts=5280, flip_flops=5280, block_rams=30, dsps=8))
HX8K = Device("iCE40HX8K", ICE40, ("--hx8k",), Cells(luts=7680, flip_flops=7680, block_rams=32, dsps=0))
