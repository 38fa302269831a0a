"""Models of units that take one beat after the other, against cycles worked out by hand."""

import pytest

from hdl.cycles.pipes import Mx, Pipe, Sampler, Skid, Taker


class Slow:
    """Takes a beat at the earliest ``busy`` cycles after the last one."""

    def __init__(self, busy: int):
        self.busy, self.last = busy, -busy

    def take(self, offered: int) -> int:
        self.last = max(offered, self.last + self.busy)
        return self.last


def test_a_pipe_moves_a_beat_a_cycle():
    pipe = Pipe(4, taker := Taker())
    assert [pipe.take(cycle) for cycle in (1, 2, 2, 9)] == [1, 2, 3, 9]
    assert (pipe.first, pipe.last, pipe.last_out, taker.last) == (1, 9, 13, 13)


def test_a_pipe_stands_still_while_its_last_beat_waits():
    # The beats of cycles 1 and 2 are due at 3 and 4; the second is taken at 11, so that the pipe stands still from 4 to 11.
    pipe = Pipe(2, Slow(8))
    assert [pipe.take(1), pipe.take(2), pipe.take(3)] == [1, 2, 3]
    assert pipe.take(4) == 11


def test_a_skid_keeps_a_beat():
    skid = Skid(Slow(5))
    assert [skid.take(1) for _ in range(3)] == [1, 2, 7]


def test_a_sampler_takes_parts():
    # The first beat a cycle late, two parts a beat, one of the last beat.
    sampler = Sampler(2, 3, 1)
    assert [sampler.take(cycle) for cycle in (10, 11, 12)] == [12, 14, 15]


@pytest.mark.parametrize(("latency", "out"), [(4, 8), (6, 10)])
def test_a_block_leaves_when_its_last_beat_is_in(latency, out):
    """Blocks of four beats in and two out: the first beat out ``latency`` cycles after the last one in."""
    mx = Mx(latency, 4, 2, None, taker := Taker())
    assert [mx.take(1) for _ in range(4)] == [1, 2, 3, 4]
    assert taker.last == out + 1


def test_a_short_last_block_is_closed():
    # The first block is read in cycles 5 and 6, the short one, complete in 5, in 7 and 8; a beat leaves 3 cycles after its read.
    mx = Mx(4, 4, 2, 5, taker := Taker())
    assert [mx.take(1) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert taker.last == 8 + 3
