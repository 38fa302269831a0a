"""A register between two streams."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Register(wiring.Component):
    """o = i.

    The payload is one register without reset, with one enable and without logic at its input.  Such a register at the output of
    a memory can therefore be the one inside an FPGA's block RAM.

    Latency: ``latency`` = 1 cycle.  Rate: a beat a cycle.

    Parameters
    ----------
    shape : the payload of both streams

    Members
    -------
    i : In(stream shape)
    o : Out(stream shape)
    """

    latency = 1

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        held = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.o.payload.eq(held)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), held.eq(self.i.payload)]
        return m
