"""Continue a prompt with a model, and return the text with figures."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.conversation import READ_AGAIN, Conversation
from hardwire.measure import CLOCK_MHZ, busy_fractions
from hardwire.progress import step
from hardwire.saved import check_writable, load, save
from hardwire.state import SavedError
from hardwire.target import Target
from weights_to_rom.errors import HardwireError

if TYPE_CHECKING:
    from sim.session import Reply, Sampling


def run(
    target: Target,
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
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Continue a prompt by up to ``n_tokens`` tokens; ``write`` gets the text as it comes, the prompt first.

    Parameters
    ----------
    target : Target       the model
    prompt : str          the text to continue; it may be empty with ``resume``, whose text it follows
    n_tokens : int        tokens at most
    backend : str         rtl, golden or float; by default rtl, and golden for a checkpoint
    sampling : Sampling   how a token is chosen
    chat : bool           the prompt is a question, in the model's chat template
    check : bool          compare every token and logit of the chip with the integer model afterwards
    ignore_end : bool     go on after a token that ends the text
    clock_mhz : float     the clock for which tokens a second are projected, in MHz
    save_to : Path        keep the simulated chip and the text in this file at the end
    resume : Path         a file of ``save_to`` to go on from
    write : Callable      gets the text in pieces
    say : Callable        gets remarks for a person, one line each

    Returns the text, its tokens, and figures: times measured on this machine, cycles counted by the simulation.
    """
    backend = target.backend(backend)
    if check and backend != "rtl":
        raise HardwireError(f"--check compares the chip with golden: it needs backend rtl, not {backend}")
    if save_to is not None:
        check_writable(save_to, backend)
    saved = load(resume, target, backend) if resume else None
    if check and saved and saved.adapter and target.adapter is None:
        raise SavedError(f"{resume}: was saved with an adapter, and --check needs it: give --adapter")
    conversation = Conversation(target, chat, saved=saved)
    asked = conversation.prompt(prompt)
    prompt = asked.text
    before = [] if asked.again else [*conversation.read]
    session = target.session(backend, saved)
    if asked.again:
        say(READ_AGAIN)
    start = time.monotonic()
    with step("read the prompt") as running:
        conversation.feed(
            session, asked, progress=lambda done, total: running.update(f"token {done + 1} of {total + 1}", done, total)
        )
    middle = time.monotonic()
    write(prompt + ("\n" if chat else ""))
    stop = () if ignore_end else target.stops(chat)
    replies = [*conversation.answer(session, asked, n_tokens, sampling, stop, write)]
    write("\n")
    end = time.monotonic()
    if save_to is not None:
        save(save_to, session, conversation)
    session.close()
    stopped = "tokens" if len(replies) == n_tokens else "context full"
    if replies[-1].token in stop:
        stopped = "end of text"
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

        figures["check"] = check_text(target, prompt, before + asked.ids, [reply.rtl for reply in replies if reply.rtl], sampling)
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
