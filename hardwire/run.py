"""Text from a model, as it comes."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hardwire.console import step
from hardwire.measure import CLOCK_MHZ, busy_fractions
from hardwire.subject import Subject

if TYPE_CHECKING:
    from sim.session import Reply, Sampling, Session


def run(
    subject: Subject,
    prompt: str,
    n_tokens: int,
    *,
    backend: str | None = None,
    sampling: "Sampling",
    chat: bool = False,
    check: bool = False,
    ignore_end: bool = False,
    clock_mhz: float = CLOCK_MHZ,
    write: Callable[[str], None] = lambda text: None,
) -> dict:
    """Continue a prompt by up to ``n_tokens`` tokens; ``write`` gets the text as it comes, the prompt first.

    The text goes on after its end token if ``ignore_end``.  ``check`` compares every token and logit of the chip
    with golden's afterwards.
    Returns the text, its tokens, and figures: times measured here, cycles by the simulation.
    """
    from sim.session import generate

    backend = subject.backend(backend)
    if check and backend != "rtl":
        raise ValueError(f"--check compares the chip with golden: it needs backend rtl, not {backend}")
    ids = subject.encode(prompt, chat)
    session = subject.session(backend)
    start = time.monotonic()
    _feed(session, ids[:-1], backend)
    middle = time.monotonic()
    text = _Text(subject, prompt, ids, chat, write)
    replies = []
    stop = () if ignore_end else subject.eos_token_ids
    for reply in generate(session, ids[-1:], n_tokens, sampling, stop):
        replies.append(reply)
        text.add(reply.token)
    text.finish()
    end = time.monotonic()
    session.close()
    if replies[-1].token in stop:
        stopped = "end of text"
    else:
        stopped = "tokens" if len(replies) == n_tokens else "context full"
    figures = {
        "backend": backend,
        "prompt": prompt,
        "text": text.text,
        "prompt_tokens": ids,
        "tokens": [reply.token for reply in replies],
        "stopped_by": stopped,
        "measured": {
            "prompt_seconds": round(middle - start, 3),
            "seconds": round(end - middle, 3),
            "tokens_per_second": round(len(replies) / (end - middle), 2),
        },
    }
    if backend == "rtl":
        figures |= _of_chip(figures["measured"], replies, end - middle, clock_mhz)
    if check:
        from hardwire.verify import check as check_text

        figures["check"] = check_text(
            subject, prompt, ids, [reply.rtl for reply in replies if reply.rtl], sampling
        )
    return figures


def _feed(session: "Session", ids: Sequence[int], backend: str) -> None:
    """Feed the prompt but for its last token."""
    at_once = 64 if backend == "golden" else 1
    with step("read the prompt") as running:
        for first in range(0, len(ids), at_once):
            session.feed(ids[first : first + at_once])
            running.update(f"token {first + 1}", first, len(ids))


def _of_chip(measured: dict, replies: "Sequence[Reply]", seconds: float, clock_mhz: float) -> dict:
    chip = [reply.rtl for reply in replies if reply.rtl]
    cycles = sum(reply.cycles for reply in chip)
    return {
        "measured": measured
        | {
            "cycles_per_token": round(cycles / len(chip), 1),
            **busy_fractions(chip),
            "simulated_cycles_per_second": round(cycles / seconds),
        },
        "projected": {
            "clock_mhz": clock_mhz,
            "tokens_per_second": round(clock_mhz * 1e6 * len(chip) / cycles, 1),
        },
    }


class _Text:
    """Tokens become text, or numbers where there is no tokenizer."""

    def __init__(
        self, subject: Subject, prompt: str, ids: Sequence[int], chat: bool, write: Callable[[str], None]
    ):
        from weights_to_rom.tokenizer import StreamDecoder

        self.text = ""
        self._write = write
        self._decoder = StreamDecoder(subject.tokenizer, ids) if subject.tokenizer else None
        write(prompt + ("\n" if chat else ""))

    def _add(self, piece: str) -> None:
        self.text += piece
        self._write(piece)

    def add(self, token: int) -> None:
        self._add(self._decoder.push(token) if self._decoder else f" {token}")

    def finish(self) -> None:
        if self._decoder:
            self._add(self._decoder.finish())
        self._write("\n")
