"""Sessions: one interface to the backends of ``sim.backends`` and to a board (``fpga.link.host``)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weights_to_rom.errors import HardwireError

if TYPE_CHECKING:
    from sim.rtl.chip import RtlReply


class SessionError(HardwireError):
    """The model cannot take a token.  The message says why in one line."""


class ContextFull(SessionError):  # noqa: N818 (not a defect: the end of every long text)
    """There is no position left for a token."""


@dataclass(frozen=True)
class Sampling:
    """The choice of the next token: the likeliest at temperature 0, else a random one by Gumbel-max.

    ``seed`` and the position decide the noise, so that a text can be repeated.
    """

    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """The sampled token and the logits it came from: Wide integers, or floats from the float backend.

    ``rtl`` is the simulated chip's own reply, with its cycle counts, or None for the other backends.
    """

    token: int
    logits: np.ndarray
    rtl: "RtlReply | None" = None


class Session(ABC):
    """One sequence that grows a token at a time.

    ``position`` is the position of the next token.  ``at_once`` is the number of tokens that ``feed`` computes in one pass; a
    pass of fewer tokens takes about as long.

    Parameters
    ----------
    vocab_size : int
        Tokens are 0 to ``vocab_size - 1``.
    max_context : int
        Positions of the KV cache.
    slides : bool
        Whether the sequence goes on when the cache is full: each new position then replaces an old one.
    """

    at_once = 1

    def __init__(self, vocab_size: int, max_context: int, slides: bool = False):
        self.vocab_size, self.max_context, self.slides, self.position = vocab_size, max_context, slides, 0

    @property
    def full(self) -> bool:
        """Whether no further token fits."""
        return self.position >= self.max_context and not self.slides

    def step(self, token: int, sampling: Sampling = Sampling()) -> Reply:
        """Feed a token and sample the next.

        Raises ContextFull if no further token fits, and SessionError if ``token`` is not in the vocabulary.
        """
        reply = self._checked(token, sampling)
        assert reply is not None
        return reply

    def continued(self, token: int, n_tokens: int, sampling: Sampling, stop: Sequence[int]) -> Iterator[Reply]:
        """Yield replies as ``generate`` does, after a prompt of one token."""
        for _ in range(n_tokens):
            reply = self.step(token, sampling)
            yield reply
            token = reply.token
            if token in stop or self.full:
                return

    def feed(self, tokens: Sequence[int]) -> None:
        """Feed tokens without sampling."""
        for token in tokens:
            self._checked(token, None)

    def _checked(self, token: int, sampling: Sampling | None) -> Reply | None:
        if not 0 <= token < self.vocab_size:
            raise SessionError(f"token {token} is not in the vocabulary of {self.vocab_size}")
        if self.full:
            raise ContextFull(f"the context is full: all {self.max_context} positions are used")
        reply = self._token(token, sampling)
        self.position += 1
        return reply

    @property
    def line(self) -> dict[str, int]:
        """Counts of the line to a board; none for the other sessions."""
        return {}

    def reset(self) -> None:
        """Start a new sequence."""
        self.position = 0
        self._reset()

    def close(self) -> None:  # noqa: B027 (only some sessions hold anything)
        """Free the memory, the simulation or the serial port of the session."""

    @abstractmethod
    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        """Compute one token at ``self.position``.  Returns a reply if ``sampling`` is given."""

    @abstractmethod
    def _reset(self) -> None: ...


def generate(
    session: Session, prompt: Sequence[int], n_tokens: int, sampling: Sampling = Sampling(), stop: Sequence[int] = ()
) -> Iterator[Reply]:
    """Feed a prompt, then yield up to ``n_tokens`` replies and feed the token of each reply back.

    The text ends with a ``stop`` token, or with the reply of the last position if the context is full.
    """
    if not prompt:
        raise SessionError("the prompt is empty: a model continues at least one token")
    session.feed(prompt[:-1])
    yield from session.continued(prompt[-1], n_tokens, sampling, stop)
