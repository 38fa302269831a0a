# amaranth: UnusedElaboratable=no
"""RoPE against its golden twin, to the bit."""

import numpy as np
import pytest

import hdl.rope
from hdl.lib.bits import saturate
from hdl.rope import RoPE
from sim.golden.rope import rope
from tests.support.streams import collect, drive, simulate
from weights_to_rom.tables import sine_table

NAMES = ("n_heads", "n_kv_heads", "head_dim", "lanes", "wide_bits", "sine_bits", "position_bits", "sinks")
SHAPES = [
    (4, 2, 8, 2, 32, 10, 8, False),
    (6, 2, 16, 4, 24, 10, 9, False),
    (2, 2, 8, 8, 32, 6, 10, False),
    (3, 1, 48, 8, 32, 10, 7, False),
    (1, 1, 4, 4, 24, 14, 17, False),
    (2, 1, 8, 4, 32, 4, 18, False),
    (2, 1, 4, 2, 32, 10, 1, False),
    (4, 2, 8, 2, 32, 10, 32, True),
    (3, 1, 48, 8, 24, 10, 32, True),
    (2, 1, 4, 4, 32, 10, 32, True),
]


class Layers:
    """Random frequencies, and for each position a layer's k, v and q and what golden makes of them."""

    def __init__(self, n_heads, n_kv_heads, head_dim, lanes, wide_bits, sine_bits, position_bits, sinks, count=12):
        rng = np.random.default_rng(head_dim + n_heads)
        self.freq = rng.integers(0, 1 << 32, head_dim // 2).astype(np.uint32)
        self.freq[:2] = [(1 << 32) - 1, 1]
        # k, v and q: extremes in every combination of signs, then random values of every magnitude.
        low, high = -(1 << (wide_bits - 1)), (1 << (wide_bits - 1)) - 1
        heads = n_heads + 2 * n_kv_heads
        shift = rng.integers(0, wide_bits, (count, heads, 1))
        x = rng.integers(low, high, (count, heads, head_dim), endpoint=True) >> shift
        corners = [low, low, low, high, high, high, 0, 1, -1]
        x[: count // 2] = rng.choice(corners, (count // 2, heads, head_dim))
        end = 1 << position_bits
        self.positions = [0, end - 1, *(int(p) for p in rng.integers(0, end, count - 2))]
        self.sink_positions = [int(p) for p in rng.integers(0, end, count)]
        y = rope(x, np.array(self.positions), self.freq, wide_bits, sine_bits)
        y[:, n_kv_heads : 2 * n_kv_heads] = x[:, n_kv_heads : 2 * n_kv_heads]
        if sinks:  # each head of q is followed by the same, turned for the sinks
            again = rope(x, np.array(self.sink_positions), self.freq, wide_bits, sine_bits)
            q = np.stack([y, again], axis=2)[:, 2 * n_kv_heads :].reshape(count, -1, head_dim)
            y = np.concatenate([y[:, : 2 * n_kv_heads], q], axis=1)
        self.sent = [beats(layer, lanes) for layer in x]
        self.expected = [beats(layer, lanes, base=-12) for layer in y]

    def freq_words(self, lanes):
        return [sum(int(f) << 32 * k for k, f in enumerate(row)) for row in self.freq.reshape(-1, lanes // 2)]


def beats(layer, lanes, **extra):
    rows = layer.reshape(-1, lanes).tolist()
    return [{"data": row, "last": int(k == len(rows) - 1), **extra} for k, row in enumerate(rows)]


def unit(shape, layers):
    named = dict(zip(NAMES, shape, strict=True))
    return RoPE(**named, freq_init=layers.freq_words(named["lanes"]))


def check(shape, stall_in, stall_out):
    layers = Layers(*shape)
    dut = unit(shape, layers)
    times_in, times_out = [], []
    arrived = []

    async def source(ctx):
        for number, sent in enumerate(layers.sent):
            while len(arrived) < number:
                await ctx.tick()
            ctx.set(dut.position, layers.positions[number])
            ctx.set(dut.sink_position, layers.sink_positions[number])
            times_in.append([])
            await drive(ctx, dut.i, sent, stall_in, seed=number, times=times_in[-1])

    async def sink(ctx):
        for number, expected in enumerate(layers.expected):
            times_out.append([])
            got = await collect(ctx, dut.o, len(expected), stall_out, seed=number, times=times_out[-1])
            for k, (a, b) in enumerate(zip(got, expected, strict=True)):
                assert a == b, f"layer {number}, beat {k}"
            arrived.append(number)

    simulate(dut, source, sink)
    return times_in[0], times_out[0], dut.latency


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_golden(shape):
    check(shape, 0.3, 0.4)


@pytest.mark.parametrize("shape", SHAPES)
def test_latency_and_rate(shape):
    times_in, times_out, latency = check(shape, 0.0, 0.0)
    n_heads, n_kv_heads, head_dim, lanes, *_, position_bits, sinks = shape
    assert latency == (10 if position_bits <= 17 else 11)
    head, heads = head_dim // lanes, n_heads + 2 * n_kv_heads
    # A head of q that is repeated holds the next one up for as long as it takes.
    assert times_in == [
        beat + head * (h - 2 * n_kv_heads if sinks and h > 2 * n_kv_heads else 0)
        for h in range(heads)
        for beat in range(h * head, (h + 1) * head)
    ]
    assert times_out == [latency + t for t in range(len(times_out))]


def test_layers_follow_each_other_without_a_pause():
    layers = Layers(*SHAPES[1], count=2)
    dut = unit(SHAPES[1], layers)

    async def source(ctx):
        ctx.set(dut.position, layers.positions[1])
        await drive(ctx, dut.i, layers.sent[1] * 3)

    _, got = simulate(dut, source, lambda ctx: collect(ctx, dut.o, 3 * len(layers.sent[1])))
    assert got == layers.expected[1] * 3


BROKEN = {
    "no rounding": ("_round", lambda value, width: saturate(value >> 15, width)),
    "no saturation": ("_round", lambda value, width: ((value >> 15) + value[14])[:width]),
    "no negative sines": ("_signed", lambda negative, value: value),
    "a neighbour in the table": ("sine_table", lambda bits: [*sine_table(bits)[1:], 32767]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_copy_is_caught(fault, monkeypatch):
    monkeypatch.setattr(hdl.rope, *BROKEN[fault])
    with pytest.raises(AssertionError, match="layer"):
        check(SHAPES[0], 0.0, 0.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n_heads": 0}, "n_heads must be a positive integer, not 0"),
        ({"lanes": 3}, "lanes must be even and positive, not 3"),
        ({"head_dim": 6}, r"head_dim must be a multiple of lanes \(4\), not 6"),
        ({"wide_bits": 16}, "wide_bits must be 24 or 32, not 16"),
        ({"sine_bits": 3}, "sine_bits must be 4 to 14, not 3"),
    ],
)
def test_arguments(arguments, message):
    shape = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "lanes": 4, "wide_bits": 32, "sine_bits": 10, "position_bits": 6}
    with pytest.raises(ValueError, match=message):
        RoPE(**(shape | arguments))
