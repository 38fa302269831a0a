"""The serial line carries every byte at the promised rate, and noise costs only the bytes that it hits."""

import random
from itertools import pairwise

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from fpga.link.protocol import divisor_for
from fpga.link.uart import BITS, UartRx, UartTx
from tests.support.streams import drive, simulate


class Pair(wiring.Component):
    """A sender and a receiver, whose divisors may differ.  ``cut`` holds the line between them low."""

    def __init__(self, tx: int, rx: int):
        self.tx, self.rx = UartTx(divisor=tx), UartRx(divisor=rx)
        super().__init__({"i": In(stream.Signature(8)), "data": Out(8), "valid": Out(1), "cut": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.tx, m.submodules.rx = self.tx, self.rx
        connect(m, flipped(self.i), self.tx.i)
        m.d.comb += [self.rx.line.eq(self.tx.line & ~self.cut), self.data.eq(self.rx.data), self.valid.eq(self.rx.valid)]
        return m


def listen(dut, n, times=None):
    async def run(ctx):
        got, cycle = [], 0
        while len(got) < n:
            *_, valid, data = await ctx.tick().sample(dut.valid, dut.data)
            if valid:
                got.append(data)
                if times is not None:
                    times.append(cycle)
            cycle += 1
        return got

    return run


@pytest.mark.parametrize(("tx", "rx"), [(4, 4), (5, 5), (16, 16), (51, 50), (100, 104)])
@pytest.mark.parametrize("stall", [0.0, 0.05])
def test_bytes_arrive(tx, rx, stall):
    dut, rng = Pair(tx, rx), random.Random(tx)
    sent = [0, 255, 0x55, 0xAA, *(rng.randrange(256) for _ in range(40))]
    _, got = simulate(dut, lambda ctx: drive(ctx, dut.i, sent, stall=stall, seed=1), listen(dut, len(sent)))
    assert got == sent


@pytest.mark.parametrize("divisor", [4, 7, 16])
def test_a_byte_takes_as_long_as_promised(divisor):
    dut, moved, came = Pair(divisor, divisor), [], []
    simulate(dut, lambda ctx: drive(ctx, dut.i, range(8), times=moved), listen(dut, 8, came))
    assert {b - a for a, b in pairwise(moved)} == {BITS * divisor + 1}
    # One cycle to the start bit, two in the synchronizer, one to see the fall, and then to the middle of the stop bit.
    assert came[0] - moved[0] == 1 + 2 + 9 * divisor + divisor // 2


def test_a_line_that_is_held_low_is_no_byte():
    dut = Pair(8, 8)

    async def cut(ctx):
        ctx.set(dut.cut, 1)
        await ctx.tick().repeat(1000)
        ctx.set(dut.cut, 0)
        await ctx.tick().repeat(100)
        await drive(ctx, dut.i, [0x5A])

    _, got = simulate(dut, cut, listen(dut, 1))
    assert got == [0x5A]


def test_divisors():
    assert divisor_for(12e6, 1_000_000) == 12
    assert divisor_for(55e6, 3_000_000) == 18
    with pytest.raises(ValueError, match=r"3000000 baud cannot be made of 12\.5 MHz: a bit would take 4\.17 cycles"):
        divisor_for(12.5e6, 3_000_000)
    with pytest.raises(ValueError, match=r"would take 2\.00"):
        divisor_for(6e6, 3_000_000)
