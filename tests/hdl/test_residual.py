# amaranth: UnusedElaboratable=no
"""The residual adder against its golden twin, to the bit."""

import numpy as np
import pytest

import hdl.residual
from hdl.residual import Residual
from sim.golden.residual import residual
from tests.support.streams import collect, drive, simulate

SHAPES = [  # dim_padded, lanes, wide_bits
    (32, 2, 32),
    (64, 4, 24),
    (64, 8, 32),
    (64, 32, 24),
    (32, 32, 32),
    (8, 4, 32),
]


def vectors(dim_padded, wide_bits, seed):
    """(load, values): the extremes, runs that saturate on both sides and come back, random sums and loads."""
    rng = np.random.default_rng(seed)
    low, high = -(1 << (wide_bits - 1)), (1 << (wide_bits - 1)) - 1
    one_hot = np.ones(dim_padded, np.int64)
    one_hot[dim_padded // 3] = high
    out = [
        (1, np.full(dim_padded, high)),
        (0, np.full(dim_padded, 1)),
        (0, np.full(dim_padded, low)),
        (0, np.full(dim_padded, low)),
        (0, np.full(dim_padded, high)),
        (1, np.full(dim_padded, low)),
        (0, np.full(dim_padded, -1)),
        (0, np.zeros(dim_padded)),
        (1, one_hot),
        (0, one_hot),
        (0, -one_hot),
    ]
    for _ in range(30):
        scale = high >> int(rng.integers(0, 12))
        out.append((int(rng.random() < 0.2), rng.integers(-scale - 1, scale, dim_padded, endpoint=True)))
    return [(load, v.astype(np.int64)) for load, v in out]


def check(dim_padded, lanes, wide_bits, stall_in, stall_out):
    dut = Residual(dim_padded=dim_padded, lanes=lanes, wide_bits=wide_bits)
    sent, expected, h = [], [], None
    for load, v in vectors(dim_padded, wide_bits, dim_padded + lanes):
        h = v if load else residual(h, v, wide_bits)
        for beats, values, extra in ((sent, v, {"load": load}), (expected, h, {})):
            beats += [{"data": row, "last": 0, **extra} for row in values.reshape(-1, lanes).tolist()]
            beats[-1]["last"] = 1
    times_in, times_out = [], []
    _, got = simulate(
        dut,
        lambda ctx: drive(ctx, dut.i, sent, stall_in, times=times_in),
        lambda ctx: collect(ctx, dut.o, len(expected), stall_out, times=times_out),
    )
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a == b, f"beat {k}"
    return times_in, times_out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stalls", [(0.4, 0.4), (0.0, 0.6)])
def test_equals_golden(shape, stalls):
    check(*shape, *stalls)


@pytest.mark.parametrize("shape", SHAPES)
def test_latency_and_rate(shape):
    times_in, times_out = check(*shape, 0.0, 0.0)
    assert times_in == list(range(len(times_in)))
    assert times_out == [Residual.latency + t for t in times_in]


BROKEN = {
    "no saturation": lambda value, width: value[:width],
    "one less": lambda value, width: hdl.lib.bits.saturate(value - 1, width),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_copy_is_caught(fault, monkeypatch):
    monkeypatch.setattr(hdl.residual, "saturate", BROKEN[fault])
    with pytest.raises(AssertionError, match="beat"):
        check(32, 2, 32, 0.0, 0.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"lanes": 0}, "lanes must be a positive integer, not 0"),
        ({"dim_padded": 66}, r"dim_padded must be a multiple of lanes \(4\), not 66"),
        ({"wide_bits": 16}, "wide_bits must be 24 or 32, not 16"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Residual(**({"dim_padded": 64, "lanes": 4, "wide_bits": 32} | arguments))
