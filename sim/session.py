"""The interface to a model that ``sim.backends`` computes, or a board (``fpga.link.host``)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weights_to_rom.errors import HardwireError

if TYPE_CHECKING:
    from sim.rtl.chip import RtlReply


class SessionError(HardwireError):
    """A token that the model cannot take: one line that says why."""


class ContextFull(SessionError):  # noqa: N818 (not a defect: the end of every long text)
    """A token for which there is no position left."""


@dataclass(frozen=True)
class Sampling:
    """The choice of the next token: the likeliest at temperature 0, else Gumbel-max with noise from ``seed`` and the position."""

    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """The sampled token and the logits it came from: Wide integers, or floats from the float backend.

    ``rtl`` has the simulated chip's cycle counts.
    """

    token: int
    logits: np.ndarray
    rtl: "RtlReply | None" = None


class Session(ABC):
    """One sequence that grows a token at a time.

    ``position`` is that of the next token.  ``max_context`` positions fit; where the window ``slides``, any number does.
    ``at_once`` is the number of tokens that ``feed`` computes in one pass: fewer take about as long.
    """

    at_once = 1

    def __init__(self, vocab_size: int, max_context: int, slides: bool = False):
        self.vocab_size, self.max_context, self.slides, self.position = vocab_size, max_context, slides, 0

    @property
    def full(self) -> bool:
        """Whether no further token fits."""
        return self.position >= self.max_context and not self.slides

    def step(self, token: int, sampling: Sampling = Sampling()) -> Reply:
        """Feed a token and sample the next.  Raises ContextFull, and SessionError if the token is not one."""
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
        """Feed tokens whose logits nobody wants."""
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

    def reset(self) -> None:
        """Start a new sequence."""
        self.position = 0
        self._reset()

    def close(self) -> None:  # noqa: B027 (only some sessions hold anything)
        """Free what the session holds."""

    @abstractmethod
    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        """One token at ``self.position``; a reply if a sample is wanted."""

    @abstractmethod
    def _reset(self) -> None: ...


def generate(
    session: Session, prompt: Sequence[int], n_tokens: int, sampling: Sampling = Sampling(), stop: Sequence[int] = ()
) -> Iterator[Reply]:
    """Feed a prompt and yield up to ``n_tokens`` replies, feeding each token back; ends after a ``stop`` token.

    It also ends where the context is full: the last reply then is the one of the last position.
    """
    if not prompt:
        raise SessionError("the prompt is empty: a model continues at least one token")
    session.feed(prompt[:-1])
    yield from session.continued(prompt[-1], n_tokens, sampling, stop)
