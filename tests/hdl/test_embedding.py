# amaranth: UnusedElaboratable=no
"""The embedding against its golden twin, to the bit, on ROM words as the packer lays them out."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect

from hdl import embedding as hardware
from hdl.embedding import Embedding
from hdl.lib.rom import RowRom, WeightRom
from sim.golden.embedding import embedding
from tests.support.streams import drive, plain, simulate
from weights_to_rom.pack.rom_image import matrix_words, row_words
from weights_to_rom.quantise.blocks import QuantisedMatrix

BASE, ROW_BASE = 21, 3
"""The table begins here; before it stands noise."""

LANES = ((1, 4, 2), (1, 32, 4), (16, 32, 8), (12, 16, 4), (2, 8, 8))


def random_table(vocab_size, n_blocks, bits, seed, exponents=(-40, 23)):
    """Random blocks with many of the largest and smallest numbers; row exponents up to both ends."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 1 << bits, (vocab_size, n_blocks, 32))
    d, m = rng.integers(0, 256, (2, vocab_size, n_blocks))
    q[rng.random(q.shape) < 0.1] = 0
    q[rng.random(q.shape) < 0.1] = (1 << bits) - 1
    for scale in (d, m):
        scale[rng.random(d.shape) < 0.2] = 255
        scale[rng.random(d.shape) < 0.1] = 0
    e = rng.integers(exponents[0], exponents[1] + 1, vocab_size)
    e[:2] = exponents
    if bits == 8:
        return QuantisedMatrix(
            q.astype(np.uint8), d.astype(np.uint8), d.astype(np.uint8), e.astype(np.int8), np.full(vocab_size, 7, np.uint8), bits
        )
    return QuantisedMatrix(
        q.astype(np.uint8),
        d.astype(np.uint8),
        m.astype(np.uint8),
        e.astype(np.int8),
        rng.integers(0, 5, vocab_size).astype(np.uint8),
        bits,
    )


def as_ints(digits, bits_a_digit):
    """[..., n] digits, least significant first -> ints [...], as lists."""
    weights = np.array([1 << bits_a_digit * i for i in range(digits.shape[-1])], object)
    return (digits.astype(object) * weights).sum(axis=-1).tolist()


class Bench:
    """The unit on the ROMs of a table; ``lanes`` are row_lanes, block_lanes, vector_lanes."""

    def __init__(self, table, lanes, wide_bits):
        r, b, vl = lanes
        vocab_size, n_blocks, _ = table.q.shape
        words = as_ints(matrix_words(table, r, b), 4)
        rows = as_ints(row_words(table, r), 4)
        noise = np.random.default_rng(7)
        words = noise.integers(0, 1 << 18, (BASE, r)).tolist() + words
        rows = noise.integers(0, 1 << 10, ROW_BASE).tolist() + rows
        self.unit = Embedding(
            row_lanes=r,
            block_lanes=b,
            vector_lanes=vl,
            n_blocks=n_blocks,
            bits=table.bits,
            wide_bits=wide_bits,
            n_words=len(words),
            n_groups=len(rows),
            base=BASE,
            row_base=ROW_BASE,
            vocab_size=vocab_size,
        )
        self.beats = n_blocks * 32 // vl
        self.top = m = Module()
        m.submodules.unit = self.unit
        m.submodules.weights = weights = WeightRom(
            width=9 * b // 2, depth=len(words), lanes=r, init=[list(lane) for lane in zip(*words, strict=True)]
        )
        m.submodules.rows = row_rom = RowRom(width=10, depth=len(rows), lanes=r, init=rows)
        connect(m, self.unit.weights, weights.port)
        connect(m, self.unit.rows, row_rom.port)

    def read(self, tokens, residual_shift=0, stall=0.0, seed=0, sent=None, got=None):
        """Rows of the table as the unit gives them; asserts ``last``, and ``active`` around every read."""
        unit = self.unit

        async def settings(ctx):
            ctx.set(unit.residual_shift, residual_shift)

        async def watch(ctx):
            async for *_, active, weights, rows in ctx.tick().sample(unit.active, unit.weights.en, unit.rows.en):
                assert active or not (weights or rows)

        async def take(ctx):
            beats, cycle = [], 0
            while len(beats) < len(tokens) * self.beats:
                *_, valid, payload = await ctx.tick().sample(unit.o.valid, unit.o.payload)
                if valid:
                    beats.append(plain(payload))
                    if got is not None:
                        got.append(cycle)
                cycle += 1
            return beats

        _, beats, _ = simulate(
            self.top,
            lambda ctx: drive(ctx, unit.i, [{"token": t} for t in tokens], stall, seed, sent),
            take,
            settings,
            background=[watch],
        )
        last = [beat["last"] for beat in beats]
        assert last == ([0] * (self.beats - 1) + [1]) * len(tokens)
        return np.array([beat["data"] for beat in beats]).reshape(len(tokens), -1)


def check(lanes, bits, wide_bits, residual_shift, stall, **arguments):
    r = lanes[0]
    for vocab_size, n_blocks in ((2 * r + 5, 2), (3, 1), (67, 3)):
        table = random_table(vocab_size, n_blocks, bits, seed=vocab_size, **arguments)
        rng = np.random.default_rng(vocab_size)
        tokens = [0, 1, vocab_size - 1, *rng.integers(0, vocab_size, 6).tolist()]
        got = Bench(table, lanes, wide_bits).read(tokens, residual_shift, stall, seed=vocab_size)
        np.testing.assert_array_equal(got, embedding(table, tokens, residual_shift, wide_bits))


@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("lanes", LANES)
def test_equals_golden(lanes, bits):
    check(lanes, bits, 32, -3, stall=0.4)
    check(lanes, bits, 24, 5, stall=0.0, exponents=(-28, -10))


@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("wide_bits", (24, 32))
def test_every_shift(bits, wide_bits):
    """Each row exponent that fits seven bits; some of them at both ends of residual_shift."""
    table = random_table(128, 1, bits, 5)
    table = QuantisedMatrix(table.q, table.d, table.m, np.arange(-64, 64, dtype=np.int8), table.k, bits)
    bench = Bench(table, (1, 32, 4), wide_bits)
    for residual_shift, stride in ((-1, 1), (-32, 9), (31, 9)):
        tokens = list(range(0, 128, stride))
        np.testing.assert_array_equal(bench.read(tokens, residual_shift), embedding(table, tokens, residual_shift, wide_bits))


@pytest.mark.parametrize(
    "lanes, bits, scale_words", (((1, 4, 2), 8, 4), ((1, 4, 2), 4, 8), ((16, 32, 8), 8, 1), ((12, 16, 4), 4, 2))
)
def test_cycles(lanes, bits, scale_words):
    """The docstring's figures."""
    planes, token_bits, n_blocks = bits // 4, 6, 3
    sent, got = [], []
    bench = Bench(random_table(50, n_blocks, bits, 1), lanes, 32)
    bench.read([49, 7], sent=sent, got=got)
    block = scale_words + planes * 32 // lanes[2]
    last = token_bits + 11 + n_blocks * block
    wanted = [
        token_bits + scale_words + planes + 11 + b * block + planes * beat
        for b in range(n_blocks)
        for beat in range(32 // lanes[2])
    ]
    assert wanted[-1] == last
    assert (bench.unit.latency, bench.unit.cycles) == (wanted[0], last)
    assert sent == [0, last + 1]
    assert got == wanted + [last + 1 + cycle for cycle in wanted]


def test_no_rounding_is_noticed(monkeypatch):
    monkeypatch.setattr(hardware, "rounded", lambda shifted: shifted[16:].as_signed())
    with pytest.raises(AssertionError):
        check((1, 32, 4), 8, 32, 0, 0.0)


def test_shift_off_by_one_is_noticed(monkeypatch):
    monkeypatch.setattr(hardware, "LSB_BITS", 13)
    with pytest.raises(AssertionError):
        check((1, 32, 4), 4, 32, 0, 0.0)


def test_no_saturation_is_noticed(monkeypatch):
    dequantise = hardware.Dequantise

    class Wraps(dequantise):
        def elaborate(self, platform):
            m = super().elaborate(platform)
            m.d.comb += self.beyond.eq(0)
            return m

    monkeypatch.setattr(hardware, "Dequantise", lambda **arguments: Wraps(**arguments))
    with pytest.raises(AssertionError):
        check((1, 32, 4), 8, 32, 0, 0.0)


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"block_lanes": 12}, "block_lanes must be 4, 8, 16 or 32, not 12"),
        ({"vector_lanes": 16}, "vector_lanes must be a power of two up to block_lanes .8., not 16"),
        ({"bits": 5}, "bits must be 4 or 8, not 5"),
        ({"n_words": 1000}, "n_words must be at least 1029, not 1000"),
        ({"n_groups": 50}, "n_groups must be at least 66, not 50"),
    ),
)
def test_bad_parameters(changes, message):
    arguments = {
        "row_lanes": 1,
        "block_lanes": 8,
        "vector_lanes": 2,
        "n_blocks": 2,
        "bits": 8,
        "wide_bits": 24,
        "n_words": 1029,
        "n_groups": 66,
        "base": 5,
        "row_base": 2,
        "vocab_size": 64,
    }
    with pytest.raises(ValueError, match=message):
        Embedding(**(arguments | changes))
