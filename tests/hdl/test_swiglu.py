# amaranth: UnusedElaboratable=no
"""SwiGLU against its golden twin, to the bit."""

import numpy as np
import pytest
from amaranth.hdl import Const

import hdl.swiglu
from hdl.swiglu import SwiGLU
from sim.golden.swiglu import EDGE, swiglu
from tests.support.streams import collect, drive, simulate
from weights_to_rom.tables import silu_tables

SHAPES = [(2, 32), (4, 24), (8, 32)]  # lanes, wide_bits


def pairs(lanes, wide_bits, seed):
    """gate and up, int64[n, lanes]: the ends of the table, extremes, every entry, random values."""
    rng = np.random.default_rng(seed)
    low, high = -(1 << (wide_bits - 1)), (1 << (wide_bits - 1)) - 1
    edges = np.array(
        [0, 1, -1, 127, 128, EDGE - 1, EDGE, EDGE + 1, -EDGE, -EDGE - 1, 1 - EDGE, 1 << 16, -(1 << 16), low, high, low + 1]
    )
    gate = np.concatenate(
        [
            np.repeat(edges, 3),
            np.arange(-EDGE, EDGE, 256) + rng.integers(0, 256, 256),
            rng.integers(low, high, 64, endpoint=True),
            rng.integers(-EDGE, EDGE, 432),
        ]
    )
    up = rng.integers(low, high, len(gate), endpoint=True) >> rng.integers(0, wide_bits, len(gate))
    up[:48] = np.tile([low, high, -1], 16)
    return gate.reshape(-1, lanes), up.reshape(-1, lanes)


def check(lanes, wide_bits, stall_in, stall_out, seed=0):
    gate, up = pairs(lanes, wide_bits, seed)
    dut = SwiGLU(lanes=lanes, wide_bits=wide_bits)
    sent, expected = [], []
    for k, (g, u, z) in enumerate(zip(gate.tolist(), up.tolist(), swiglu(gate, up).tolist(), strict=True)):
        last = int(k % 5 == 4)
        sent += [{"data": g, "last": 0}, {"data": u, "last": last}]
        expected.append({"data": z, "base": -24, "last": last})
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
@pytest.mark.parametrize("stalls", [(0.4, 0.4), (0.0, 0.7)])
def test_equals_golden(shape, stalls):
    check(*shape, *stalls)


@pytest.mark.parametrize("shape", SHAPES)
def test_latency_and_rate(shape):
    times_in, times_out = check(*shape, 0.0, 0.0)
    assert times_in == list(range(len(times_in)))
    assert times_out == [t + SwiGLU.latency for t in times_in[1::2]]


VALUE, STEP = silu_tables()

BROKEN = {
    "no rounding": ("Const", lambda value, width: Const(0, width)),
    "steps of the next entry": ("silu_tables", lambda: (VALUE, STEP[1:] + STEP[:1])),
    "one entry an LSB high": ("silu_tables", lambda: ([*VALUE[:7], VALUE[7] + 1, *VALUE[8:]], STEP)),
    "wrapped at the edge": ("Mux", lambda condition, yes, no: yes),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_copy_is_caught(fault, monkeypatch):
    monkeypatch.setattr(hdl.swiglu, *BROKEN[fault])
    with pytest.raises(AssertionError, match="beat"):
        check(4, 32, 0.0, 0.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"lanes": 0}, "lanes must be a positive integer, not 0"),
        ({"wide_bits": 16}, "wide_bits must be 24 or 32, not 16"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SwiGLU(**({"lanes": 4, "wide_bits": 32} | arguments))
