"""The loop of ``hardwire chat``: lines in, answers out."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.cli.console import say, stderr, write
from hardwire.cli.vocabulary import SCHEMA
from hardwire.conversation import READ_AGAIN, Conversation
from hardwire.progress import step
from hardwire.saved import check_writable, load, save
from hardwire.state import SavedError
from hardwire.target import Target
from weights_to_rom.text.errors import TokenizerError

if TYPE_CHECKING:
    from sim.session import Sampling, Session

HELP = """\
/reset       start a new conversation
/save FILE   keep the simulated chip and the conversation: hardwire chat OUT --resume FILE goes on from there
/stats       tokens, time and cycles so far
/help        this
/quit        end, as Ctrl-D does; Ctrl-C stops an answer"""

NEARLY_FULL = 8
"""A context is nearly full when less than 1 / NEARLY_FULL of its positions is left."""


def chat(
    target: Target,
    *,
    backend: str | None = None,
    sampling: "Sampling",
    system: str | None = None,
    n_tokens: int,
    save_to: Path | None = None,
    resume: Path | None = None,
    board: "Callable[[], Session] | None" = None,
    as_json: bool = False,
) -> None:
    """Answer the lines of stdin on stdout; remarks and figures go to stderr.

    A line that cannot be answered gets a remark, and the conversation goes on.

    Parameters
    ----------
    target : Target                     the model
    backend : str                       rtl, golden or float; by default rtl, and golden for a checkpoint
    sampling : Sampling                 how a token is chosen
    system : str                        a message to the model that comes first
    n_tokens : int                      tokens of an answer at most
    save_to : Path                      keep the simulated chip and the conversation in this file at the end
    resume : Path                       a file of ``save_to`` to go on from
    board : Callable[[], Session]       opens a session with a board, instead of ``backend``
    as_json : bool                      print an answer as a line of JSON

    Raises TokenizerError, SavedError, and the errors of a session.
    """
    backend = "board" if board else target.backend(backend)
    if save_to is not None:
        check_writable(save_to, backend)
    if resume is not None and system is not None:
        raise SavedError(f"{resume}: has a conversation that began with another --system: leave one of them out")
    saved = load(resume, target, backend) if resume else None
    templated = target.tokenizer is not None and target.tokenizer.chat_template is not None
    if system is not None and not templated:
        raise TokenizerError(f"{target.name}: has no chat template, which --system needs")
    conversation = Conversation(target, templated, system, saved)
    session = board() if board else target.session(backend, saved)
    _Chat(target, conversation, session, backend, sampling, n_tokens, as_json).run(save_to)


class _Chat:
    def __init__(
        self,
        target: Target,
        conversation: Conversation,
        session: "Session",
        backend: str,
        sampling: "Sampling",
        n_tokens: int,
        as_json: bool,
    ):
        self._target, self._conversation, self._session = target, conversation, session
        self._backend, self._sampling, self._n_tokens, self._as_json = backend, sampling, n_tokens, as_json
        self._answers: list[dict] = []

    def run(self, save_to: Path | None) -> None:
        if not self._conversation.chat:
            say(f"{self._target.name}: has no chat template: the model continues what you write, line by line")
        elif sys.stdin.isatty():
            say("/help lists the other commands")
        for line in _lines():
            if line.startswith("/"):
                name, _, argument = line.partition(" ")
                if name == "/quit":
                    break
                self._command(name, argument.strip())
            elif line.strip() or (self._conversation.pending and not self._conversation.chat):
                self._answer(line)
        if save_to is not None:
            self._save(save_to)
        self._session.close()

    def _command(self, name: str, argument: str) -> None:
        if name == "/reset":
            self._session.reset()
            self._conversation.clear()
            say("a new conversation")
        elif name == "/save" and argument:
            try:
                check_writable(Path(argument), self._backend)
                self._save(Path(argument))
            except (OSError, SavedError) as error:
                say(f"not saved: {error}")
        elif name == "/save":
            say("/save needs a file: /save FILE")
        elif name == "/stats":
            say(_line(_sum(self._answers)) if self._answers else "nothing was answered yet")
            say(self._context())
            if line := self._session.line:
                say(
                    f"line: {line['bytes_sent']:,} bytes sent, {line['bytes_received']:,} received; "
                    f"{line['frames_lost']:,} frames lost, {line['requests_repeated']:,} requests repeated"
                )
        elif name == "/help":
            say(HELP)
        else:
            say(f"there is no {name}: /help lists what there is")

    def _save(self, path: Path) -> None:
        save(path, self._session, self._conversation)
        say(f"saved in {path}: hardwire chat {self._target.name} --resume {path} goes on from here")

    def _answer(self, line: str) -> None:
        from sim.session import ContextFull

        session, conversation = self._session, self._conversation
        try:
            asked = conversation.prompt(line)
            if not asked.again and session.full:
                raise ContextFull(f"the context is full: all {session.max_context} positions are used")
        except ContextFull as error:
            say(f"{error}: /reset starts a new conversation")
            return
        except TokenizerError as error:
            say(str(error))
            return
        if asked.again:
            say(READ_AGAIN)
        replies, stop = [], self._target.stops(conversation.chat)
        with _stoppable() as stopped:
            start = time.monotonic()
            with step("read the prompt") as running:
                read = conversation.feed(
                    session, asked, stopped, lambda done, total: running.update(f"token {done + 1} of {total + 1}", done, total)
                )
            if not read:
                say("stopped before the answer")
                return
            middle = time.monotonic()
            for reply in conversation.answer(session, asked, self._n_tokens, self._sampling, stop, self._write, stopped):
                replies.append(reply)
            end = time.monotonic()
        chip = [reply.rtl.cycles for reply in replies if reply.rtl]
        figures = {
            "n_prompt_tokens": len(asked.ids),
            "n_tokens": len(replies),
            "prompt_seconds": round(middle - start, 3),
            "seconds": round(end - middle, 3),
            "tokens_per_second": round(len(replies) / (end - middle), 2),
        } | ({"cycles_per_token": round(sum(chip) / len(chip), 1)} if chip else {})
        self._answers.append(figures)
        if self._as_json:
            answer = {"schema": SCHEMA, "prompt": asked.text, "text": conversation.text}
            answer |= {"prompt_tokens": asked.ids, "tokens": [reply.token for reply in replies], "read_again": asked.again}
            answer |= {"measured": figures} | ({"line": session.line} if session.line else {})
            write(json.dumps(answer) + "\n")
        self._write("\n")
        stderr.print(f"{_line(figures)}; {self._context()}", style="dim", markup=False)
        ended = replies[-1].token in stop
        if stopped():
            say("stopped")
        elif session.full:
            say(f"the context is full{'' if ended else ', and the answer cut off'}: /reset starts a new conversation")
        elif self._conversation.chat and not ended and len(replies) == self._n_tokens:
            say(f"cut off after {self._n_tokens} tokens (--tokens)")
        if not session.full and not session.slides and (session.max_context - session.position) * NEARLY_FULL < session.max_context:
            say("the context is nearly full: /reset starts a new conversation")

    def _write(self, text: str) -> None:
        if not self._as_json:
            write(text)

    def _context(self) -> str:
        if self._session.slides:
            return f"position {self._session.position}, in a window of {self._session.max_context}"
        return f"{self._session.position} of {self._session.max_context} positions used"


def _lines() -> Iterator[str]:
    """Yield the lines that a person types, with line editing, or that come through a pipe."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with suppress(ImportError):  # not every Python has readline
        import readline  # noqa: F401 (input uses it)

    while True:
        try:
            yield input("> " if sys.stdout.isatty() else "")
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say("\n(Ctrl-D or /quit ends)")


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed.

    The first Ctrl-C only asks to stop, because an interrupt in the middle of a token would leave chip and text at different
    positions.  The second one interrupts.
    """
    asked = False

    def handle(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _sum(answers: list[dict]) -> dict:
    total: dict[str, float] = {
        name: sum(answer[name] for answer in answers) for name in ("n_prompt_tokens", "n_tokens", "prompt_seconds", "seconds")
    }
    total["tokens_per_second"] = round(total["n_tokens"] / total["seconds"], 2)
    if "cycles_per_token" in answers[0]:
        cycles = sum(answer["cycles_per_token"] * answer["n_tokens"] for answer in answers)
        total["cycles_per_token"] = round(cycles / total["n_tokens"], 1)
    return total


def _line(figures: dict) -> str:
    read = f"{figures['n_prompt_tokens']} tokens read in {figures['prompt_seconds']:.1f} s"
    line = f"{read}, {figures['n_tokens']} written at {figures['tokens_per_second']} tokens/s"
    return f"{line}, {figures['cycles_per_token']:,} cycles a token" if "cycles_per_token" in figures else line
