# amaranth: UnusedElaboratable=no
"""Attention equals golden to the bit: the heads alone, and with the cache over many tokens."""

from math import gcd

import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Mux, Value

import hdl.attention.output
import hdl.attention.scores
import hdl.attention.sums
from hdl.attention.attention import Attention, AttentionHeads
from hdl.config import ChipConfig
from hdl.lib.bits import bitlen, saturate
from sim.golden.attention import attention
from tests.support.streams import collect, drive, simulate
from weights_to_rom.model_format import ModelFormat

SHAPES = [  # head_dim, lanes, vector_lanes, heads, banks, wide_bits
    (8, 8, 4, 2, 1, 32),
    (8, 8, 8, 4, 2, 32),
    (8, 8, 2, 8, 4, 24),
    (8, 4, 4, 1, 1, 24),
    (16, 4, 8, 1, 1, 32),
    (16, 16, 4, 2, 2, 32),
    (24, 8, 4, 3, 1, 32),
    (48, 16, 4, 1, 1, 32),
    (48, 16, 16, 3, 1, 24),
    (64, 32, 8, 3, 1, 32),
    (128, 32, 32, 2, 1, 32),
    (64, 8, 2, 1, 1, 24),
]
KINDS = ("even", "late", "extreme", "flat", "zero")


def blocks(rng, kind, shape, head_dim, limit):
    """(mant[*shape, c, n], exp[*shape, c]): random q, k or v of one of KINDS, exponents up to ``limit``."""
    n = gcd(head_dim, 32)
    shape = (*shape, head_dim // n)
    mant = rng.integers(-127, 128, (*shape, n))
    exp = rng.integers(-11, -5, shape)
    if kind == "extreme":
        mant = np.where(rng.random((*shape, 1)) < 0.5, rng.choice([-127, 127], (*shape, n)), mant)
        exp = rng.choice([-12, -11, 0, limit - 1, limit], shape)
    elif kind == "zero":
        zero = rng.random(shape) < 0.6
        mant, exp = np.where(zero[..., None], 0, mant), np.where(zero, -12, exp)
    elif kind == "flat":
        exp = np.full(shape, -12)
    return mant, exp


def draw(rng, kind, heads, banks, n_time, head_dim, limit):
    """q of ``heads`` heads, k and v of ``banks``, as (mant, exp) pairs."""
    q = blocks(rng, kind, (heads,), head_dim, limit)
    k, v = (blocks(rng, kind, (banks, n_time), head_dim, limit) for _ in range(2))
    if kind == "late":
        # One key that grows with each position, so that the maximum moves at almost every one.
        growth = np.sort(rng.integers(-12, -4, n_time))
        k = np.repeat(k[0][:, :1], n_time, 1), np.broadcast_to(growth[:, None], k[1].shape)
    return q, k, v


def golden(q, k, v, wide_bits, sinks=None):
    """[heads, head_dim]: heads / banks of the heads share each bank's k and v."""
    rep = q[0].shape[0] // k[0].shape[0]
    k, v = ([np.repeat(x, rep, 0) for x in pair] for pair in (k, v))
    return attention(*q, *k, *v, wide_bits, sinks=sinks)


def mx_beats(mant, exp, vector_lanes, last=False):
    """Beats of mant[..., c, n] and exp[..., c], in order."""
    block = mant.shape[-1]
    rows = mant.reshape(-1, vector_lanes).tolist()
    exps = np.repeat(exp.reshape(-1), block // vector_lanes).tolist()
    beats = [{"mant": row, "exp": e, "last": 0} for row, e in zip(rows, exps, strict=True)]
    beats[-1]["last"] = int(last)
    return beats


def kv_beats(mant, exp, lanes):
    """Words of all banks, of mant[banks, positions, c, n] and exp[banks, positions, c]."""
    banks, n_time, block = mant.shape[0], mant.shape[1], mant.shape[-1]
    words = mant.reshape(banks, -1, lanes).tolist()
    exps = np.repeat(exp.reshape(banks, -1), block // lanes, 1).tolist()
    beats = [{"bank": [{"mant": words[u][t], "exp": exps[u][t]} for u in range(banks)], "last": 0} for t in range(len(words[0]))]
    beats[-1]["last"] = 1
    assert len(beats) % n_time == 0
    return beats


def compare(got, values, vector_lanes):
    """Assert that the beats of o are values[vector, element]."""
    rows = [(vector, j) for vector in range(len(values)) for j in range(0, len(values[vector]), vector_lanes)]
    for n, (beat, (vector, j)) in enumerate(zip(got, rows, strict=True)):
        end = j + vector_lanes
        expected = {"data": list(map(int, values[vector][j:end])), "base": -16, "last": int(end == len(values[vector]))}
        assert beat == expected, f"beat {n}"


def check_heads(shape, passes, stalls=(0.0, 0.0), seed=0, n_vectors=1, max_context=64):
    """Run ``passes``, a list of (kind, positions); len(passes) / n_vectors of them are a vector of o."""
    head_dim, lanes, vector_lanes, heads, banks, wide_bits = shape
    rng = np.random.default_rng(seed)
    dut = AttentionHeads(
        heads=heads,
        banks=banks,
        head_dim=head_dim,
        block=gcd(head_dim, 32),
        lanes=lanes,
        n_sinks=0,
        vector_lanes=vector_lanes,
        wide_bits=wide_bits,
        max_context=max_context,
        passes=len(passes) // n_vectors,
    )
    q, k, v, expected = [], [], [], []
    for kind, n_time in passes:
        drawn = draw(rng, kind, heads, banks, n_time, head_dim, wide_bits - 19)
        q += mx_beats(*drawn[0], vector_lanes)
        k += kv_beats(*drawn[1], lanes)
        v += kv_beats(*drawn[2], lanes)
        expected.append(golden(*drawn, wide_bits).ravel())
    expected = np.concatenate(expected).reshape(n_vectors, -1)
    *_, got = simulate(
        dut,
        *(
            lambda ctx, o=o, b=b, n=n: drive(ctx, o, b, stalls[0], n)
            for n, (o, b) in enumerate(((dut.q, q), (dut.k, k), (dut.v, v)))
        ),
        lambda ctx: collect(ctx, dut.o, expected.size // vector_lanes, stalls[1], 4),
    )
    compare(got, expected, vector_lanes)


def mixed_passes(seed, count, longest):
    rng = np.random.default_rng(seed)
    return [(KINDS[n % len(KINDS)], int(rng.choice([1, 2, 3, rng.integers(1, longest + 1)]))) for n in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_equal_golden(shape):
    check_heads(shape, mixed_passes(sum(shape), 10, 20), (0.2, 0.2), n_vectors=2)


@pytest.mark.parametrize("stalls", [(0.0, 0.0), (0.0, 0.8), (0.7, 0.0)])
def test_heads_stalls_on_one_side(stalls):
    check_heads(SHAPES[0], mixed_passes(1, 12, 24), stalls)


def test_heads_over_many_positions():
    check_heads(SHAPES[0], [(kind, 128 - n) for n, kind in enumerate(KINDS)], max_context=128)


def model_of(head_dim, n_heads, n_kv_heads, n_layers):
    return ModelFormat(
        dim=n_heads * head_dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=32,
        vocab_size=64,
        max_seq_len=64,
        tied=True,
    )


CHIPS = [
    # head_dim, n_heads, n_kv_heads, attention_lanes, vector_lanes, attention_heads, max_context, n_sequences, n_sinks
    (8, 8, 4, 8, 4, 2, 12, 2, 0),
    (8, 8, 4, 8, 8, 4, 9, 1, 0),
    (8, 8, 4, 8, 2, 8, 16, 3, 0),
    (8, 4, 1, 4, 8, 2, 7, 2, 0),
    (16, 2, 2, 4, 4, 1, 8, 2, 0),
    (48, 6, 2, 16, 16, 1, 5, 2, 0),
    (48, 3, 1, 16, 4, 3, 6, 2, 0),
    (64, 6, 2, 32, 8, 3, 5, 1, 0),
    (128, 2, 1, 32, 16, 2, 4, 1, 0),
]
SLIDING = [
    (8, 8, 4, 8, 4, 2, 4, 2, 1),
    (8, 4, 1, 4, 8, 2, 3, 1, 2),
    (48, 6, 2, 16, 16, 3, 4, 2, 3),
    (64, 2, 1, 32, 8, 2, 3, 1, 1),
]


class Bench:
    """A model's attention and every k and v that it was given."""

    def __init__(self, shape, seed=0, n_layers=2):
        *heads, lanes, self.vector_lanes, at_once, self.max_context, self.n_sequences, self.n_sinks = shape
        self.model = model_of(*heads, n_layers)
        self.config = ChipConfig.for_model(
            self.model,
            vector_lanes=self.vector_lanes,
            attention_heads=at_once,
            attention_lanes=lanes,
            max_context=self.max_context,
            n_sequences=self.n_sequences,
            n_sinks=self.n_sinks,
        )
        self.dut = Attention(model=self.model, config=self.config)
        self.rng = np.random.default_rng(seed)
        self.history = {}  # (sequence, layer) -> list of (k mant, k exp, v mant, v exp)

    def place(self, position):
        """(place, whole) of a position: ``whole`` once the window is full."""
        if position < self.max_context:
            return position, 0
        return self.n_sinks + (position - self.n_sinks) % (self.max_context - self.n_sinks), 1

    def layer(self, kind, sequence, layer, place=None):
        """(beats of i, values of o) of the sequence's next position, which goes to ``place``, by default the next one."""
        model = self.model
        q, sink_q = (blocks(self.rng, kind, (model.n_heads,), model.head_dim, 13) for _ in range(2))
        k, v = (blocks(self.rng, kind, (model.n_kv_heads,), model.head_dim, 13) for _ in range(2))
        history = self.history.setdefault((sequence, layer), [])
        place = len(history) if place is None else place
        history[place : place + 1] = [(*k, *v)]
        k_all, ke, v_all, ve = (np.stack(x, 1) for x in zip(*history, strict=True))
        parts = [k, v, q]
        sinks = None
        if self.n_sinks:
            parts[2] = tuple(np.stack(both, 1) for both in zip(q, sink_q, strict=True))
            sinks = (self.n_sinks, *sink_q)
        beats = [beat for part in parts for beat in mx_beats(*part, self.vector_lanes)]
        beats[-1]["last"] = 1
        return beats, golden(q, (k_all, ke), (v_all, ve), model.wide_bits, sinks).ravel()

    def run(self, steps, stalls=(0.0, 0.0), times_in=None, times_out=None):
        """``steps``: ((sequence, layer, place, whole), beats, values).  Times are of the last step's beats."""
        dut = self.dut

        async def host(ctx):
            for n, (place, beats, _) in enumerate(steps):
                for port, value in zip((dut.sequence, dut.layer, dut.place, dut.whole), place, strict=True):
                    ctx.set(port, value)
                await drive(ctx, dut.i, beats, stalls[0], n, times_in)

        values = [v for *_, v in steps]
        n_beats = sum(map(len, values)) // self.vector_lanes
        _, got = simulate(dut, host, lambda ctx: collect(ctx, dut.o, n_beats, stalls[1], 1, times_out))
        compare(got, values, self.vector_lanes)


@pytest.mark.parametrize("shape", CHIPS)
def test_equals_golden_over_layers_and_sequences(shape):
    bench = Bench(shape, sum(shape))
    steps = []
    position = [0] * bench.n_sequences
    for n in range(min(6, bench.n_sequences * bench.max_context)):
        s = int(bench.rng.choice([s for s in range(bench.n_sequences) if position[s] < bench.max_context]))
        for layer in range(bench.model.n_layers):
            steps.append(((s, layer, position[s], 0), *bench.layer(KINDS[n % 5], s, layer)))
        position[s] += 1
    bench.run(steps, (0.2, 0.2))


@pytest.mark.parametrize("shape", SLIDING)
def test_equals_golden_in_a_sliding_window(shape):
    bench = Bench(shape, sum(shape))
    steps = []
    for position in range(3 * bench.max_context):
        for s in range(bench.n_sequences):
            place, whole = bench.place(position)
            steps += [
                ((s, layer, place, whole), *bench.layer(KINDS[position % 5], s, layer, place))
                for layer in range(bench.model.n_layers)
            ]
    bench.run(steps, (0.2, 0.2))


def test_equals_golden_to_the_last_position():
    bench = Bench((8, 2, 1, 8, 4, 2, 40, 1, 0), n_layers=1)
    bench.run([((0, 0, p, 0), *bench.layer("even", 0, 0)) for p in range(40)])


@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_cache_holds_the_layers_of_its_model(n_layers):
    bench = Bench(SLIDING[0], n_layers=n_layers)
    model, cache = bench.model, bench.dut.cache
    elements = bench.n_sequences * n_layers * model.n_kv_heads * bench.max_context * model.head_dim
    assert cache.depth * cache.banks * cache.lanes == elements
    assert [memory.depth for memory in (*cache.k_data, *cache.v_data)] == [cache.depth] * 2 * cache.banks
    bench.run([((1, layer, 0, 0), *bench.layer("even", 1, layer)) for layer in reversed(range(n_layers))])


@pytest.mark.parametrize("position", [0, 40])
@pytest.mark.parametrize(
    "shape, latency, interval",
    [
        # latency: a stage for several words a block, one for several blocks a head, and a cycle for each further word of a head.
        (CHIPS[0], 29, 18),
        (CHIPS[1], 29, 18),
        (CHIPS[3], 33, 17),
        (CHIPS[4], 33, 21),
        (CHIPS[6], 32, 52),
        (CHIPS[7], 31, 39),
    ],
)
def test_cycles(shape, latency, interval, position):
    """One layer without stalls: the cycle in which each beat of each pass leaves."""
    bench = Bench((*shape[:6], 41, 1, 0), n_layers=1)
    model, config, dut = bench.model, bench.config, bench.dut
    steps = [((0, 0, p, 0), *bench.layer("even", 0, 0)) for p in range(position + 1)]
    times_in, times_out = [], []

    async def host(ctx):
        # Only the last position is timed; k and v of those before are put into the memories.
        for p, (_, beats, _) in enumerate(steps[:-1]):
            store(ctx, dut.cache, beats[: dut.kv_beats], p)
        ctx.set(dut.place, position)
        await drive(ctx, dut.i, steps[-1][1], times=times_in)

    def store(ctx, cache, beats, p):
        values = [(mant, beat["exp"]) for beat in beats for mant in beat["mant"]]
        for n in range(0, len(values), cache.lanes):
            head, word = divmod(n // cache.lanes, cache.head_words)
            v, head = divmod(head, model.n_kv_heads)
            memory = (cache.k_data, cache.v_data)[v][head % cache.banks]
            ctx.set(
                memory[head // cache.banks * cache.slot_words + p * cache.head_words + word],
                {"mant": [m for m, _ in values[n : n + cache.lanes]], "exp": values[n][1]},
            )

    _, got = simulate(dut, host, lambda ctx: collect(ctx, dut.o, model.attn_dim // bench.vector_lanes, times=times_out))
    compare(got, [steps[-1][2]], bench.vector_lanes)

    assert (dut.latency, dut.interval) == (latency, interval)
    words = (position + 1) * model.head_dim // config.attention_lanes
    beats = config.attention_heads * model.head_dim // bench.vector_lanes
    first = times_in[dut.kv_beats + beats - 1] + dut.latency + words
    passes = model.n_heads // config.attention_heads
    assert times_out == [first + max(words, dut.interval) * p + b for p in range(passes) for b in range(beats)]


# A fault replaces a name of a module; each must be found.
BROKEN = {
    "no rescaling of the sums": (hdl.attention.sums, "_rescale", lambda held, shift: held),
    "a rescaling that rounds": (hdl.attention.sums, "_rescale", lambda held, shift: (Cat(0, held).as_signed() >> shift) + 1 >> 1),
    "a maximum that stays": (hdl.attention.sums, "_maximum", lambda *values: stuck(*values)),
    "shifts that wrap": (hdl.attention.sums, "_at_most", lambda value, like: Value.cast(value)[: len(like)]),
    "scores cut, not rounded": (hdl.attention.scores, "rshr", lambda value, n: value >> n),
    "scores that wrap": (hdl.attention.scores, "_limited", lambda doubled: (doubled + 1 >> 1)[:16].as_signed()),
    "scores whose far bits are ignored": (
        hdl.attention.scores,
        "_limited",
        lambda doubled: saturate(doubled[:18].as_signed() + 1 >> 1, 16),
    ),
    "a table one entry off": (hdl.attention.sums, "EXP2", [*hdl.attention.sums.EXP2[1:], 65535]),
    "a result that wraps": (hdl.attention.output, "saturate", lambda value, width: value[:width].as_signed()),
    "bitlen of the wrong bits": (hdl.attention.output, "bitlen", lambda value: bitlen(value[1:])),
}


def stuck(first, new, held):
    """As ``_maximum``, but the maximum never grows after the first position."""
    return Mux(first, new, held), Const(0, 12), Mux(first | (held < new), 0, held - new)


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_copy_is_caught(fault, monkeypatch):
    monkeypatch.setattr(*BROKEN[fault])
    with pytest.raises(AssertionError, match=r"^beat "):
        check_heads(SHAPES[0], [(kind, n_time) for kind in KINDS for n_time in (1, 1, 2, 12)])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"banks": 3}, r"banks must divide heads \(4\), not 3"),
        ({"block": 5}, r"block must divide head_dim \(8\), not 5"),
        ({"block": 4}, "block must be 8, 16 or 32, not 4"),
        ({"lanes": 3}, r"lanes must divide block \(8\), not 3"),
        ({"vector_lanes": 16}, r"vector_lanes must divide block \(8\), not 16"),
        ({"wide_bits": 30}, "wide_bits must be 24 or 32, not 30"),
    ],
)
def test_arguments(change, message):
    good = {
        "heads": 4,
        "banks": 2,
        "head_dim": 8,
        "block": 8,
        "lanes": 4,
        "vector_lanes": 4,
        "max_context": 16,
        "n_sinks": 0,
        "wide_bits": 32,
        "passes": 1,
    }
    with pytest.raises(ValueError, match=message):
        AttentionHeads(**(good | change))
