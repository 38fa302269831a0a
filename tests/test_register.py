# amaranth: UnusedElaboratable=no
"""A register: every beat once, in order, a cycle after it came."""

import random

import pytest
from amaranth.hdl import unsigned
from streams import collect, drive, simulate

from hdl.register import Register

WIDTH = 16


def check(stall_in, stall_out, make=Register, count=200):
    rng = random.Random(f"{stall_in} {stall_out}")
    sent = [rng.choice((0, (1 << WIDTH) - 1, rng.randrange(1 << WIDTH))) for _ in range(count)]
    times_in, times_out = [], []
    dut = make(unsigned(WIDTH))
    _, got = simulate(dut, lambda ctx: drive(ctx, dut.i, sent, stall_in, times=times_in),
                      lambda ctx: collect(ctx, dut.o, count, stall_out, times=times_out))
    assert got == sent
    return times_in, times_out


@pytest.mark.parametrize("stalls", [(0.4, 0.0), (0.0, 0.5), (0.4, 0.4), (0.1, 0.9)])
def test_every_beat_once(stalls):
    check(*stalls)


def test_a_beat_a_cycle_one_cycle_later():
    times_in, times_out = check(0.0, 0.0)
    assert times_in == list(range(200))
    assert times_out == list(range(1, 201))


class AlwaysReady(Register):
    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.i.ready.eq(1)
        return m


def test_a_beat_that_is_replaced_before_it_is_taken_is_caught():
    with pytest.raises(AssertionError):
        check(0.0, 0.5, AlwaysReady)
