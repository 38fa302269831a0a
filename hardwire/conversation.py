"""A text that a person and a model write in turns, as tokens: what a session has read of it, and what is next."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardwire.cli.console import step
from hardwire.target import Target

if TYPE_CHECKING:
    from hardwire.state import Saved
    from sim.session import Reply, Sampling, Session


READ_AGAIN = "the chat template does not go on from what was read: reading all of the conversation again"


@dataclass(frozen=True)
class Prompt:
    """Tokens that the answer to ``text`` follows.  With ``again`` they are the whole text, for a session that is reset."""

    text: str
    ids: list[int]
    again: bool


class Conversation:
    """Turns of a person and a model.

    With ``chat`` they are messages in the model's chat template, and what the session reads is at every answer the
    template applied to all of them; without, each turn continues the text where it stands.

    Members
    -------
    messages : list[dict[str, str]]   "role" and "content" of each, with ``chat``
    read : list[int]                  tokens that the session has read
    pending : list[int]               the model's last token, until the session has read that too
    text : str                        the last answer
    """

    def __init__(self, subject: Target, chat: bool, system: str | None = None, saved: "Saved | None" = None):
        self.subject, self.chat = subject, chat
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self.clear()
        if saved is not None:
            self.messages, self.read, self.pending = list(saved.messages), list(saved.read), list(saved.pending)

    def clear(self) -> None:
        """Begin anew; the session must be reset too."""
        self.messages, self.read, self.pending, self.text = list(self._opening), [], [], ""

    def prompt(self, text: str) -> Prompt:
        """What there is to read for ``text``; nothing is read or changed yet.

        A chat must be read again if its template, applied to all that was said, does not go on from what was read: some
        leave out or trim what has been answered, and an answer may be spelt in other tokens than the tokenizer would.

        Raises TokenizerError, and ContextFull if it takes more positions than are left.
        """
        if self.chat:
            ids = self.subject.encode_chat([*self.messages, {"role": "user", "content": text}])
            n = len(self.read)
            again = ids[:n] != self.read or len(ids) == n
            return Prompt(text, ids if again else ids[n:], again)
        before = [*self.read, *self.pending]
        ids = self.subject.encode(text, before) if text or not self.pending else []
        return Prompt(text, [*self.pending, *ids], False)

    def feed(self, session: "Session", prompt: Prompt, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Let the session read a prompt but for its last token.  False if ``stopped`` said so before it was all read."""
        if prompt.again:
            session.reset()
            self.read = []
        self.pending, ids = [], prompt.ids[:-1]
        with step("read the prompt") as running:
            for first in range(0, len(ids), session.at_once):
                running.update(f"token {first + 1} of {len(prompt.ids)}", first, len(ids))
                part = ids[first : first + session.at_once]
                session.feed(part)
                self.read += part
                if stopped():
                    return False
        return True

    def answer(
        self,
        session: "Session",
        prompt: Prompt,
        n_tokens: int,
        sampling: "Sampling",
        stop: Sequence[int],
        write: Callable[[str], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator["Reply"]:
        """After ``feed``, yield up to ``n_tokens`` replies; ``write`` gets the answer's text as it comes.

        It ends with a token of ``stop``, where the context is full, and after the token at which ``stopped`` says so.
        """
        from sim.session import generate
        from weights_to_rom.text.tokenizer import StreamDecoder

        tokenizer, self.text = self.subject.tokenizer, ""
        decoder = tokenizer and StreamDecoder(tokenizer, [*self.read, *prompt.ids[-1:]])

        def add(piece: str) -> None:
            self.text += piece
            write(piece)

        token = prompt.ids[-1]
        for reply in generate(session, [token], n_tokens, sampling, stop):
            self.read.append(token)
            token = reply.token
            self.pending = [token]
            add(decoder.push(token) if decoder else f" {token}")
            yield reply
            if stopped():
                break
        if decoder:
            add(decoder.finish())
        if self.chat:
            self.messages += [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": self.text}]
