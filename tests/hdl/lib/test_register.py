# amaranth: UnusedElaboratable=no
"""A register: every beat once, in order, a cycle after it came."""

import pytest
from amaranth.hdl import unsigned

from hdl.lib.register import Register
from tests.support.streams import pass_on

WIDTH = 16


@pytest.mark.parametrize("stalls", [(0.4, 0.0), (0.0, 0.5), (0.4, 0.4), (0.1, 0.9)])
def test_every_beat_once(stalls):
    pass_on(Register(unsigned(WIDTH)), *stalls)


def test_a_beat_a_cycle_one_cycle_later():
    times_in, times_out = pass_on(Register(unsigned(WIDTH)), 0.0, 0.0)
    assert times_in == list(range(200))
    assert times_out == list(range(1, 201))


class AlwaysReady(Register):
    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.i.ready.eq(1)
        return m


def test_a_beat_that_is_replaced_before_it_is_taken_is_caught():
    with pytest.raises(AssertionError):
        pass_on(AlwaysReady(unsigned(WIDTH)), 0.0, 0.5)
