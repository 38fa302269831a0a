"""A skid buffer: it breaks the combinational path of ``ready``."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Skid(wiring.Component):
    """o = i; ``i.ready`` is registered.

    The ready of one stream often depends on the ready of the next one, and a long chain of them does not fit into a cycle.
    A beat that arrives while ``o`` is not ready is kept, and ``i`` is not ready while a beat is kept.

    Latency: ``latency`` = 0.  Rate: a beat a cycle.

    Parameters
    ----------
    shape : the payload of both streams

    Members
    -------
    i : In(stream shape)
    o : Out(stream shape)
    """

    latency = 0

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        # ``empty`` is stored and not ``full``: ``i.ready`` drives enables, and an FPGA's DSP enable has no free inverter.
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
