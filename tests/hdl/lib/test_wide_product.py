# amaranth: UnusedElaboratable=no
"""The cut-up product: exact at every width, at the latency it states."""

import random

import pytest
from amaranth.sim import Simulator

import hdl.lib.wide_product
from hdl.lib.wide_product import WideProduct

WIDTHS = [  # a, b, latency
    (1, 1, 1),
    (18, 18, 1),
    (19, 16, 2),
    (24, 16, 2),
    (32, 16, 2),
    (32, 17, 2),
    (33, 10, 2),
    (47, 16, 3),
    (24, 24, 3),
    (32, 32, 3),
    (40, 53, 5),
]


def check(a_width, b_width, latency):
    rng = random.Random(a_width)

    def operand(width):
        low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
        return rng.choice([low, high, 0, -1, rng.randint(low, high), rng.randint(low, high) >> width // 2])

    pairs = [(operand(a_width), operand(b_width)) for _ in range(300)]
    dut = WideProduct(a_width=a_width, b_width=b_width)
    assert dut.latency == latency
    got = []

    async def bench(ctx):
        for a, b in pairs + [(0, 0)] * latency:
            ctx.set(dut.en, 0)
            while rng.random() < 0.3:
                # Nothing moves, whatever the operands are.
                ctx.set(dut.a, rng.getrandbits(a_width))
                await ctx.tick()
            ctx.set(dut.en, 1)
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            got.append(ctx.get(dut.p))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    for (a, b), p in zip(pairs, got[latency:], strict=True):
        assert p == a * b, f"{a} * {b} gave {p}"


@pytest.mark.parametrize("widths", WIDTHS)
def test_exact(widths):
    check(*widths)


def test_broken_copy_is_caught(monkeypatch):
    whole = hdl.lib.wide_product._digits
    monkeypatch.setattr(hdl.lib.wide_product, "_digits", lambda value: [d.as_unsigned() for d in whole(value)])
    with pytest.raises(AssertionError, match="gave"):
        check(32, 16, 2)


def test_arguments():
    with pytest.raises(ValueError, match="a_width must be a positive integer, not 0"):
        WideProduct(a_width=0, b_width=3)
    with pytest.raises(ValueError, match=r"b_width must be a positive integer, not 2\.5"):
        WideProduct(a_width=1, b_width=2.5)
