"""The cycles of a token on the shared engine: its microprogram, followed without its data."""

from hdl.config import ChipConfig
from hdl.engine.program import LAYOUT, LIMITS, Event, Seq, limits, program
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.schedule import Step, head_matrix, layer_matrices

DIVISION = 19
"""Cycles from the word that starts a division to the first that finds its result there."""


def engine_cycles(model: ModelFormat, config: ChipConfig, place: int, *, sample: bool = True) -> int:
    """Cycles from ``start``, counted, to ``done``, if the engine is idle: the same for all tokens at that place."""
    return sum(1 for _ in words_of(model, config, place, sample=sample)) + 1


def shared_token_cycles(model: ModelFormat, config: ChipConfig, context: int, *, sample: bool = True) -> int:
    """Cycles of a token that makes its context ``context`` positions long, as ``hdl.cycles.token.token_cycles`` counts them.

    Around the engine's own the chip takes the token, looks up its place, checks it, starts the engine, and replies; with ``sample``
    the sampler's winner is a state of its own.  Raises ValueError for a context that the chip does not hold.
    """
    return engine_cycles(model, config, context - 1, sample=sample) + (5 if sample else 4)


def words_of(model: ModelFormat, config: ChipConfig, place: int, *, sample: bool = True):
    """The numbers of the words that a token goes through, a cycle each."""
    if not 0 <= place < config.max_context:
        raise ValueError(f"place must be 0 to max_context - 1 ({config.max_context - 1}), not {place!r}")
    words = [LAYOUT.from_bits(word) for word in program(model)]
    words = [{name: word[name] for name in ("imm", "seq", "limit", "event")} for word in words]
    bound = [limits(model)[name] for name in LIMITS]
    terms = {s.step: s.rows * s.blocks * s.planes for s in (*layer_matrices(model), head_matrix(model))}
    pc = next(n for n, word in enumerate(words) if word["seq"] == Seq.IDLE)
    i = h = p = layer = paused = term = back = divided = 0
    step = Step.QKV
    for now in range(1 << 30):
        word = words[pc]
        yield pc
        limit, jump = bound[word["limit"]], False
        match Event(word["event"]):
            case Event.STEP:
                step, term = Step(word["imm"]), 0
            case Event.SET_I:
                i = word["imm"]
            case Event.DIVIDE:
                divided = now + DIVISION
            case Event.DONE:
                return
        match Seq(word["seq"]):
            case Seq.JUMP:
                jump = True
            case Seq.CALL:
                jump, back = True, pc + 1
            case Seq.RETURN:
                pc = back
                continue
            case Seq.LOOP_I:
                jump = i != limit - 1
                i = i + 1 if jump else 0
            case Seq.LOOP_32 | Seq.LOOP_8 as seq:
                i += 1
                jump = i % (32 if seq == Seq.LOOP_32 else 8) != 0
            case Seq.REWIND_32 | Seq.REWIND_8 as seq:
                n = 32 if seq == Seq.REWIND_32 else 8
                jump = i % n != n - 1
                i += 1 if jump else 1 - n
            case Seq.UNLESS_I:
                jump = i != limit
                i = i if jump else 0
            case Seq.LOOP_SCORE | Seq.LOOP_SUM as seq:
                jump = p != place + (3 if seq == Seq.LOOP_SCORE else 0)
                p = p + 1 if jump else 0
            case Seq.LOOP_H:
                jump = h != limit - 1
                h = h + 1 if jump else 0
            case Seq.LOOP_TERM:
                term += 1
                jump = term != terms[step]
            case Seq.LOOP_LAYER:
                layer += 1
                jump = layer != model.n_layers
            case Seq.WAIT:
                jump = now < divided
            case Seq.UNLESS_SAMPLE:
                jump = not sample
            case Seq.PAUSE:
                jump = paused != word["limit"]
                paused = paused + 1 if jump else 0
        pc = word["imm"] if jump else pc + 1
