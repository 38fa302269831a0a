"""Cycles of a token on the simulated chip, by the length of its context."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from weights_to_rom.schedule import Step

if TYPE_CHECKING:
    from sim.rtl.chip import RtlChip, RtlReply

SECONDS = 9.0
"""Seconds that each of the two passes, prefill and decode, may take."""

MEASURED = ("prefill", "decode", "busy_within_each_matrix", "simulated_cycles_per_second")
"""The figures that ``measure`` returns as measured."""

CLOCK_MHZ = 50.0
"""The clock of projected figures, in MHz, unless another is asked for."""


def context_lengths(longest: int) -> list[int]:
    """Return the contexts to measure: 1, 16, 64, 128, 256 ... and ``longest``."""
    lengths = [1, 16, 64]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    return sorted({n for n in lengths if n < longest} | {longest})


def measure(
    chip: "RtlChip", max_context: int, vocab_size: int, progress: Callable[[str], None] = lambda what: None
) -> tuple[dict, dict]:
    """Return measured figures, and figures projected from them to CLOCK_MHZ.

    They are the cycles of a token with n positions in its context, itself included: "prefill" without the LM head, "decode"
    with it.  The tokens are arbitrary, because no cycle depends on a token.  Contexts that are not reached within SECONDS are
    left out.

    Parameters
    ----------
    chip : RtlChip                      just after reset
    max_context : int                   positions of its KV cache
    vocab_size : int                    number of tokens in the vocabulary
    progress : Callable[[str], None]    gets the position at work
    """
    lengths = context_lengths(max_context)
    start, simulated = time.monotonic(), 0
    prefill: dict[str, int] = {}
    for position, reply in _tokens(chip, vocab_size, lengths[-1], lambda position: False):
        simulated += reply.cycles
        if position + 1 in lengths:
            prefill[str(position + 1)] = reply.cycles
        progress(f"prefill, position {position}")
        if time.monotonic() - start > SECONDS:
            break
    reached = [n for n in lengths if str(n) in prefill]
    decode: dict[str, dict] = {}
    reply = None
    for position, reply in _tokens(chip, vocab_size, reached[-1], lambda position: position + 1 in reached):
        simulated += reply.cycles
        if position + 1 in reached:
            decode[str(position + 1)] = {"cycles": reply.cycles, **busy_fractions([reply])}
        progress(f"decode, position {position}")
    assert reply is not None
    seconds = time.monotonic() - start
    measured = {
        "prefill": prefill,
        "decode": decode,
        "busy_within_each_matrix": {
            kind.name: round(reply.busy[kind] / reply.within[kind], 4) for kind in Step if reply.within[kind]
        },
        "simulated_cycles_per_second": round(simulated / seconds),
    }
    return measured, {
        "clock_mhz": CLOCK_MHZ,
        "decode_tokens_per_second": {n: round(CLOCK_MHZ * 1e6 / at["cycles"], 1) for n, at in decode.items()},
    }


def busy_fractions(replies: "list[RtlReply]") -> dict[str, float]:
    """Return the share of cycles in which the fabric reads a weight word: of all cycles, and of the cycles within a matrix."""
    busy = sum(sum(reply.busy) for reply in replies)
    return {
        "busy": round(busy / sum(reply.cycles for reply in replies), 4),
        "busy_within_matrices": round(busy / sum(sum(reply.within) for reply in replies), 4),
    }


def _tokens(chip: "RtlChip", vocab_size: int, n: int, sampled: Callable[[int], bool]) -> "Iterator[tuple[int, RtlReply]]":
    for position in range(n):
        yield position, chip.token(position % vocab_size, restart=position == 0, sample=sampled(position))
