# amaranth: UnusedElaboratable=no
"""The shared engine against golden: every logit of whole tokens, to the bit, and the cycles that were promised."""

import random
from dataclasses import replace

import numpy as np
import pytest

import hdl.engine.sequencer
from hardwire.source import Source
from hdl.config import ChipConfig
from hdl.engine.cycles import DIVISION, engine_cycles, shared_token_cycles, words_of
from hdl.engine.engine import SharedEngine
from hdl.engine.isa import LAYOUT, PROGRAM_WORDS, WRITE_DISTANCE, A, B, Base, Event, Read, Seq, Shift, Write
from hdl.engine.program import program
from sim.golden.llama import GoldenLlama
from tests.support.models import random_model
from tests.support.streams import simulate
from weights_to_rom.integer_model import IntegerModel, Norm
from weights_to_rom.pack.rom_image import rom_images
from weights_to_rom.quantise.blocks import QuantisedMatrix

SHORTEST_TERM = 5
"""Cycles between two logits where a row is one term."""


def engine(model: IntegerModel, max_context: int = 32, n_sequences: int = 1) -> SharedEngine:
    config = ChipConfig.for_model(model.format, shared=True, max_context=max_context, n_sequences=n_sequences)
    roms = {rom.name: rom.ints() for rom in rom_images(model, row_lanes=1, block_lanes=8, vector_lanes=1)}
    return SharedEngine(model=model.format, config=config, roms=roms)


def talk(dut: SharedEngine, model: IntegerModel, tokens, stall: float = 0.0, seed: int = 0):
    """(cycles, logits) of each of ``tokens``, (token, sequence, place, sample) each."""
    rng = random.Random(seed)

    async def process(ctx):
        ctx.set(dut.residual_shift, model.residual_shift)
        answers = []
        await ctx.tick().repeat(3)
        for token, sequence, place, sample in tokens:
            for name, value in (("token", token), ("sequence", sequence), ("place", place), ("sample", sample), ("start", 1)):
                ctx.set(getattr(dut, name), value)
            cycles, logits, waits, done = 0, [], 0, 0
            while not done or len(logits) % model.format.vocab_size:
                # A logit may have to wait, but must be gone before the next; the last one may outlast ``done``.
                ready = waits == SHORTEST_TERM - 1 or rng.random() >= stall
                ctx.set(dut.logits.ready, ready)
                *_, valid, beat, ends = await ctx.tick().sample(dut.logits.valid, dut.logits.payload, dut.done)
                ctx.set(dut.start, 0)
                waits = waits + 1 if valid and not ready else 0
                if valid and ready:
                    logits.append(beat.data[0])
                    assert beat.last == (len(logits) == model.format.vocab_size)
                cycles += 1
                done = cycles if ends else done
            answers.append((done, logits))
            for _ in range(rng.randrange(4) if stall else 2):
                await ctx.tick()
        return answers

    return simulate(dut, process, limit=15_000 * len(tokens))[0]


def check(model: IntegerModel, tokens, stall: float = 0.0, seed: int = 0) -> None:
    """``tokens`` in one sequence; the last two and the first want logits."""
    golden = GoldenLlama(model)
    dut = engine(model)
    told = [(token, 0, place, place in (0, len(tokens) - 2, len(tokens) - 1)) for place, token in enumerate(tokens)]
    for (token, _, place, sample), (_, logits) in zip(told, talk(dut, model, told, stall, seed), strict=True):
        expected = golden.extend([token])[0].tolist() if sample else (golden.extend([token]), [])[1]
        assert logits == expected, f"logits at place {place}"


def wild(seed: int) -> IntegerModel:
    """Any codes, scales and gains that the format can hold: nothing that saturates or vanishes is left out."""
    rng = np.random.default_rng(seed)
    model = random_model(seed, 24, n_layers=1, ffn_dim=32, vocab_size=24)

    def exponents(n: int) -> np.ndarray:
        near = rng.integers(-20, -8, n)
        return np.where(rng.random(n) < 0.7, near, rng.integers(-64, 63, n, endpoint=True)).astype(np.int8)

    def any_byte(shape) -> np.ndarray:
        return np.where(rng.random(shape) < 0.2, rng.choice([0, 1, 128, 255], shape), rng.integers(0, 255, shape, endpoint=True))

    matrices = {}
    for name, matrix in model.matrices.items():
        d = any_byte(matrix.d.shape).astype(np.uint8)
        m = d if matrix.bits == 8 else any_byte(d.shape).astype(np.uint8)
        q = any_byte(matrix.q.shape).astype(np.uint8) >> (8 - matrix.bits)
        k = matrix.k if matrix.bits == 8 else rng.integers(0, 4, matrix.k.shape, endpoint=True).astype(np.uint8)
        e = exponents(len(matrix.e))
        if name == "embed":  # most of it within Wide
            e = np.where(rng.random(len(e)) < 0.8, rng.integers(-18, -4, len(e)), e).astype(np.int8)
        matrices[name] = QuantisedMatrix(q, d, m, e, k, matrix.bits)
    norms = {
        name: Norm(
            np.where(rng.random(32) < 0.2, rng.choice([-32767, 0, 32767], 32), rng.integers(-32767, 32767, 32)).astype(np.int16),
            int(rng.integers(-20, 8)),
            int(rng.choice([1, 5368, 2**31 - 1])),
        )
        for name in model.norms
    }
    return replace(
        model,
        matrices=matrices,
        norms=norms,
        freq_q=rng.integers(0, 2**32, 4, dtype=np.uint32),
        residual_shift=int(rng.integers(-4, 4)),
    )


@pytest.mark.parametrize(
    "shape",
    [
        {"ffn_dim": 32, "vocab_size": 64},
        {"dim": 50, "n_layers": 1, "n_heads": 8, "n_kv_heads": 1, "ffn_dim": 70, "vocab_size": 33},
        {"n_layers": 1, "n_heads": 4, "n_kv_heads": 4, "ffn_dim": 5, "vocab_size": 20},
    ],
    ids=["stories_tiny", "64_to_96_8_to_1", "4_to_4"],
)
def test_equals_golden(shape):
    model = random_model(3, 24, **shape)
    rng = random.Random(5)
    check(model, [rng.randrange(model.format.vocab_size) for _ in range(3)], stall=0.6, seed=1)


@pytest.mark.parametrize("seed", range(6))
def test_extremes(seed):
    check(wild(seed), [1, 5, 23, 1], seed=seed)


def test_sequences_do_not_touch_each_other():
    model = random_model(1, 24, n_layers=1, ffn_dim=32, vocab_size=20)
    golden = [GoldenLlama(model) for _ in range(3)]
    told = [(token, sequence, place, 1) for place in range(2) for sequence, token in enumerate((place, 19, 3))]
    for (token, sequence, _, _), (_, logits) in zip(told, talk(engine(model, 8, 3), model, told), strict=True):
        assert logits == golden[sequence].extend([token])[0].tolist()


def test_cycles():
    """Those of the program, whatever the data, with few places, where the divider is waited for, and with many."""
    model = random_model(2, 24, n_layers=1, ffn_dim=32, vocab_size=20)
    dut = engine(model)
    told = [(7, 0, place, sample) for place, sample in ((0, 1), (0, 0), (DIVISION - 2, 1), (DIVISION + 3, 1), (31, 0))]
    expected = [engine_cycles(model.format, dut.config, place, sample=bool(sample)) for _, _, place, sample in told]
    assert [cycles for cycles, _ in talk(dut, model, told)] == expected


@pytest.mark.parametrize(
    ("context", "prefill", "decode"), [(1, 6838, 7883), (16, 7678, 8723), (64, 10734, 11779), (128, 14830, 15875)]
)
def test_cycles_of_stories_tiny(context, prefill, decode):
    """As ``hardwire compile`` measured them; at position 64 an iCEBreaker of 24 MHz needs 12,000 for 2,000 tokens/s."""
    model = Source.open("stories-tiny").format(24)
    config = ChipConfig.for_model(model, shared=True, max_context=128)
    assert [shared_token_cycles(model, config, context, sample=sample).total for sample in (False, True)] == [prefill, decode]


FAULTS = {
    # fault: (fields that find a word of the program, fields that it gets instead)
    "no silu rounding": ({"shift": Shift.SILU}, {"shift": Shift.PASS}),
    "term is not cut to its width": ({"shift": Shift.TERM}, {"shift": Shift.NONE}),
    "no epsilon": ({"a": A.EPS}, {"a": A.ZERO}),
    "t << 15 by one product": ({"base": Base.ACC_15, "a": A.ZERO}, {"base": Base.ACC}),
    "rotation in the other sense": ({"read": Read.TRIG, "bsel": B.HI}, {"bsel": B.SIN}),
    "reciprocal without its top bits": ({"bsel": B.R_15}, {"bsel": B.ONE}),
    "mantissas of the last value": ({"write": Write.V}, {"write": Write.K}),
    "weights from the place before": ({"event": Event.RECORD, "b": 1}, {"b": 0}),
    "exponents of another block": ({"event": Event.BLOCK}, {"event": Event.SUM}),
    "query of the head before": ({"event": Event.QUERY}, {"event": Event.NONE}),
}

WILD = ("no epsilon", "reciprocal without its top bits")
"""What shows only where epsilon or a denominator of 2**15 counts."""


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_program_is_caught(fault, monkeypatch):
    found, changes = FAULTS[fault]
    model = wild(0) if fault in WILD else random_model(6, 24, n_layers=1, ffn_dim=32, vocab_size=20)

    def broken(model):
        words = program(model)
        for n, word in enumerate(words):
            fields = {name: LAYOUT.from_bits(word)[name] for name in LAYOUT.members}
            if all(fields[name] == value for name, value in found.items()):
                words[n] = LAYOUT.const(fields | changes).as_bits()
                return words
        raise AssertionError(f"no word has {found}")

    monkeypatch.setattr(hdl.engine.sequencer, "program", broken)
    with pytest.raises(AssertionError, match=r"logits at place|hung"):
        check(model, [1, 5, 9] if fault not in WILD else [1, 5])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"row_lanes": 2}, "the shared engine has row_lanes 1, not 2"),
        ({"block_lanes": 16}, "the shared engine has block_lanes 8, not 16"),
        ({"n_sinks": 2}, "the shared engine has no n_sinks: it must be 0, not 2"),
        ({"lora_rank": 4}, "the shared engine has no lora_rank: it must be 0, not 4"),
    ],
)
def test_lanes_that_there_are_not(changes, message):
    with pytest.raises(ValueError, match=message):
        ChipConfig.for_model(random_model(0, 24).format, shared=True, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"wide_bits": 32}, "wide_bits must be 24, not 32"),
        ({"head_dim": 16}, "head_dim must be 8, not 16"),
        ({"n_heads": 6}, r"query heads a key-value head must be a power of two, not 3"),
        ({"n_heads": 2}, r"n_heads \* head_dim must be a multiple of 32, not 16"),
        ({"dim": 70}, "dim must fill blocks of 32 that are a power of two in number, not 70"),
        ({"dim": 1024}, "dim must be at most 512, not 1024"),
        ({"tied": False}, "the head must be tied to an embedding of 8 bits"),
    ],
)
def test_shapes_that_do_not_fit(changes, message):
    model = random_model(0, **({"wide_bits": 24} | changes)).format
    with pytest.raises(ValueError, match=message):
        ChipConfig.for_model(model, shared=True)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"dim": 50, "n_layers": 3, "n_heads": 8, "n_kv_heads": 1, "ffn_dim": 200, "vocab_size": 33},
    ],
)
def test_no_word_reads_while_a_result_is_written(shape):
    """MEM has one port: followed over a whole token, whose words' timing is known without its data."""
    model = random_model(0, 24, **shape).format
    words = [LAYOUT.from_bits(word) for word in program(model)]
    assert len(words) <= PROGRAM_WORDS
    config = ChipConfig.for_model(model, shared=True, max_context=8)
    path = list(words_of(model, config, 5))
    writes = {now + WRITE_DISTANCE for now, n in enumerate(path) if words[n]["write"] != Write.NONE}
    uses = {now for now, n in enumerate(path) if words[n]["read"] != Read.NONE or words[n]["event"] in (Event.RECORD, Event.Y)}
    clash = [path[now] for now in sorted(writes & uses)]
    # What the embedding reads from MEM beside its weights means nothing.
    embed = range(*(next(n for n, word in enumerate(words) if word["event"] == event) for event in (Event.EMBED, Event.REWIND)))
    assert set(clash) <= set(embed)
    assert words[next(n for n in path)]["seq"] == Seq.IDLE
