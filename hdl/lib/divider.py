"""The reciprocal at the end of attention, by long division."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Reciprocal(wiring.Component):
    """o = floor(2**31 / i) for i in 2**15 .. 2**16 - 1.

    Restoring division, ``bits`` of the quotient a cycle.  The remainder starts with the upper bits of 2**31, which are at most
    2**14 and therefore below the divisor.  The lower bits of 2**31 are zeros; each of them gives a bit of the quotient.  There
    are 17, and with two bits a cycle 18, so that they fill the last cycle.

    Latency: ``latency`` = 1 + ceil(17 / bits) cycles from ``i`` to ``o``: 18, or 10 with two bits a cycle.  ``o`` stays until it
    is taken.  Rate: one division at a time, at most one every latency + 1 cycles.

    Parameters
    ----------
    bits : bits of the quotient that a cycle finds, at least 1

    Members
    -------
    i : In(stream, 16 bits)     a divisor below 2**15 gives an undefined quotient
    o : Out(stream, 17 bits)    2**15 < o <= 2**16
    """

    def __init__(self, *, bits: int = 1):
        self.bits, self.steps = bits, -(-17 // bits)
        self.latency = self.steps + 1
        super().__init__({"i": In(stream.Signature(16)), "o": Out(stream.Signature(17))})

    def elaborate(self, platform):
        m = Module()
        divisor = Signal(16)
        remainder = Signal(16)  # < divisor
        steps = Signal(range(self.steps))
        busy = Signal()

        m.d.comb += self.i.ready.eq(~busy & ~self.o.valid)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                divisor.eq(self.i.payload),
                remainder.eq(1 << 31 - self.bits * self.steps),
                steps.eq(self.steps - 1),
                busy.eq(1),
            ]
        left, bits = remainder, []
        for k in range(self.bits):
            # 17 bits: below 2 * divisor; the borrow is bit 17.
            difference, rest = Signal(18, name=f"difference_{k}"), Signal(16, name=f"rest_{k}")
            doubled = Cat(0, left)
            m.d.comb += [difference.eq(doubled - divisor), rest.eq(Mux(~difference[17], difference, doubled))]
            left, bits = rest, [~difference[17], *bits]
        with m.If(busy):
            m.d.sync += [remainder.eq(left), self.o.payload.eq(Cat(*bits, self.o.payload)), steps.eq(steps - 1)]
            with m.If(steps == 0):
                m.d.sync += [busy.eq(0), self.o.valid.eq(1)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
