"""A serial line in hardware: eight data bits, no parity, one stop bit."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

BITS = 10
"""Bits of a byte on the line: a start bit, eight bits of data with the lowest first, a stop bit."""


class UartTx(wiring.Component):
    """line = start bit, eight bits of i, stop bit.

    A byte takes ``BITS * divisor + 1`` cycles.  Its start bit is on the line one cycle after the byte was taken.

    Parameters
    ----------
    divisor : int
        Cycles of a bit, at least ``protocol.LEAST_DIVISOR``.

    Members
    -------
    i : In(stream 8)    bytes
    line : Out(1)       high at rest
    """

    i: Any
    line: Any

    def __init__(self, *, divisor: int):
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "line": Out(1, init=1)})  # pyright: ignore[reportCallIssue]

    def elaborate(self, platform) -> Module:
        """Build a shift register, and a timer of one bit."""
        m = Module()
        timer = Signal(range(self.divisor))
        bits = Signal(BITS + 1, init=1)  # the bits yet to be sent, the stop bit among them, and above them a 1 that marks the end
        rests = Signal(init=1)  # bits == 1: the line is at rest
        m.d.comb += self.i.ready.eq(rests)
        with m.If(rests), m.If(self.i.valid):
            # The start bit is on the line in the next cycle, because ``line`` is a register.
            m.d.sync += [rests.eq(0), bits.eq(Cat(self.i.payload, Const(7, 3))), timer.eq(self.divisor - 1), self.line.eq(0)]
        with m.Elif(timer == 0):  # and the line is not at rest
            m.d.sync += [rests.eq(bits[1:] == 1), bits.eq(bits >> 1), timer.eq(self.divisor - 1), self.line.eq(bits[0])]
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
        return m


class UartRx(wiring.Component):
    """data = the byte on the line, taken in the middle of each bit.

    A byte whose stop bit is not high is dropped.  There is no ``ready``: a byte must be taken in the cycle in which it is valid.

    Parameters
    ----------
    divisor : int
        Cycles of a bit, at least ``protocol.LEAST_DIVISOR``.

    Members
    -------
    line : In(1)        may change at any time, because it passes a synchronizer
    data : Out(8)       the byte
    valid : Out(1)      high for one cycle, in the middle of the stop bit
    """

    line: Any
    data: Any
    valid: Any

    def __init__(self, *, divisor: int):
        self.divisor = divisor
        super().__init__({"line": In(1, init=1), "data": Out(8), "valid": Out(1)})  # pyright: ignore[reportCallIssue]

    def elaborate(self, platform) -> Module:
        """Build a shift register, and a timer that starts at the fall of the start bit."""
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.line, line, init=1)
        timer = Signal(range(self.divisor + self.divisor // 2))
        count = Signal(range(BITS))  # bits still to come, the stop bit among them
        rested = Signal()  # the line was high since the last byte, so a low line is a start bit
        with m.If(count == 0):
            with m.If(line):
                m.d.sync += rested.eq(1)
            with m.Elif(rested):
                # The middle of the first data bit is one bit and a half away.
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
