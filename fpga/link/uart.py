"""A serial line, eight data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

BAUD = 3_000_000
"""Bits a second that FTDI's chips do, which many boards have: 23,000 tokens."""

BITS = 10
"""Of a byte on the line: start, eight of data (the lowest first), stop."""


def divisor_for(clock_hz: float, baud: int) -> int:
    """Cycles of a bit.  Raises ValueError if they miss the rate by more than 2 %, of which a byte bears 4."""
    divisor = round(clock_hz / baud)
    if divisor < 4 or abs(clock_hz / divisor / baud - 1) > 0.02:
        raise ValueError(f"{baud} baud cannot be made of {clock_hz / 1e6:g} MHz: a bit would take {clock_hz / baud:.2f} cycles")
    return divisor


class UartTx(wiring.Component):
    """Bytes to a line: one every ``BITS * divisor + 1`` cycles, its start bit one cycle after it is taken.

    Members
    -------
    i : In(stream 8)
    line : Out(1)       high at rest
    """

    def __init__(self, *, divisor: int):
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "line": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        bits = Signal(BITS + 1, init=1)  # what is yet to be sent; the last one marks the end, that before it of the stop bit
        rests = Signal(init=1)  # bits == 1
        m.d.comb += self.i.ready.eq(rests)
        with m.If(rests):
            with m.If(self.i.valid):
                # The line's register has the start bit in the next cycle.
                m.d.sync += [rests.eq(0), bits.eq(Cat(self.i.payload, Const(7, 3))), timer.eq(self.divisor - 1), self.line.eq(0)]
        with m.Elif(timer == 0):
            m.d.sync += [rests.eq(bits[1:] == 1), bits.eq(bits >> 1), timer.eq(self.divisor - 1), self.line.eq(bits[0])]
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
        return m


class UartRx(wiring.Component):
    """A line to bytes; a byte whose stop bit is not high is dropped.  A byte stays for one cycle: there is no ``ready``.

    Members
    -------
    line : In(1)
    data : Out(8)
    valid : Out(1)      in the middle of the stop bit, for one cycle
    """

    def __init__(self, *, divisor: int):
        self.divisor = divisor
        super().__init__({"line": In(1, init=1), "data": Out(8), "valid": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.line, line, init=1)
        timer = Signal(range(self.divisor + self.divisor // 2))
        count = Signal(range(BITS))  # bits still to come, the stop bit among them
        rested = Signal()  # the line was high: a start bit is a fall
        with m.If(count == 0):
            with m.If(line):
                m.d.sync += rested.eq(1)
            with m.Elif(rested):
                # To the middle of the first data bit.
                m.d.sync += [count.eq(BITS - 1), timer.eq(self.divisor + self.divisor // 2 - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [count.eq(count - 1), timer.eq(self.divisor - 1)]
            with m.If(count == 1):
                m.d.comb += self.valid.eq(line)
                m.d.sync += rested.eq(line)
            with m.Else():
                m.d.sync += self.data.eq(Cat(self.data[1:], line))
        return m
