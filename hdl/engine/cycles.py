"""Count the cycles of a token on the shared engine: follow its program by the rules of its words, without data."""

from collections.abc import Iterator
from itertools import groupby
from types import SimpleNamespace

from hdl.config import ChipConfig
from hdl.cycles.token import UNITS, Span, TokenCycles
from hdl.engine.isa import LAYOUT, LIMITS, RULES, Event, Seq, limits
from hdl.engine.program import MATRIX, program, program_units
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.schedule import Step, head_matrix, layer_matrices

DIVISION = 19
"""Cycles from the word that starts a division to the first word that finds its result."""

BEFORE = 3
"""Cycles in which the chip takes a token, looks up its place and checks it, until the engine starts."""


def engine_cycles(model: ModelFormat, config: ChipConfig, place: int, *, sample: bool = True) -> int:
    """Count the cycles from ``start`` to ``done``, both counted, of an idle engine: the same for all tokens at that place."""
    return sum(1 for _ in words_of(model, config, place, sample=sample)) + 1


def shared_token_cycles(model: ModelFormat, config: ChipConfig, context: int, *, sample: bool = True) -> TokenCycles:
    """Predict a token that makes its context ``context`` positions long, as ``hdl.cycles.token.token_cycles`` does.

    One pipeline does all of the work, so that one unit works at a time, and ``work`` is ``path``.  A matrix has all five
    words of its terms; ``matvec`` has the words that start a matrix and wait for its last rows.
    Raises ValueError for a context that the chip does not hold.
    """
    if not 1 <= context <= config.max_context:
        raise ValueError(f"context must be 1 to max_context ({config.max_context}), not {context!r}")
    words, names = [LAYOUT.from_bits(word) for word in program(model)], program_units(model)
    path = list(words_of(model, config, context - 1, sample=sample))
    step = Step.QKV
    units = ["control"] * BEFORE
    for n in path:
        if words[n]["event"] == Event.STEP:
            step = Step(words[n]["imm"])
        units.append(step.name.lower() if names[n] == MATRIX else names[n])
    units += ["control", *["sampler"] * sample, "control"]
    # The first layer begins after the embedding's last word, ``REWIND``, and ends with the first LOOP_LAYER.
    begins = BEFORE + 1 + next(now for now, n in enumerate(path) if words[n]["event"] == Event.REWIND)
    ends = BEFORE + next(now for now, n in enumerate(path) if words[n]["seq"] == Seq.LOOP_LAYER)
    spans, end = [], begins
    for unit, cycles in groupby(units[begins : ends + 1]):
        start, end = end + 1, end + len(list(cycles))
        spans.append(Span(unit, start, end))
    return TokenCycles({unit: units.count(unit) for unit in UNITS}, tuple(spans), tuple(spans))


def words_of(model: ModelFormat, config: ChipConfig, place: int, *, sample: bool = True) -> Iterator[int]:
    """Yield the address of the word that a token has in each cycle, from the cycle of ``start`` on."""
    if not 0 <= place < config.max_context:
        raise ValueError(f"place must be 0 to max_context - 1 ({config.max_context - 1}), not {place!r}")
    words = [LAYOUT.from_bits(word) for word in program(model)]
    words = [{name: word[name] for name in ("imm", "seq", "limit", "event")} for word in words]
    bounds = [limits(model)[name] for name in LIMITS]
    terms = {s.step: s.rows * s.blocks * s.planes for s in (*layer_matrices(model), head_matrix(model))}
    at = SimpleNamespace(i=0, h=0, p=0, layer=0, paused=0, start=1, sample=int(sample))
    at.place, at.beyond, at.last_layer = place, place + 3, model.n_layers - 1
    pc = next(n for n, word in enumerate(words) if word["seq"] == Seq.IDLE)
    back = left = ready = now = 0
    while True:
        word = words[pc]
        yield pc
        match Event(word["event"]):
            case Event.STEP:
                left = terms[Step(word["imm"])]
            case Event.SET_I:
                at.i = word["imm"]
            case Event.DIVIDE:
                ready = now + DIVISION
            case Event.DONE:
                return
        left -= word["seq"] == Seq.LOOP_TERM
        at.limit, at.last = word["limit"], bounds[word["limit"]] - 1
        at.matrix_ends, at.divided = left == 0, now >= ready
        rule = RULES[Seq(word["seq"])]
        jumps = rule.jumps(at)
        for counter in rule.counters:
            setattr(at, counter, (rule.again if jumps else rule.ends)(getattr(at, counter)))
        back, following = (pc + 1 if rule.calls else back), (back if rule.returns else pc + 1)
        pc, now = (word["imm"] if jumps else following), now + 1
