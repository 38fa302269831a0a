"""One way to talk to a model, whatever computes it: float, golden (the integers in numpy) or rtl (the simulated chip)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hdl.chip import Status
from sim.golden.llama import GoldenLlama
from sim.golden.sampler import inverse_temperature, sampler
from sim.rtl.chip import RtlChip, RtlReply
from weights_to_rom.adapters.lora import IntegerAdapter
from weights_to_rom.adapters.peft import PeftAdapter
from weights_to_rom.config import LlamaConfig
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.quantise.float_llama import FloatLlama

WIDE_SCALE = 1 << 12


class SessionError(ValueError):
    """A token that the model cannot take: one line that says why."""


class ContextFull(SessionError):
    """There is no position left for it."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: greedily at temperature 0, else by Gumbel-max from ``seed`` and the position."""

    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """The sampled token and the logits it came from: Wide integers, or floats from the float backend.

    ``rtl`` has the simulated chip's cycle counts.
    """

    token: int
    logits: np.ndarray
    rtl: RtlReply | None = None


class Session(ABC):
    """One sequence that grows a token at a time.

    ``position`` is that of the next token; ``max_context`` positions fit, or, where the window slides, any number.
    ``at_once`` is how many tokens ``feed`` best gets: as many more cost little more.
    """

    at_once = 1

    def __init__(self, vocab_size: int, max_context: int, slides: bool = False):
        self.vocab_size, self.max_context, self.slides, self.position = vocab_size, max_context, slides, 0

    @property
    def full(self) -> bool:
        """No further token fits."""
        return self.position >= self.max_context and not self.slides

    def step(self, token: int, sampling: Sampling = Sampling()) -> Reply:
        """Feed a token and sample the next.  Raises ContextFull, and SessionError if the token is not one."""
        reply = self._checked(token, sampling)
        assert reply is not None
        return reply

    def continued(self, token: int, n_tokens: int, sampling: Sampling, stop: Sequence[int]) -> Iterator[Reply]:
        """``generate`` after a prompt of one token."""
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


class FloatSession(Session):
    """The checkpoint in floating point; samples with the chip's noise, from logits rounded to Wide's LSB."""

    def __init__(self, config: LlamaConfig, tensor: Callable[[str], np.ndarray], max_context: int | None = None,
                 n_sinks: int = 0, adapter: PeftAdapter | None = None):
        super().__init__(config.vocab_size, max_context or config.max_seq_len, n_sinks > 0)
        self._llama = FloatLlama(config, tensor, adapter=adapter, max_context=max_context, n_sinks=n_sinks)

    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        logits = self._llama.step(token)
        if sampling is None:
            return None
        if sampling.temperature == 0:
            return Reply(int(np.argmax(logits)), logits)
        wide = np.rint(logits.astype(np.float64) * WIDE_SCALE).astype(np.int64)
        return Reply(sampler(wide, inverse_temperature(sampling.temperature), sampling.seed, self.position), logits)

    def _reset(self) -> None:
        self._llama.reset()


class GoldenSession(Session):
    """The integer model."""

    at_once = 64

    def __init__(self, model: IntegerModel, max_context: int | None = None, n_sinks: int = 0,
                 adapter: IntegerAdapter | None = None):
        super().__init__(model.format.vocab_size, max_context or model.format.max_seq_len, n_sinks > 0)
        self._llama, self._adapter = GoldenLlama(model, max_context, n_sinks), adapter

    def feed(self, tokens: Sequence[int]) -> None:
        # All positions at once: the units do not mind, and numpy is much faster so.
        bad = [t for t in tokens if not 0 <= t < self.vocab_size]
        if bad or (self.position + len(tokens) > self.max_context and not self.slides):
            super().feed(tokens)
        elif tokens:
            self._llama.extend(tokens, last_only=True, adapter=self._adapter)
            self.position += len(tokens)

    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        logits = self._llama.extend([token], adapter=self._adapter)[0]
        if sampling is None:
            return None
        return Reply(sampler(logits, inverse_temperature(sampling.temperature), sampling.seed, self.position), logits)

    def _reset(self) -> None:
        self._llama.reset()


class RtlSession(Session):
    """The simulated chip's first sequence.  ``adapter`` is the number of one that is loaded, or 0.

    ``position`` is not 0 if the chip was restored from a state in which the sequence had that many.
    """

    def __init__(self, chip: RtlChip, vocab_size: int, max_context: int, slides: bool = False, adapter: int = 0,
                 position: int = 0):
        super().__init__(vocab_size, max_context, slides)
        self.chip, self.adapter, self.position = chip, adapter, position

    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        chosen = sampling or Sampling()
        reply = self.chip.token(
            token, adapter=self.adapter, restart=self.position == 0, sample=sampling is not None,
            inv_temperature=inverse_temperature(chosen.temperature), seed=chosen.seed)
        if reply.status == Status.NO_NOISE:
            raise SessionError("the chip has no noise to sample with and takes the likeliest token: leave the temperature at 0")
        if reply.status != Status.OK:
            raise SessionError(f"the chip refused token {token} at position {self.position}: {reply.status.name}")
        return None if sampling is None else Reply(reply.token, reply.logits, reply)

    def _reset(self) -> None:
        pass  # the next token restarts the sequence

    def close(self) -> None:
        self.chip.close()


def generate(session: Session, prompt: Sequence[int], n_tokens: int, sampling: Sampling = Sampling(),
             stop: Sequence[int] = ()) -> Iterator[Reply]:
    """Feed a prompt and yield up to ``n_tokens`` replies, feeding each token back; ends after a ``stop`` token.

    It also ends where the context is full: the last reply then is the one of the last position.
    """
    if not prompt:
        raise SessionError("the prompt is empty: a model continues at least one token")
    session.feed(prompt[:-1])
    yield from session.continued(prompt[-1], n_tokens, sampling, stop)
