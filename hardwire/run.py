"""Text from a model, as it comes."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.cli.console import say
from hardwire.conversation import READ_AGAIN, Conversation
from hardwire.measure import CLOCK_MHZ, busy_fractions
from hardwire.saved import check_writable, load, save
from hardwire.state import SavedError
from hardwire.target import Target

if TYPE_CHECKING:
    from sim.session import Reply, Sampling


def run(
    subject: Target,
    prompt: str,
    n_tokens: int,
    *,
    backend: str | None = None,
    sampling: "Sampling",
    chat: bool = False,
    check: bool = False,
    ignore_end: bool = False,
    clock_mhz: float = CLOCK_MHZ,
    save_to: Path | None = None,
    resume: Path | None = None,
    write: Callable[[str], None] = lambda text: None,
) -> dict:
    """Continue a prompt by up to ``n_tokens`` tokens; ``write`` gets the text as it comes, the prompt first.

    The text goes on after its end token if ``ignore_end``.  ``check`` compares every token and logit of the chip
    with golden's afterwards.  ``save_to`` is a file for the chip and the text; from such a file, ``resume``, both go on,
    and the prompt, which then may be empty, follows that text.
    Returns the text, its tokens, and figures: times measured here, cycles by the simulation.
    """
    backend = subject.backend(backend)
    if check and backend != "rtl":
        raise ValueError(f"--check compares the chip with golden: it needs backend rtl, not {backend}")
    if save_to is not None:
        check_writable(save_to, backend)
    saved = load(resume, subject.output, backend) if resume else None
    if check and saved and saved.adapter and subject.adapter is None:
        raise SavedError(f"{resume}: was saved with an adapter, and --check needs it: give --adapter")
    conversation = Conversation(subject, chat, saved=saved)
    asked = conversation.prompt(prompt)
    before = [] if asked.again else [*conversation.read]
    session = subject.session(backend, saved=saved)
    if asked.again:
        say(READ_AGAIN)
    start = time.monotonic()
    conversation.feed(session, asked)
    middle = time.monotonic()
    write(prompt + ("\n" if chat else ""))
    stop = () if ignore_end else subject.eos_token_ids
    replies = [*conversation.answer(session, asked, n_tokens, sampling, stop, write)]
    write("\n")
    end = time.monotonic()
    if save_to is not None:
        save(save_to, subject.output, session, conversation)
    session.close()
    if replies[-1].token in stop:
        stopped = "end of text"
    else:
        stopped = "tokens" if len(replies) == n_tokens else "context full"
    figures = {
        "backend": backend,
        "prompt": prompt,
        "text": conversation.text,
        "position": len(before),
        "prompt_tokens": asked.ids,
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
        from hardwire.check import check as check_text

        figures["check"] = check_text(subject, prompt, before + asked.ids, [reply.rtl for reply in replies if reply.rtl], sampling)
    return figures


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
