# amaranth: UnusedElaboratable=no
"""The LoRA adder equals golden: adapters of every rank out of load images, masks of steps, stalls, cycles, faults."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import hdl.lora.adder
import hdl.lora.lane
from hdl.lib.bits import saturate
from hdl.lora.adder import Lora
from hdl.verilog import convert
from sim.golden.lora import lora
from sim.rtl.verilator import verilator
from tests.support.adapters import random_adapter, random_format
from tests.support.streams import collect, drive, simulate
from weights_to_rom.adapters.lora import STEPS, IntegerAdapter, LoraBlocks, load_image, matrix_shape
from weights_to_rom.schedule import Step, lora_matrices

HEAD = 4
WAIVERS = Path(hdl.__file__).with_name("lint.vlt")


@dataclass
class Token:
    """The vectors and results of each step of each layer; ``adapter`` is None for a token without one."""

    number: int
    adapter: IntegerAdapter | None
    steps: int
    vectors: list  # (mant[blocks, 32], exp[blocks]), steps in order
    results: list  # y[rows] of each projection, steps in order
    head: list  # beats of the LM head


def random_token(rng, fmt, number, adapter, exponents="near", steps=None) -> Token:
    """A token; ``steps`` is the mask of those to be computed, by default the adapter's."""
    vectors, results = [], []
    reach = 1 << (fmt.wide_bits - 1)
    for _ in range(fmt.n_layers):
        for kinds in STEPS.values():
            shapes = [matrix_shape(fmt, kind) for kind in kinds]
            blocks = shapes[0][1]
            mant, exp = rng.integers(-127, 128, (blocks, 32)), rng.integers(-12, -6, blocks)
            if rng.random() < 0.2:
                mant[rng.integers(blocks)] = rng.choice([-127, 127])
            if exponents != "near":
                exp = rng.integers(-128, 128, blocks) if exponents == "far" else rng.integers(-24, 20, blocks)
            vectors.append((mant, exp))
            wild = exponents != "near" or rng.random() < 0.2
            results.append(
                [rng.integers(-reach, reach, rows) if wild else rng.integers(-1 << 20, 1 << 20, rows) for rows, _ in shapes]
            )
    steps = adapter.steps if adapter and steps is None else steps
    return Token(number, adapter, steps, vectors, results, [int(v) for v in rng.integers(-reach, reach, 3)])


def added(token, fmt, index):
    """y' of each projection of step ``index``, where the steps of all layers are counted in order."""
    layer, step = divmod(index, len(STEPS))
    kinds, (mant, exp) = list(STEPS.values())[step], token.vectors[index]
    for kind, y in zip(kinds, token.results[index], strict=True):
        computed = token.adapter and token.steps >> step & 1
        blocks = token.adapter.matrices.get(f"layers.{layer}.{kind}") if computed else None
        yield lora(y, mant, exp, blocks, fmt.wide_bits) if blocks else y


def beats(projections, step, vl):
    """The fabric's beats: k, v, q one after the other; gate and up alternate beat by beat."""
    values = [np.asarray(p).reshape(-1, vl).tolist() for p in projections]
    rows = list(chain(*(zip(*values, strict=True) if step == Step.GATE_UP else values)))
    return [{"data": row, "tag": int(step), "last": int(k == len(rows) - 1)} for k, row in enumerate(rows)]


def head_beats(token, vl):
    return [{"data": [value] * vl, "tag": HEAD, "last": int(k == len(token.head) - 1)} for k, value in enumerate(token.head)]


def vector_beats(mant, exp, vl):
    rows = mant.reshape(-1, vl).tolist()
    return [{"mant": row, "exp": int(exp[k * vl // 32]), "last": int(k == len(rows) - 1)} for k, row in enumerate(rows)]


class Bench:
    """An adder for adapters of one model and rank; it runs tokens while adapters are loaded."""

    def __init__(self, fmt, rank, lanes, vl=4, n_adapters=2):
        self.fmt, self.rank, self.lanes, self.vl, self.x_lanes = fmt, rank, lanes, vl, min(2 * vl, 32)
        self.dut = Lora(
            matrices=lora_matrices(fmt),
            n_layers=fmt.n_layers,
            k_rows=fmt.n_kv_heads * fmt.head_dim,
            rank=rank,
            lora_lanes=lanes,
            n_adapters=n_adapters,
            vector_lanes=vl,
            x_lanes=self.x_lanes,
            wide_bits=fmt.wide_bits,
        )

    def writes(self, number, adapter):
        """(address, lane, word) of each write of a load image, by section 6 of docs/arithmetic.md."""
        words = [int(w) for w in load_image(adapter, self.fmt, number, self.lanes, self.vl)[2:-1]]
        parts = -(-self.dut.word_bits // 32)
        assert len(words) == self.dut.words * self.lanes * parts
        for k in range(0, len(words), parts):
            address, lane = divmod(k // parts, self.lanes)
            word = sum(w << 32 * j for j, w in enumerate(words[k : k + parts]))
            yield (number - 1) * self.dut.words + address, lane, word

    def run(self, tokens, loads, stall=0.0, seed=0):
        """Load ``loads[0]``, then run token k while ``loads[k + 1]`` is loaded; a load is a list of (number, adapter).

        Returns the cycles in which beats moved on x and on o.
        """
        dut, vl, n_steps = self.dut, self.vl, len(STEPS)
        rng = np.random.default_rng(seed)
        started, vectors_in, loaded, token_done = 0, 0, 0, 0
        moved = [], []

        async def load(ctx):
            nonlocal loaded
            for k, adapters in enumerate(loads):
                while started < k:
                    await ctx.tick()
                for number, adapter in adapters:
                    for address, lane, word in self.writes(number, adapter):
                        while stall and rng.random() < 0.2:
                            ctx.set(dut.write.en, 0)
                            ctx.set(dut.write.addr, int(rng.integers(1 << 16)) % (1 << len(dut.write.addr)))
                            await ctx.tick()
                        for port, value in (
                            (dut.write.en, 1),
                            (dut.write.addr, address),
                            (dut.write.lane, lane),
                            (dut.write.data, word),
                        ):
                            ctx.set(port, value)
                        await ctx.tick()
                ctx.set(dut.write.en, 0)
                loaded += 1

        async def host(ctx):
            nonlocal started
            for k, token in enumerate(tokens):
                while token_done < k or loaded <= k:
                    await ctx.tick()
                for port in (dut.adapter, dut.steps):
                    ctx.set(port, int(rng.integers(1 << len(port))))
                for _ in range(3):
                    await ctx.tick()
                if token.adapter:
                    for port, value in ((dut.start, 1), (dut.adapter, token.number), (dut.steps, token.steps)):
                        ctx.set(port, value)
                started = k + 1
                await ctx.tick()
                ctx.set(dut.start, 0)
                for port in (dut.adapter, dut.steps):
                    ctx.set(port, int(rng.integers(1 << len(port))))

        async def x(ctx):
            nonlocal vectors_in
            for k, token in enumerate(tokens):
                while started <= k:
                    await ctx.tick()
                for index, (mant, exp) in enumerate(token.vectors):
                    if token.adapter:
                        await drive(ctx, dut.x, vector_beats(mant, exp, self.x_lanes), stall, ("x", seed, k, index))
                    vectors_in += 1

        async def i(ctx):
            for k, token in enumerate(tokens):
                for index, results in enumerate(token.results):
                    while vectors_in <= k * len(token.results) + index:
                        await ctx.tick()
                    await drive(ctx, dut.i, beats(results, Step(index % n_steps), vl), stall, ("i", seed, k, index))
                await drive(ctx, dut.i, head_beats(token, vl), stall, ("i", seed, k))

        async def o(ctx):
            nonlocal token_done
            for k, token in enumerate(tokens):
                for index in range(len(token.results)):
                    want = beats(added(token, self.fmt, index), Step(index % n_steps), vl)
                    got = await collect(ctx, dut.o, len(want), stall, (seed, k, index))
                    assert got == want, f"token {k}, layer {index // n_steps}, {Step(index % n_steps).name}"
                assert await collect(ctx, dut.o, len(token.head), stall, (seed, k)) == head_beats(token, vl), f"head of token {k}"
                token_done += 1

        async def watch(ctx):
            cycle = 0
            ports = [port for stream in (dut.x, dut.o) for port in (stream.valid, stream.ready)]
            async for *_, x_valid, x_ready, o_valid, o_ready in ctx.tick().sample(*ports):
                for cycles, moves in zip(moved, (x_valid and x_ready, o_valid and o_ready), strict=True):
                    if moves:
                        cycles.append(cycle)
                cycle += 1

        simulate(dut, load, host, x, i, o, background=[watch])
        return moved


def check(fmt, rank, lanes, vl=4, *, exponents="near", masks=(15, 15, 15), stall=0.4, seed=0, change=lambda bench: None):
    """Run tokens with two adapters, each loaded while the other one is used, and a token without an adapter.

    ``change`` may break the adder.
    """
    rng = np.random.default_rng([seed, rank, lanes])
    a, b, c = (random_adapter(rng, fmt, rank, steps, exponents) for steps in masks)
    script = [(1, a, [(2, b)]), (2, b, [(1, c)]), (0, None, []), (1, c, []), (2, b, [])]
    tokens = [random_token(rng, fmt, number, adapter, exponents) for number, adapter, _ in script]
    bench = Bench(fmt, rank, lanes, vl)
    change(bench)
    bench.run(tokens, [[(1, a)], *(loads for *_, loads in script)], stall, seed)


SHAPES = [  # rank, lora_lanes, vector_lanes
    (2, 1, 4),
    (2, 2, 8),
    (4, 4, 2),
    (8, 1, 4),
    (8, 2, 4),
    (8, 4, 8),
    (16, 2, 2),
    (32, 4, 4),
    (64, 1, 4),
    (64, 2, 2),
    (64, 4, 8),
]


@pytest.mark.parametrize("rank, lanes, vl", SHAPES)
def test_equals_golden(rank, lanes, vl):
    fmt = random_format(n_layers=1, ffn_dim=32 if rank == 64 else 48, wide_bits=24 if lanes == 2 else 32)
    check(fmt, rank, lanes, vl, masks=(15, 1 + (5 * rank + lanes) % 14, 15), seed=vl)


@pytest.mark.parametrize(
    "changes, rank, lanes",
    [
        ({"n_layers": 3}, 8, 2),
        ({"dim": 96, "n_layers": 1}, 8, 2),  # several blocks
        ({"dim": 40, "n_heads": 3, "n_kv_heads": 1, "head_dim": 8, "ffn_dim": 70, "n_layers": 1}, 4, 4),  # padding everywhere
        ({"n_heads": 3, "n_kv_heads": 3, "head_dim": 24, "n_layers": 1}, 2, 2),  # words with rows of k, v and q
    ],
    ids=str,
)
def test_models(changes, rank, lanes):
    check(random_format(**changes), rank, lanes, seed=1)


def test_without_stalls():
    check(random_format(), 8, 4, stall=0.0)


def test_mostly_stalled():
    check(random_format(n_layers=1), 8, 2, stall=0.8)


def test_every_mask():
    """``steps`` decides which steps are computed; the addresses of the others are skipped."""
    rng = np.random.default_rng(3)
    fmt = random_format(n_layers=1)
    adapter = random_adapter(rng, fmt, 8)
    tokens = [random_token(rng, fmt, 1, adapter, steps=int(steps)) for steps in rng.permutation(16)]
    for token in tokens:
        for step in Step(0), Step(1), Step(2), Step(3):
            changed = any((new != y).any() for new, y in zip(added(token, fmt, step), token.results[step], strict=True))
            assert changed == token.steps >> step & 1
    Bench(fmt, 8, 2).run(tokens, [[(1, adapter)], *([] for _ in tokens)], 0.2)


@pytest.mark.parametrize("rank, exponents, wide_bits", [(8, "wild", 24), (8, "far", 32), (64, "wild", 32), (64, "far", 24)])
def test_corners(rank, exponents, wide_bits):
    """Shifts of all sizes, exponents at both ends; terms, addends and results that saturate, alone and together."""
    check(random_format(n_layers=1, ffn_dim=32, wide_bits=wide_bits), rank, 2, exponents=exponents, stall=0.0, seed=wide_bits)


def constant_adapter(fmt, rank, a, b):
    """All steps, all mantissas 127 or -127; ``a`` is the exponent of A, ``b`` are those of B's rows."""
    matrices = {}
    for layer in range(fmt.n_layers):
        for kind in chain(*STEPS.values()):
            rows, blocks = matrix_shape(fmt, kind)
            nb = min(32, rank)
            mant = np.full((rows, rank // nb, nb), 127, np.int8)
            mant[::2] = -127
            exp = np.broadcast_to(np.resize(b, rows)[:, None], (rows, rank // nb))
            matrices[f"layers.{layer}.{kind}"] = LoraBlocks(
                np.full((rank, blocks, 32), 127, np.int8), np.full((rank, blocks), a, np.int8), mant, exp.astype(np.int8)
            )
    return IntegerAdapter(rank, matrices)


@pytest.mark.parametrize("wide_bits", [24, 32])
def test_saturation(wide_bits):
    """Addends that saturate, on results whose sum saturates and does not; every exponent of B."""
    rng = np.random.default_rng(wide_bits)
    fmt = random_format(n_layers=1, ffn_dim=128, wide_bits=wide_bits)
    top = (1 << wide_bits - 1) - 1
    seen = set()
    tokens = []
    for a in (-64, -20, 63):
        adapter = constant_adapter(fmt, 4, a, np.arange(-64, 64))
        token = random_token(rng, fmt, 1, adapter)
        token.results[:] = [[rng.choice([-top - 1, -1, 0, 1, top], len(y)) for y in ys] for ys in token.results]
        tokens.append(token)
        for index, ys in enumerate(token.results):
            for y, new in zip(ys, added(token, fmt, index), strict=True):
                seen |= set(zip(y.tolist(), new.tolist(), strict=True))
    # y = 0 shows the ends of the addend; y at an end shows those of the sum.
    assert {(0, top), (0, -top - 1), (top, top), (-top - 1, -top - 1), (top, -1), (-top - 1, -1)} <= seen
    for token in tokens:
        Bench(fmt, 4, 2).run([token], [[(1, token.adapter)], []], 0.0)


@pytest.mark.parametrize("rank, lanes, vl", [(8, 1, 4), (8, 2, 8), (2, 1, 16), (16, 4, 8), (64, 1, 4), (64, 4, 2)])
def test_cycles(rank, lanes, vl):
    """Without stalls: the cycles from a step's x to its first results, and the cycles that a step takes."""
    rng = np.random.default_rng(5)
    fmt = random_format(n_layers=1, dim=64)
    adapter = random_adapter(rng, fmt, rank)
    bench = Bench(fmt, rank, lanes, vl)
    x, o = bench.run([random_token(rng, fmt, 1, adapter)], [[(1, adapter)], []])
    assert bench.dut.latency == 1
    shapes = lora_matrices(fmt)
    last_x = np.cumsum([shape.blocks * 32 // min(2 * vl, 32) for shape in shapes]) - 1
    first_o = np.cumsum([0, *(shape.rows // vl for shape in shapes)])[:-1]
    addresses = max(1, rank // 32 // lanes)  # of a row of B
    sharing = 2 if rank == 64 and lanes > 1 else 1  # lanes that share one
    rows = max(1, 32 * lanes // rank)  # of an address
    fills = (max(1, vl // rows) - 1) * addresses
    nb = min(32, rank)
    begins = x[last_x[0]] + 2
    for step, shape in enumerate(shapes):
        begins = max(begins, x[last_x[step]] + 2)
        a_words = shape.a_words(rank, lanes)
        assert o[first_o[step]] == begins + a_words + nb // lanes + addresses + sharing + fills + 26, Step(step).name
        begins += a_words + nb // lanes + 14 + shape.b_words(rank, lanes)
    assert last_x[1] < len(x) and begins > x[last_x[3]] + 2, "no step followed the step before without a gap"


def test_a_beat_a_cycle():
    """Results pass at the full rate if their step is not computed, and if the addends are there."""
    rng = np.random.default_rng(6)
    fmt = random_format(n_layers=1, dim=64)
    adapter = random_adapter(rng, fmt, 2)
    tokens = [random_token(rng, fmt, 1, adapter, steps=steps) for steps in (0, 15)]
    _, o = Bench(fmt, 2, 2, 2).run(tokens, [[(1, adapter)], [], []])
    qkv = lora_matrices(fmt)[Step.QKV].rows // 2
    half = len(o) // 2
    for first in (0, half):
        assert o[first : first + qkv] == list(range(o[first], o[first] + qkv))


def _wraps_in(which):
    """A ``saturate`` that wraps in the sum of result and addend (``which`` is True), or everywhere else."""

    def wrap(value, width):
        is_result = len(value) == width + 1
        return value[:width].as_signed() if is_result == which else saturate(value, width)

    return wrap


BROKEN = {
    "the row's result is not rounded": (hdl.lora.adder, "ROUND_RESULT", 0),
    "terms are not rounded": (hdl.lora.lane, "ROUND_TERM", 0),
    "exponents of terms are off by one": (hdl.lora.lane, "TERM_FRACTION", 15),
    "z's exponent is off by one": (hdl.lora.adder, "TERM_FRACTION", 15),
    "addends wrap": (hdl.lora.adder, "saturate", _wraps_in(False)),
    "results wrap": (hdl.lora.adder, "saturate", _wraps_in(True)),
    "shifts wrap": (hdl.lora.lane, "_clip", lambda shift: shift[:6]),
}


def check_broken(change=lambda bench: None):
    for exponents in ("wild", "near"):
        check(random_format(n_layers=1), 8, 2, exponents=exponents, stall=0.0, change=change)


def test_unbroken():
    check_broken()


@pytest.mark.parametrize("what", BROKEN)
def test_the_check_catches(what, monkeypatch):
    monkeypatch.setattr(*BROKEN[what])
    with pytest.raises(AssertionError, match=r"^token"):
        check_broken()


def test_the_check_catches_rows_of_another_projection():
    def change(bench):
        bench.dut.k_rows -= 8

    with pytest.raises(AssertionError, match=r"^token 0, layer 0, QKV"):
        check_broken(change)


@pytest.mark.parametrize("shape", [(2, 1, 2), (8, 2, 4), (64, 4, 4)])
def test_verilog(tmp_path, shape):
    """Verilator's linter finds nothing but what hdl/lint.vlt waives for every unit."""
    rank, lanes, vl = shape
    (tmp_path / "lora.v").write_text(convert(Bench(random_format(), rank, lanes, vl).dut, "lora"))
    verilator("--lint-only", "-Wall", "--top-module", "lora", str(WAIVERS), str(tmp_path / "lora.v"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_layers": 0}, "n_layers must be a positive integer, not 0"),
        ({"k_rows": 1.0}, "k_rows must be a positive integer, not 1.0"),
        ({"n_adapters": 0}, "n_adapters must be a positive integer, not 0"),
        ({"matrices": []}, r"matrices must be those of QKV, O, GATE_UP and DOWN, not \[\]"),
        ({"k_rows": 32}, "k_rows must leave some of the 64 rows of QKV to q, not 32"),
        ({"rank": 12}, "rank must be a power of two from 2 to 64, not 12"),
        ({"rank": 128}, "rank must be a power of two from 2 to 64, not 128"),
        ({"lora_lanes": 3}, r"lora_lanes must be a power of two from 1 to min\(32, rank\) = 8, not 3"),
        ({"lora_lanes": 16}, r"lora_lanes must be a power of two from 1 to min\(32, rank\) = 8, not 16"),
        ({"vector_lanes": 64}, "vector_lanes must be a power of two from 1 to 32, not 64"),
        ({"wide_bits": 16}, "wide_bits must be 24 or 32, not 16"),
    ],
)
def test_refusals(change, message):
    arguments = {
        "matrices": lora_matrices(random_format()),
        "n_layers": 2,
        "k_rows": 16,
        "rank": 8,
        "lora_lanes": 2,
        "n_adapters": 2,
        "vector_lanes": 4,
        "x_lanes": 8,
        "wide_bits": 32,
    } | change
    with pytest.raises(ValueError, match=f"^{message}$"):
        Lora(**arguments)
