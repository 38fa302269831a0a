"""Fewer lanes: a wide beat leaves as several narrow ones."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.lib.streams import vector_beat


class Narrow(wiring.Component):
    """o = i, ``to`` elements a beat instead of ``lanes``.

    A vector of n elements leaves as ceil(n / to) beats: narrow beats with no element of the vector are dropped.

    Latency: ``latency`` = 0.  The first narrow beat is offered in the cycle in which the wide beat is offered, and the wide
    beat moves together with the last narrow one.  Rate: a narrow beat a cycle.

    Parameters
    ----------
    lanes, to : elements of a beat at ``i`` and at ``o``; ``to`` divides ``lanes``
    n : elements of a vector
    width : bits of an element, which is signed

    Members
    -------
    i : In(stream vector_beat(lanes, width)), vectors of ``n`` elements
    o : Out(stream vector_beat(to, width))
    """

    latency = 0

    def __init__(self, *, lanes: int, to: int, n: int, width: int):
        if not isinstance(to, int) or to < 1 or lanes % to:
            raise ValueError(f"to must divide lanes ({lanes}), not {to!r}")
        self.lanes, self.to, self.n, self.width = lanes, to, n, width
        super().__init__({"i": In(stream.Signature(vector_beat(lanes, width))), "o": Out(stream.Signature(vector_beat(to, width)))})

    def elaborate(self, platform):
        m = Module()
        parts, i, o = self.lanes // self.to, self.i.payload, self.o.payload
        part = Signal(range(max(2, parts)))
        last_part = ((self.n - 1) % self.lanes) // self.to
        ends = part == Mux(i.last, last_part, parts - 1)
        m.d.comb += [
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & ends),
            o.last.eq(i.last & ends),
            o.data.eq(i.data.as_value().word_select(part, self.to * self.width)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += part.eq(Mux(ends, 0, part + 1))
        return m
