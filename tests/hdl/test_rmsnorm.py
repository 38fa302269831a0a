# amaranth: UnusedElaboratable=no
"""RMSNorm against its golden twin, to the bit."""

import numpy as np
import pytest

import hdl.lib.bits
import hdl.rmsnorm
from hdl.rmsnorm import RMSNorm
from sim.golden.rmsnorm import rmsnorm
from tests.support.streams import collect, drive, simulate
from weights_to_rom.tables import rsqrt_table

SHAPES = [(64, 4, 32), (32, 2, 24), (48, 8, 32), (32, 32, 24), (160, 16, 32), (20, 8, 24)]  # dim, lanes, wide


class Norms:
    """Random gains and constants, and the ROM words that hold them."""

    def __init__(self, dim, lanes, count, seed):
        rng = np.random.default_rng(seed)
        padded = -(-dim // 32) * 32
        self.dim, self.lanes, self.count = dim, lanes, count
        self.gain = np.zeros((count, padded), np.int64)
        self.gain[:, :dim] = rng.integers(-32768, 32767, (count, dim), endpoint=True)
        self.gain[0, :dim] = 32767
        self.gain[1, :dim:2] = -32768
        self.exponent = [-12, 40, -60, *(int(e) for e in rng.integers(-60, 60, count - 3))]
        self.eps = [1, 2**32 - 1, 41943, *(int(e) for e in 2 ** rng.uniform(0, 32, count - 3))]

    def gain_words(self):
        return [sum((int(g) & 0xFFFF) << 16 * k for k, g in enumerate(row)) for row in self.gain.reshape(-1, self.lanes)]

    def const_words(self):
        return [eps | (ge & 0xFF) << 32 for eps, ge in zip(self.eps, self.exponent, strict=True)]

    def beats_in(self, v):
        return beats(np.concatenate([v, np.zeros(self.gain.shape[1] - self.dim, np.int64)]), self.lanes)

    def beats_out(self, number, v):
        z, base = rmsnorm(v, self.gain[number, : self.dim], self.exponent[number], self.eps[number])
        z = np.concatenate([z, np.zeros(self.gain.shape[1] - self.dim, np.int64)])
        return beats(z, self.lanes, base=int(base))


def beats(v, lanes, **extra):
    rows = v.reshape(-1, lanes).tolist()
    return [{"data": row, "last": k == len(rows) - 1, **extra} for k, row in enumerate(rows)]


def vectors(dim, wide_bits, seed):
    """Zero, extremes, a massive value among ones, and random vectors of every magnitude."""
    rng = np.random.default_rng(seed)
    low, high = -(1 << (wide_bits - 1)), (1 << (wide_bits - 1)) - 1
    one_hot = np.ones(dim, np.int64)
    one_hot[dim // 2] = high
    out = [
        np.zeros(dim),
        np.full(dim, low),
        np.full(dim, high),
        one_hot,
        -one_hot,
        np.eye(dim)[0],
        np.full(dim, -1),
        np.full(dim, 1 << 15),
        np.full(dim, -(1 << 15)),
        np.full(dim, (1 << 15) - 1),
    ]
    for bits in range(2, wide_bits, 2):
        out.append(rng.integers(-(1 << bits), (1 << bits) - 1, dim, endpoint=True))
    return [v.astype(np.int64) for v in out]


def check(dim, lanes, wide_bits, stall_in, stall_out, count=5):
    norms = Norms(dim, lanes, count, seed=dim + lanes)
    todo = vectors(dim, wide_bits, seed=dim)
    dut = RMSNorm(
        dim=dim, lanes=lanes, wide_bits=wide_bits, n_norms=count, gain_init=norms.gain_words(), const_init=norms.const_words()
    )
    # Tokens: the second one stops short of the last norm, as one does that skips the head.
    tokens = []
    while todo:
        size = count - 1 if len(tokens) == 1 else count
        tokens.append(todo[:size])
        todo = todo[size:]
    arrived = []

    async def source(ctx):
        for number, token in enumerate(tokens):
            while len(arrived) < number:
                await ctx.tick()
            ctx.set(dut.restart, 1)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            sent = [beat for v in token for beat in norms.beats_in(v)]
            await drive(ctx, dut.i, sent, stall_in, seed=number)

    async def sink(ctx):
        for number, token in enumerate(tokens):
            expected = [beat for k, v in enumerate(token) for beat in norms.beats_out(k, v)]
            got = await collect(ctx, dut.o, len(expected), stall_out, seed=number)
            for k, (a, b) in enumerate(zip(got, expected, strict=True)):
                assert a == b, f"token {number}, beat {k}"
            arrived.append(number)

    simulate(dut, source, sink)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_golden(shape):
    check(*shape, 0.3, 0.4)


@pytest.mark.parametrize("shape", [(32, 4, 32), (32, 32, 24)])
def test_next_vector_waits_behind_a_slow_reader(shape):
    check(*shape, 0.0, 0.8)


@pytest.mark.parametrize("dim, lanes, wide_bits", SHAPES)
def test_latency_and_rate(dim, lanes, wide_bits):
    norms = Norms(dim, lanes, 3, seed=1)
    dut = RMSNorm(
        dim=dim, lanes=lanes, wide_bits=wide_bits, n_norms=3, gain_init=norms.gain_words(), const_init=norms.const_words()
    )
    n = norms.gain.shape[1] // lanes
    v = vectors(dim, wide_bits, seed=1)[-3:]
    sent = [beat for x in v for beat in norms.beats_in(x)]
    times_in, times_out = [], []
    _, got = simulate(
        dut, lambda ctx: drive(ctx, dut.i, sent, times=times_in), lambda ctx: collect(ctx, dut.o, 3 * n, times=times_out)
    )
    assert got == [beat for k, x in enumerate(v) for beat in norms.beats_out(k, x)]
    latency = (n // 2 + 15 if n % 2 == 0 else n + 14) + lanes.bit_length() - 1
    assert dut.latency == latency
    step = 2 * n - 8 + latency
    assert times_in == [k * step + beat for k in range(3) for beat in range(n)]
    assert times_out == [k * step + n - 1 + latency + beat for k in range(3) for beat in range(n)]


BROKEN = {
    "shift off by one": ("bitlen", lambda x: hdl.lib.bits.bitlen(x) + (x.shape().width == 16)),
    "sign in the magnitude": ("magnitude", lambda x: x[:-1]),
    "table one LSB low": ("rsqrt_table", lambda: [r - 1 for r in rsqrt_table()]),
    "eps not shifted": (
        "shift_right",
        lambda x, s, width, unit=1: hdl.lib.bits.shift_right(x, 0 if unit == 2 else s, width, unit=unit),
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_copy_is_caught(fault, monkeypatch):
    monkeypatch.setattr(hdl.rmsnorm, *BROKEN[fault])
    with pytest.raises(AssertionError, match="token"):
        check(32, 4, 32, 0.0, 0.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dim": 0}, "dim must be a positive integer, not 0"),
        ({"lanes": 3}, "lanes must be a power of two from 2 to 32, not 3"),
        ({"wide_bits": 16}, "wide_bits must be 24 or 32, not 16"),
        ({"n_norms": 0}, "n_norms must be a positive integer, not 0"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RMSNorm(**({"dim": 64, "lanes": 4, "wide_bits": 32, "n_norms": 3} | arguments))
