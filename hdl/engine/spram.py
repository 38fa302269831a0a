"""The engine's only memory that tokens change: one port, words of 64 bits, written byte by byte."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

WORD_BYTES = 8


class Spram(wiring.Component):
    """``depth`` words of eight bytes; each cycle reads a word, or writes some bytes of one.

    Four SB_SPRAM256KA side by side hold 16,384 words (``fpga/ice40/parts.v``).  Contents are unknown until written.

    Parameters
    ----------
    depth : int
        Words; a power of two from 2 on.

    Members
    -------
    addr : In
    write : In(8)      bytes to be written; none is a read
    data : In(64)
    o : Out(64)        the word read in the cycle before; undefined after a write
    """

    def __init__(self, *, depth: int):
        if not isinstance(depth, int) or depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two from 2 on, not {depth!r}")
        self.depth = depth
        super().__init__(
            {"addr": In(depth.bit_length() - 1), "write": In(WORD_BYTES), "data": In(8 * WORD_BYTES), "o": Out(8 * WORD_BYTES)}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        for k in range(WORD_BYTES):
            m.submodules[f"byte_{k}"] = memory = Memory(shape=8, depth=self.depth, init=[])
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.addr.eq(self.addr),
                write.data.eq(self.data.word_select(k, 8)),
                write.en.eq(self.write[k]),
                read.addr.eq(self.addr),
                read.en.eq(~self.write.any()),
                self.o.word_select(k, 8).eq(read.data),
            ]
        return m
