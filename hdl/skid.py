"""A place to put a beat down: it cuts the way that ready takes through a chip."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Skid(wiring.Component):
    """o = i, a beat a cycle and without latency, where ``i.ready`` is a register.

    ready of a stream may depend on that of the next one, and so on, until one cycle is too short for all of it.  Here the beat
    that comes when ``o`` is not ready is kept, and ``i`` is not ready in the cycles in which one is.

    Members
    -------
    i : In(stream shape)
    o : Out(stream shape)
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        full, kept = Signal(), Signal(self.i.payload.shape(), reset_less=True)
        m.d.comb += [self.i.ready.eq(~full), self.o.valid.eq(self.i.valid | full),
                     self.o.payload.eq(Mux(full, kept, self.i.payload))]
        with m.If(~full):
            m.d.sync += kept.eq(self.i.payload)
        m.d.sync += full.eq(self.o.valid & ~self.o.ready)
        return m
