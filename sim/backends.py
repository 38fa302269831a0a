"""The three backends of a session: float, golden (the chip's integers in numpy) and rtl (the simulated chip)."""

from collections.abc import Callable, Sequence

import numpy as np

from hdl.interface import Status
from sim.golden.llama import GoldenLlama
from sim.golden.sampler import inverse_temperature, sampler
from sim.rtl.chip import RtlChip
from sim.session import Reply, Sampling, Session, SessionError
from weights_to_rom.adapters.lora import IntegerAdapter
from weights_to_rom.adapters.peft import PeftAdapter
from weights_to_rom.config import LlamaConfig
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.quantise.float_llama import FloatLlama

WIDE_SCALE = 1 << 12


class FloatSession(Session):
    """The checkpoint in floating point.  It samples with the chip's noise from logits rounded to LSB 2**-12.

    Parameters
    ----------
    config : LlamaConfig
    tensor : callable
        Returns a tensor by its canonical name (``LlamaConfig.tensor_shapes``).
    max_context : int, optional
        Positions of the KV cache; by default the checkpoint's ``max_seq_len``.
    n_sinks : int
        Sinks of a window that slides, or 0: the sequence then ends at ``max_context`` positions.
    adapter : PeftAdapter, optional
        A LoRA adapter for every token.
    """

    def __init__(
        self,
        config: LlamaConfig,
        tensor: Callable[[str], np.ndarray],
        max_context: int | None = None,
        n_sinks: int = 0,
        adapter: PeftAdapter | None = None,
    ):
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
    """The golden model: the chip's integers in numpy.

    Parameters
    ----------
    model : IntegerModel
    max_context, n_sinks : int
        As in ``FloatSession``.
    adapter : IntegerAdapter, optional
        A LoRA adapter for every token.
    """

    at_once = 64

    def __init__(
        self, model: IntegerModel, max_context: int | None = None, n_sinks: int = 0, adapter: IntegerAdapter | None = None
    ):
        super().__init__(model.format.vocab_size, max_context or model.format.max_seq_len, n_sinks > 0)
        self._llama, self._adapter = GoldenLlama(model, max_context, n_sinks), adapter

    def feed(self, tokens: Sequence[int]) -> None:
        """Feed tokens without sampling, many in one pass, because numpy is much faster then."""
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
    """The first sequence of a simulated chip.

    Parameters
    ----------
    chip : RtlChip
    vocab_size, max_context : int
        Those of the chip.
    slides : bool
        Whether the chip's window slides.
    adapter : int
        The number of a loaded adapter, which every token uses, or 0 for none.
    position : int
        Tokens that the sequence holds already, because the chip was restored from a state.
    """

    def __init__(self, chip: RtlChip, vocab_size: int, max_context: int, slides: bool = False, adapter: int = 0, position: int = 0):
        super().__init__(vocab_size, max_context, slides)
        self.chip, self.adapter, self.position = chip, adapter, position

    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        chosen = sampling or Sampling()
        reply = self.chip.token(
            token,
            adapter=self.adapter,
            restart=self.position == 0,
            sample=sampling is not None,
            inv_temperature=inverse_temperature(chosen.temperature),
            seed=chosen.seed,
        )
        if reply.status == Status.NO_NOISE:
            raise SessionError("the chip has no noise to sample with and takes the likeliest token: leave the temperature at 0")
        if reply.status != Status.OK:
            raise SessionError(f"the chip refused token {token} at position {self.position}: {reply.status.name}")
        return None if sampling is None else Reply(reply.token, reply.logits, reply)

    def _reset(self) -> None:
        pass  # at position 0, the next token restarts the sequence

    def close(self) -> None:
        """Free the simulated chip."""
        self.chip.close()
