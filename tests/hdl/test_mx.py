# amaranth: UnusedElaboratable=no
"""The MX conversion against its golden twin, to the bit."""

import numpy as np
import pytest

import hdl.mx
from hdl.mx import Mx
from sim.golden.mx import mx
from tests.support.streams import collect, drive, simulate

SHAPES = [  # lanes, block, width, lanes of o
    (2, 8, 24, 2),
    (2, 32, 63, 4),
    (4, 32, 32, 4),
    (4, 16, 63, 8),
    (8, 8, 64, 8),
    (8, 32, 24, 32),
    (32, 32, 32, 32),
    (1, 8, 9, 1),
    (1, 8, 9, 4),
    (4, 32, 64, 8),
]


def vectors(lanes, block, width, seed):
    """(base, values): corner values, every magnitude of the exponent, lengths that leave a block unfilled."""
    rng = np.random.default_rng(seed)
    low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
    one_hot = np.ones(2 * block, np.int64)
    one_hot[block // 2] = high
    out = [
        (0, np.zeros(block, np.int64)),
        (-12, np.full(block, low)),
        (-24, np.full(block, high)),
        (3, one_hot),
        (-128, -one_hot),
        (7, np.full(lanes, -1)),
        (0, np.full(block, 127)),
        (0, np.full(block, -128)),
        (-1, np.full(lanes, low)),
        (0, np.arange(3 * block) - block),
    ]
    for bits in range(1, width):
        # Around the halves and the carries into 2**7: what a block of this magnitude rounds and clips.
        top = (1 << bits) - 1
        near = [top, -top - 1, top - (top >> 8), -(top >> 1) - 1, top >> 9, (top >> 8) + 1, top // 3]
        n = lanes * int(rng.integers(1, 2 * block // lanes + 1))
        uniform = rng.integers(-top - 1, top, n, endpoint=True)
        values = np.where(rng.random(n) < 0.5, rng.choice(near, n), uniform)
        out.append((int(rng.integers(-128, 64)), values))
    return [(base, np.asarray(v, np.int64)) for base, v in out]


def beats_in(lanes, base, v):
    rows = v.reshape(-1, lanes).tolist()
    return [{"data": row, "base": base, "last": k == len(rows) - 1} for k, row in enumerate(rows)]


def beats_out(lanes, block, base, v):
    mant, exp = mx(v, base, block)
    beats = [
        {"mant": row, "exp": int(e), "last": 0} for m, e in zip(mant, exp, strict=True) for row in m.reshape(-1, lanes).tolist()
    ]
    beats[-1]["last"] = 1
    return beats


def check(lanes, block, width, o_lanes, stall_in, stall_out, seed=0):
    dut = Mx(lanes=lanes, block=block, width=width, o_lanes=o_lanes)
    sent, expected = [], []
    for base, v in vectors(lanes, block, width, seed):
        sent += beats_in(lanes, base, v)
        expected += beats_out(o_lanes, block, base, v)
    _, got = simulate(
        dut, lambda ctx: drive(ctx, dut.i, sent, stall_in, seed), lambda ctx: collect(ctx, dut.o, len(expected), stall_out, seed)
    )
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a == b, f"beat {k}"


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_golden(shape):
    check(*shape, 0.4, 0.4, seed=sum(shape))


@pytest.mark.parametrize("stalls", [(0.0, 0.0), (0.0, 0.7), (0.7, 0.0)])
def test_stalls_on_one_side(stalls):
    check(8, 32, 32, 8, *stalls)
    check(4, 32, 32, 8, *stalls)


@pytest.mark.parametrize("lanes, block, width, o_lanes", SHAPES)
def test_latency_and_rate(lanes, block, width, o_lanes):
    dut = Mx(lanes=lanes, block=block, width=width, o_lanes=o_lanes)
    beats, o_beats = block // lanes, block // o_lanes
    sent = beats_in(lanes, 0, np.arange(5 * block))
    times_in, times_out = [], []
    simulate(
        dut, lambda ctx: drive(ctx, dut.i, sent, times=times_in), lambda ctx: collect(ctx, dut.o, 5 * o_beats, times=times_out)
    )
    assert times_in == list(range(5 * beats))
    assert times_out == [beats * n - 1 + Mx.latency + k for n in range(1, 6) for k in range(o_beats)]


def test_an_unfilled_block_is_padded_on_the_way_out_only():
    dut = Mx(lanes=4, block=32, width=32)
    sent = [beat for base in range(4) for beat in beats_in(4, base, np.array([1, -2, 3, 4 << 20]))]
    times_in, times_out = [], []
    _, got = simulate(
        dut, lambda ctx: drive(ctx, dut.i, sent, times=times_in), lambda ctx: collect(ctx, dut.o, 32, times=times_out)
    )
    assert times_in[:2] == [0, 1]
    assert times_out == list(range(4, 36))
    assert [beat["last"] for beat in got] == [0, 0, 0, 0, 0, 0, 0, 1] * 4
    assert all(beat["mant"] == [0] * 4 for k, beat in enumerate(got) if k % 8)


BROKEN = {
    "no rounding": ("_round_and_clip", lambda x: x.as_signed() >> 1),
    "no clip": ("_round_and_clip", lambda x: (x.as_signed() + 1) >> 1),
    "half rounds down": ("_round_and_clip", lambda x: (x.as_signed() + 1 - (x[0] & x[8])) >> 1),
    "sign in the magnitude": ("magnitude", lambda x: x[:-1]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_copy_is_caught(fault, monkeypatch):
    monkeypatch.setattr(hdl.mx, *BROKEN[fault])
    with pytest.raises(AssertionError, match="beat"):
        check(4, 32, 32, 4, 0.0, 0.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"lanes": 0}, "lanes must be a positive integer, not 0"),
        ({"block": 6}, r"block must be a multiple of lanes \(4\), not 6"),
        ({"width": 65}, "width must be 9 to 64, not 65"),
        ({"o_lanes": 12}, r"o_lanes must be lanes \(4\) times a power of two, and divide block \(32\), not 12"),
        ({"o_lanes": 64}, r"o_lanes must be lanes \(4\) times a power of two, and divide block \(32\), not 64"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mx(**({"lanes": 4, "block": 32, "width": 32} | arguments))
