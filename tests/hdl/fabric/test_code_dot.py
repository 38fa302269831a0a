"""The three multipliers against numpy: every code with every mantissa, random vectors, extremes."""

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.fabric.code_dot import MULTIPLIERS, Booth, Magic, Plain, product_shape, total_shape


class Bench(wiring.Component):
    """A broadcast side and one lane."""

    def __init__(self, multiplier):
        self.multiplier = multiplier
        lanes = multiplier.block_lanes
        super().__init__(
            {
                "codes": In(4).array(lanes),
                "x": In(signed(8)).array(lanes),
                "total": In(total_shape(lanes)),
                "product": Out(product_shape(lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        prepared = self.multiplier.prepare(m, self.x, self.total)
        m.d.comb += self.product.eq(self.multiplier.dot(m, prepared, list(self.codes)))
        return m


def simulate(multiplier, q, x):
    """P of each row of q and x, one row a cycle: checks the latency on the way."""
    dut = Bench(multiplier)
    out = []
    latency = multiplier.latency

    async def bench(ctx):
        for t in range(len(q) + latency):
            if t < len(q):
                for j in range(multiplier.block_lanes):
                    ctx.set(dut.codes[j], int(q[t, j]))
                    ctx.set(dut.x[j], int(x[t, j]))
                ctx.set(dut.total, int(x[t].sum()))
            if t >= latency:
                out.append(ctx.get(dut.product))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return np.array(out)


def check(multiplier, q, x):
    assert np.array_equal(simulate(multiplier, q, x), (q * x).sum(axis=1))


def every_product():
    """All 16 * 255 pairs, spread over the four lanes so that each lane sees each pair."""
    q, x = (a.reshape(-1) for a in np.meshgrid(np.arange(16), np.arange(-127, 128)))
    shifts = (0, 1, 17, 256)
    return np.stack([np.roll(q, s) for s in shifts], 1), np.stack([np.roll(x, s) for s in shifts], 1)


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_every_code_with_every_mantissa(name):
    check(MULTIPLIERS[name](4), *every_product())


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
@pytest.mark.parametrize("name", MULTIPLIERS)
def test_random_and_extremes(name, lanes):
    rng = np.random.default_rng(lanes)
    q = rng.integers(0, 16, (120, lanes))
    x = rng.integers(-127, 128, (120, lanes))
    q[:3], x[0], x[1], x[2] = 15, 127, -127, 0
    q[3], x[3] = 0, 127
    check(MULTIPLIERS[name](lanes), q, x)


class SelectsNeighbour(Magic):
    """The routing of 11x is that of 9x."""

    def _terms(self, prepared, codes):
        return super()._terms(prepared, [Mux(q == 11, 9, q) for q in codes])


class ForgetsSum(Booth):
    """Without the correction of the flipped top bit."""

    def _terms(self, prepared, codes):
        return [*super()._terms(prepared, codes)[:-1], Value.cast(0)]


class SignedCode(Plain):
    """Codes taken as two's complement."""

    def _terms(self, prepared, codes):
        return [x * q.as_signed() for x, q in zip(prepared.x, codes, strict=True)]


@pytest.mark.parametrize("broken", [SelectsNeighbour, ForgetsSum, SignedCode])
def test_the_check_catches(broken):
    with pytest.raises(AssertionError):
        check(broken(4), *every_product())
