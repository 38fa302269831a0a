# amaranth: UnusedElaboratable=no
"""A skid: every beat once, in order, in the cycle in which it came; and ready does not depend on ready."""

import pytest
from amaranth.hdl import unsigned

import hdl.lib.skid
from hdl.lib.skid import Skid
from tests.support.streams import pass_on, simulate

WIDTH = 16


def check(stall_in, stall_out):
    return pass_on(Skid(unsigned(WIDTH)), stall_in, stall_out)


@pytest.mark.parametrize("stalls", [(0.4, 0.0), (0.0, 0.5), (0.4, 0.4), (0.1, 0.9)])
def test_every_beat_once(stalls):
    times_in, times_out = check(*stalls)
    # One beat is kept at most: the next one comes in after it has left.
    assert all(entered > left for entered, left in zip(times_in[2:], times_out, strict=False))


def test_a_beat_a_cycle_without_latency():
    times_in, times_out = check(0.0, 0.0)
    assert times_in == times_out == list(range(200))


def test_ready_is_a_register():
    dut = Skid(unsigned(WIDTH))

    async def bench(ctx):
        ctx.set(dut.o.ready, 0)
        ctx.set(dut.i.valid, 1)
        assert ctx.get(dut.i.ready)  # whatever o.ready says
        await ctx.tick()
        ctx.set(dut.o.ready, 1)
        assert not ctx.get(dut.i.ready) and ctx.get(dut.o.valid)
        await ctx.tick()
        assert ctx.get(dut.i.ready)

    simulate(dut, bench)


def test_a_beat_that_is_not_kept_is_caught(monkeypatch):
    """A broken skid: the beat that arrives leaves at once, even if an older one waits."""
    monkeypatch.setattr(hdl.lib.skid, "Mux", lambda test, yes, no: no)
    with pytest.raises(AssertionError):
        check(0.0, 0.5)
