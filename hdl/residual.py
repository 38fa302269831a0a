"""The residual stream: h + y, saturating (docs/arithmetic.md, residual)."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.lib.bits import saturate
from hdl.lib.skid import Skid
from hdl.lib.streams import vector_beat


def residual_beat(lanes: int, width: int) -> data.StructLayout:
    """A vector beat that replaces the residual (``load``) or is added to it."""
    return data.StructLayout({"data": data.ArrayLayout(signed(width), lanes), "load": 1, "last": 1})


class Residual(wiring.Component):
    """h = load ? i : sat(h + i, wide_bits); o = h.

    h is a memory of dim_padded / lanes words.  A word is written back in the cycle that registers its sum.

    Latency: ``latency`` = 2 cycles from a beat at ``i`` to its sum at ``o``.  Rate: a beat of ``lanes`` elements a cycle.

    Parameters
    ----------
    dim_padded : elements of a vector, a multiple of ``lanes``
    lanes : elements of a beat
    wide_bits : bits of an element, 24 or 32

    Members
    -------
    i : In(stream residual_beat)    Wide, vectors of dim_padded elements; the first after reset must be a load
    o : Out(stream vector_beat)     Wide, the new residual

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    latency = 2

    def __init__(self, *, dim_padded: int, lanes: int, wide_bits: int):
        if not isinstance(lanes, int) or lanes < 1:
            raise ValueError(f"lanes must be a positive integer, not {lanes!r}")
        if not isinstance(dim_padded, int) or dim_padded < lanes or dim_padded % lanes:
            raise ValueError(f"dim_padded must be a multiple of lanes ({lanes}), not {dim_padded!r}")
        if wide_bits not in (24, 32):
            raise ValueError(f"wide_bits must be 24 or 32, not {wide_bits!r}")
        self.dim_padded, self.lanes, self.wide_bits = dim_padded, lanes, wide_bits
        super().__init__(
            {"i": In(stream.Signature(residual_beat(lanes, wide_bits))), "o": Out(stream.Signature(vector_beat(lanes, wide_bits)))}
        )

    def elaborate(self, platform):
        m = Module()
        lanes, width = self.lanes, self.wide_bits
        beats = self.dim_padded // lanes

        m.submodules.h = h = Memory(shape=lanes * width, depth=max(2, beats), init=[])
        write = h.write_port()
        # A word is written one cycle after it is read, and the next vector reads it ``beats`` cycles later.  The read meets the
        # write only if a vector is one beat.
        read = h.read_port(transparent_for=[write] if beats == 1 else [])

        # ``advance`` moves the pipeline and is ``i.ready``; it comes from a register, the skid's ``i.ready``.
        m.submodules.skid = skid = Skid(self.o.payload.shape())
        connect(m, skid.o, flipped(self.o))
        advance = skid.i.ready
        index = Signal(range(max(2, beats)))
        m.d.comb += [
            self.i.ready.eq(advance),
            read.addr.eq(index),
            read.en.eq(advance),
        ]

        summed = skid.i
        valid, beat, beat_index = Signal(), Signal.like(self.i.payload), Signal(range(max(2, beats)))
        total = [Signal(signed(width), name=f"total_{k}") for k in range(lanes)]
        for k in range(lanes):
            old = read.data.word_select(k, width).as_signed()
            m.d.comb += total[k].eq(saturate(Mux(beat.load, 0, old) + beat.data[k], width))
        m.d.comb += [write.addr.eq(beat_index), write.data.eq(Cat(total)), write.en.eq(advance & valid)]

        with m.If(advance):
            m.d.sync += [
                valid.eq(self.i.valid),
                beat.eq(self.i.payload),
                beat_index.eq(index),
                summed.valid.eq(valid),
                summed.payload.last.eq(beat.last),
                Cat(summed.payload.data).eq(Cat(total)),
            ]
            with m.If(self.i.valid):
                m.d.sync += index.eq(Mux(self.i.payload.last, 0, index + 1))
        return m
