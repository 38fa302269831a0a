# amaranth: UnusedElaboratable=no
"""The sampler against its golden twin, to the bit; and golden's draws against the softmax they stand for."""

import random

import numpy as np
import pytest

from hdl import sampler as hardware
from hdl.sampler import Sampler
from sim.golden import sampler as golden
from sim.golden.sampler import inverse_temperature, sampler
from tests.support.streams import collect, drive, simulate

NOISE = 0xA5A5A5A5
"""What the settings read in the cycles in which the unit must not look at them."""


def beats(logits, lanes, wide_bits):
    """The last beat is filled up with values that would win."""
    highest = (1 << (wide_bits - 1)) - 1
    padded = [*logits, *[highest] * (-len(logits) % lanes)]
    return [{"data": padded[i : i + lanes], "last": i + lanes >= len(padded)} for i in range(0, len(padded), lanes)]


def draw(vocab_size, lanes, wide_bits, tokens, *, noise=True, stall=0.0, seed=0, sent=None, got=None, unit=Sampler):
    """The tokens of (logits, inv_temperature, seed, position), one after another on one unit."""
    dut = unit(vocab_size=vocab_size, lanes=lanes, wide_bits=wide_bits, noise=noise)

    async def settings(ctx, values):
        if noise:
            for port, value in zip((dut.inv_temperature, dut.seed, dut.position), values, strict=True):
                ctx.set(port, value)

    async def run(ctx):
        """Settings are there in the first cycle with valid, and noise afterwards."""
        for n, (logits, *values) in enumerate(tokens):
            await settings(ctx, values)
            todo = beats(logits, lanes, wide_bits)
            ctx.set(dut.i.payload, todo[0])
            ctx.set(dut.i.valid, 1)
            *_, ready = await ctx.tick().sample(dut.i.ready)
            assert not ready
            await settings(ctx, (NOISE & 0xFFFF, NOISE, NOISE))
            await drive(ctx, dut.i, todo[:1], 0.0, n, sent)
            await drive(ctx, dut.i, todo[1:], stall, n, sent)
            # The next token is offered when this one has left; the settings would be read earlier otherwise.
            left = False
            while not left:
                *_, left = await ctx.tick().sample(dut.o.valid & dut.o.ready)

    _, drawn = simulate(dut, run, lambda ctx: collect(ctx, dut.o, len(tokens), stall, seed, got))
    return [beat["token"] for beat in drawn]


def expected(tokens):
    return [sampler(*token) for token in tokens]


def random_tokens(rng, vocab_size, wide_bits, count):
    """(logits, inv_temperature, seed, position), in turns: any mixture, extremes, and twice the usual."""
    highest = (1 << (wide_bits - 1)) - 1
    tokens = []
    for n in range(count):
        factor = rng.choice((0, 1, 2, 300, 1477, 32768, 65535))
        spread = rng.choice((0, 1, 3, 1 << 12, highest))
        if n % 4 > 1:
            factor, spread = rng.randrange(500, 4000), 1 << rng.randrange(10, 14)
        logits = [rng.randint(-spread, spread) for _ in range(vocab_size)]
        if n % 4 == 1:
            logits = [rng.choice((-highest - 1, highest)) for _ in range(vocab_size)]
        position = rng.choice((0, rng.getrandbits(10), 0xFFFFFFFF))
        tokens.append((logits, factor, rng.getrandbits(32), position))
    return tokens


@pytest.mark.parametrize("lanes, wide_bits, stall", ((1, 32, 0.2), (2, 24, 0.0), (4, 32, 0.3), (8, 32, 0.6)))
def test_equals_golden(lanes, wide_bits, stall):
    rng = random.Random(f"{lanes} {wide_bits}")
    for vocab_size in (2, lanes, lanes + 1, rng.randrange(3 * lanes, 12 * lanes), 67):
        if vocab_size > 1:
            tokens = random_tokens(rng, vocab_size, wide_bits, 6)
            assert draw(vocab_size, lanes, wide_bits, tokens, stall=stall, seed=lanes) == expected(tokens)


@pytest.mark.parametrize("lanes, stall", ((2, 0.0), (4, 0.4)))
def test_without_noise(lanes, stall):
    rng = random.Random(lanes)
    tokens = [(logits, 0, 0, 0) for logits, *_ in random_tokens(rng, 31, 24, 30)]
    assert draw(31, lanes, 24, tokens, noise=False, stall=stall) == expected(tokens)


def test_ties_and_extremes():
    """The first of equals wins, whether they share a beat or not; the smallest Wide can win."""
    low, high = -(1 << 31), (1 << 31) - 1
    n = 11
    tokens = [([wide] * n, *settings) for wide in (low, high) for settings in ((0, 0, 0), (65535, 7, 7))]
    for first in range(n):
        for second in range(first, n):
            logits = [5] * n
            logits[first] = logits[second] = 6
            tokens.append((logits, 0, 1, 1))
    tokens += [([low] * k + [low + 1] + [low] * (n - 1 - k), 0, 0, 0) for k in range(n)]
    assert draw(n, 4, 32, tokens) == expected(tokens)


@pytest.mark.parametrize(
    "noise, factor, lanes, accepted, tail",
    ((True, 0, 4, 1, 7), (True, 1477, 4, 22, 7), (True, 1477, 1, 22, 5), (False, 0, 8, 1, 4)),
)
def test_cycles(noise, factor, lanes, accepted, tail):
    """The docstring's figures: the first beat is offered in cycle 0 and moves in cycle ``accepted``."""
    tokens = [(list(range(50)), factor, 3, 4)]
    sent, got, units = [], [], []

    def unit(**arguments):
        units.append(Sampler(**arguments))
        return units[0]

    draw(50, lanes, 32, tokens, noise=noise, sent=sent, got=got, unit=unit)
    assert units[0].latency == tail
    n_beats = -(-50 // lanes)
    # drive counts from cycle 1, and the second call from the cycle after the first beat.
    assert [1 + sent[0], *(2 + sent[0] + t for t in sent[1:])] == list(range(accepted, accepted + n_beats))
    assert got == [accepted + n_beats - 1 + tail]


def test_a_wrong_weight_of_the_noise_is_noticed(monkeypatch):
    monkeypatch.setattr(hardware, "NOISE_SHIFT", 9)
    with pytest.raises(AssertionError):
        test_equals_golden(4, 32, 0.0)


def test_the_last_of_equals_is_noticed(monkeypatch):
    monkeypatch.setattr(hardware, "wins", lambda later, earlier: later >= earlier)
    with pytest.raises(AssertionError):
        test_ties_and_extremes()


def test_padding_in_the_race_is_noticed():
    """A unit that takes the vocabulary for a multiple of lanes."""

    def unpadded(vocab_size, lanes, **others):
        return Sampler(vocab_size=-(-vocab_size // lanes) * lanes, lanes=lanes, **others)

    tokens = [([0] * 9, 0, 0, 0)]
    assert draw(9, 4, 32, tokens) == expected(tokens)
    assert draw(9, 4, 32, tokens, unit=unpadded) != expected(tokens)


@pytest.mark.parametrize(
    "arguments, message",
    (
        ({"vocab_size": 1, "lanes": 4, "wide_bits": 32}, "vocab_size must be at least 2, not 1"),
        ({"vocab_size": 64, "lanes": 3, "wide_bits": 32}, "lanes must be a power of two, not 3"),
    ),
)
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**arguments)


# Golden against softmax.


def chi_square_limit(freedom, z=3.0902):
    """What chi-square exceeds with probability 1e-3 (Wilson and Hilferty 1931; z is the normal quantile)."""
    return freedom * (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3


def chi_square(counts, probabilities, least=5.0):
    """(statistic, degrees of freedom); outcomes that are expected fewer than ``least`` times count as one."""
    wanted = probabilities * counts.sum()
    rare = wanted < least
    if rare.any():
        wanted = np.append(wanted[~rare], wanted[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
    return float(((counts - wanted) ** 2 / wanted).sum()), len(counts) - 1


def draws(logits, temperature, count, noise):
    """How often golden's scores draw each token, over ``count`` positions of each of two seeds."""
    factor, index = inverse_temperature(temperature), np.arange(len(logits))
    counts = np.zeros(len(logits), np.int64)
    for seed in (1, 0xC0FFEE):
        scores = logits * factor + (noise(seed, np.arange(count)[:, None], index) << 10)
        counts += np.bincount(scores.argmax(axis=1), minlength=len(logits))
    return counts


def softmax(logits, temperature):
    x = logits / 4096 / temperature
    p = np.exp(x - x.max())
    return p / p.sum()


def normal_logits(n, spread):
    return np.rint(np.random.default_rng(n).normal(size=n) * spread * 4096).astype(np.int64)


VECTORS = {
    "flat": (np.zeros(10, np.int64), 1.0),
    "normal": (normal_logits(50, 2.0), 0.8),
    "hot": (normal_logits(32, 6.0), 1.7),
    # Two likely tokens, and tokens of probability 5e-3 to 3e-5 behind them.
    "rare tail": (np.array([0, -1000, *(-4096 * np.arange(5.0, 10.6, 0.9)).astype(int)]), 1.0),
}


@pytest.mark.parametrize("name", VECTORS)
def test_golden_draws_follow_softmax(name):
    logits, temperature = VECTORS[name]
    counts = draws(logits, temperature, 50_000, golden.gumbel)
    statistic, freedom = chi_square(counts, softmax(logits, temperature))
    assert statistic < chi_square_limit(freedom)
    # The same numbers through the sampler itself.
    factor = inverse_temperature(temperature)
    token = sampler(logits, factor, 1, 99)
    assert token == np.argmax(logits * factor + (golden.gumbel(1, 99, np.arange(len(logits))) << 10))


def coarse_gumbel(seed, pos, index):
    """Noise of words of eight bits: the middle of 256 equal steps."""
    return golden.gumbel_of_words((golden.hash_words(seed, pos, index) >> 24 << 24) + (1 << 23))


@pytest.mark.parametrize("name", ("normal", "hot", "rare tail"))
def test_coarse_noise_does_not_follow_softmax(name):
    logits, temperature = VECTORS[name]
    counts = draws(logits, temperature, 50_000, coarse_gumbel)
    statistic, freedom = chi_square(counts, softmax(logits, temperature))
    assert statistic > chi_square_limit(freedom)


def test_chi_square_limit():
    """Against the printed tables: 27.877 for 9 degrees of freedom, 73.402 for 40."""
    assert chi_square_limit(9) == pytest.approx(27.877, rel=1e-2)
    assert chi_square_limit(40) == pytest.approx(73.402, rel=1e-2)
