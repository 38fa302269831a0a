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
        # Not its opposite: what moves with ready, multipliers of an FPGA among it, may have no inverter before their enable.
        empty, kept = Signal(init=1), Signal(self.i.payload.shape(), reset_less=True)
        m.d.comb += [
            self.i.ready.eq(empty),
            self.o.valid.eq(self.i.valid | ~empty),
            self.o.payload.eq(Mux(empty, self.i.payload, kept)),
        ]
        with m.If(empty):
            m.d.sync += kept.eq(self.i.payload)
        m.d.sync += empty.eq(~self.o.valid | self.o.ready)
        return m
