"""A text that a person and a model write in turns: the tokens that a session has read, and those that it must read next."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardwire.target import Target
from weights_to_rom.text.unicode import unicode_of

if TYPE_CHECKING:
    from hardwire.state import Saved
    from sim.session import Reply, Sampling, Session


READ_AGAIN = "the chat template does not go on from what was read: reading all of the conversation again"


@dataclass(frozen=True)
class Prompt:
    """The tokens that a session reads before it answers.

    Members
    -------
    text : str        the text that the person wrote
    ids : list[int]   the tokens to read
    again : bool      ``ids`` are the tokens of the whole conversation, and the session is reset first
    """

    text: str
    ids: list[int]
    again: bool


class Conversation:
    """Turns of a person and a model.

    With ``chat`` a turn is a message: at every answer the session has read the chat template, applied to all messages.
    Without ``chat`` a turn is added at the end of the text.

    Parameters
    ----------
    target : Target   encodes text
    chat : bool       the model has a chat template, and turns are messages
    system : str      a message that comes before all others
    saved : Saved     a text to go on from

    Members
    -------
    messages : list[dict[str, str]]   "role" and "content" of each, with ``chat``
    read : list[int]                  tokens that the session has read
    pending : list[int]               the model's last token, as long as the session has not read it
    text : str                        the last answer
    """

    def __init__(self, target: Target, chat: bool, system: str | None = None, saved: "Saved | None" = None):
        self.target, self.chat = target, chat
        self._opening = [] if system is None else [{"role": "system", "content": unicode_of(system)}]
        self.clear()
        if saved is not None:
            self.messages, self.read, self.pending = list(saved.messages), list(saved.read), list(saved.pending)

    def clear(self) -> None:
        """Start a new conversation; the caller resets the session."""
        self.messages, self.read, self.pending, self.text = list(self._opening), [], [], ""

    def prompt(self, text: str) -> Prompt:
        """Return the tokens to read for ``text``; the session does not read them yet.

        The session must read a chat again from its beginning if the template, applied to all messages, does not begin with the
        tokens that the session has read.  This happens because some templates leave out or trim earlier answers, and because a
        model may write an answer in other tokens than the tokenizer makes of its text.

        Raises TokenizerError, and ContextFull if the prompt takes more positions than are left.
        """
        text = unicode_of(text)
        if self.chat:
            ids = self.target.encode_chat([*self.messages, {"role": "user", "content": text}])
            n = len(self.read)
            again = ids[:n] != self.read or len(ids) == n
            return Prompt(text, ids if again else ids[n:], again)
        before = [*self.read, *self.pending]
        ids = self.target.encode(text, before) if text or not self.pending else []
        return Prompt(text, [*self.pending, *ids], False)

    def feed(
        self,
        session: "Session",
        prompt: Prompt,
        stopped: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> bool:
        """Let the session read a prompt, except for its last token.

        Parameters
        ----------
        session : Session                      reads; it is reset first if the prompt is the whole text
        prompt : Prompt                        made by ``prompt``
        stopped : Callable[[], bool]           is asked after every ``session.at_once`` tokens whether to stop
        progress : Callable[[int, int], None]  is told how many tokens are read, of how many

        Returns False if it was stopped before all was read.
        """
        if prompt.again:
            session.reset()
            self.read = []
        self.pending, ids = [], prompt.ids[:-1]
        for first in range(0, len(ids), session.at_once):
            progress(first, len(ids))
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
        """After ``feed``, yield up to ``n_tokens`` replies.

        The answer also ends with a token of ``stop``, where the context is full, and after a token at which ``stopped`` returns
        True.

        Parameters
        ----------
        session : Session              has read the prompt, except for its last token
        prompt : Prompt                the prompt that ``feed`` got
        n_tokens : int                 tokens at most
        sampling : Sampling            how a token is chosen
        stop : Sequence[int]           tokens that end the answer
        write : Callable[[str], None]  gets the answer's text as it comes
        stopped : Callable[[], bool]   is asked after every token whether to stop
        """
        from sim.session import generate
        from weights_to_rom.text.tokenizer import StreamDecoder

        tokenizer, self.text = self.target.tokenizer, ""
        decoder = tokenizer and StreamDecoder(tokenizer, [*self.read, *prompt.ids[-1:]])

        def add(piece: str) -> None:
            self.text += piece
            write(piece)

        token = prompt.ids[-1]
        for reply in generate(session, [token], n_tokens, sampling, stop):
            self.read.append(token)
            token = reply.token
            self.pending = [token]
            if decoder is None:
                add(f" {token}")
            elif token not in stop:  # the end of a turn is no part of the answer, also where it is no special token
                add(decoder.push(token))
            yield reply
            if stopped():
                break
        if decoder:
            add(decoder.finish())
        if self.chat:
            self.messages += [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": self.text}]
