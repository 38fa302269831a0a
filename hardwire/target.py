"""What ``run``, ``verify`` and ``perplexity`` work on: a compiled model, or a checkpoint as it is."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardwire.cli.console import step
from hardwire.compiled import BACKENDS, CompiledError, CompiledModel, is_output
from hardwire.source import Source
from weights_to_rom.adapters.lora import RANKS, IntegerAdapter, quantise_adapter
from weights_to_rom.adapters.peft import PeftAdapter, open_peft
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import shape_of
from weights_to_rom.text.tokenizer import Tokenizer, TokenizerError

if TYPE_CHECKING:
    from hardwire.state import Saved
    from sim.golden.llama import GoldenLlama
    from sim.rtl.chip import RtlChip
    from sim.session import Session

STEPS = {"rtl": "build the simulation", "golden": "read the integer model", "float": "read the weights"}


class Target:
    """A model by the name a person gives it: OUT, a checkpoint's path or a known name.

    ``adapter``: a folder that peft wrote, for everything that is computed.

    Raises CompiledError or CheckpointError if it is none of them.
    """

    def __init__(self, name: str, tokenizer: str | None = None, adapter: Path | None = None):
        self.name, self._adapter = name, adapter
        self.output = CompiledModel(name) if is_output(Path(name)) else None
        if self.output is not None and tokenizer is not None:
            raise CompiledError(f"{name}: has the tokenizer it was compiled with: leave --tokenizer out")
        self._given = None if self.output else Source.open(name, tokenizer)

    @cached_property
    def _source(self) -> Source:
        """The checkpoint: of a compiled model, that which it was compiled from."""
        if self._given is not None:
            return self._given
        assert self.output is not None
        return self.output.source()

    @cached_property
    def model(self) -> IntegerModel:
        return self.output.model if self.output else self._source.quantise()

    @cached_property
    def adapter(self) -> PeftAdapter | None:
        """Raises AdapterError for a folder that peft did not write, or not for this model."""
        if self._adapter is None:
            return None
        return open_peft(self._adapter, shape_of(self.output.format) if self.output else self._source.checkpoint.config)

    @cached_property
    def integer_adapter(self) -> IntegerAdapter | None:
        """For the chip's rank, or, of a checkpoint, for the least that holds it.

        Raises AdapterError, and CompiledError if the chip takes no adapters.
        """
        if self.adapter is None:
            return None
        if self.output:
            self.output.check_lora()
            rank = self.output.config.lora_rank
        else:
            rank = next((rank for rank in RANKS if rank >= self.adapter.rank), RANKS[-1])
        return quantise_adapter(self.adapter, self.model.format, self.model.residual_shift, rank)

    def golden(self) -> "GoldenLlama":
        """The integer model with the chip's window; what it is to add is ``integer_adapter``."""
        from sim.golden.llama import GoldenLlama

        config = self.output.config if self.output else None
        return GoldenLlama(self.model, config and config.max_context, config.n_sinks if config else 0)

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.output.tokenizer if self.output else self._source.checkpoint.tokenizer

    @property
    def eos_token_ids(self) -> Sequence[int]:
        if self.tokenizer is not None:
            return self.tokenizer.eos_ids
        return self.output.model.eos_token_ids if self.output else self._source.checkpoint.config.eos_token_ids

    @property
    def vocab_size(self) -> int:
        return self.output.format.vocab_size if self.output else self._source.checkpoint.config.vocab_size

    @property
    def max_context(self) -> int:
        return self.output.config.max_context if self.output else self._source.checkpoint.config.max_seq_len

    @property
    def slides(self) -> bool:
        """A text may be longer than the context."""
        return self.output is not None and self.output.config.n_sinks > 0

    def compiled(self) -> CompiledModel:
        """Raises CompiledError for a checkpoint."""
        if self.output is None:
            raise CompiledError(f"{self.name}: is not compiled: hardwire compile {self.name} -o OUT")
        return self.output

    def backend(self, wanted: str | None) -> str:
        """The backend to use: by default rtl, or golden if this is no compiled model.  Raises CompiledError."""
        if wanted == "rtl" and self.output is None:
            raise CompiledError(f"{self.name}: is not compiled, which backend rtl needs: hardwire compile {self.name} -o OUT")
        return wanted or BACKENDS[0 if self.output else 1]

    def session(self, backend: str, kind: "type[RtlChip] | None" = None, saved: "Saved | None" = None) -> "Session":
        """A session, with a ``kind`` of simulated chip; what it takes to have one is shown as it is done.

        With ``saved``, which is of backend rtl, it goes on from there.
        """
        integers = None if backend == "float" else self.integer_adapter
        if self.output is not None:
            with step(STEPS[backend]) as running:
                return self.output.session(
                    backend, lambda done, what: running.update(what, done), self.adapter, integers, kind, saved
                )
        from sim.backends import FloatSession, GoldenSession

        if backend == "golden":
            return GoldenSession(self.model, adapter=integers)
        with step(STEPS[backend]):
            checkpoint = self._source.checkpoint
            return FloatSession(checkpoint.config, checkpoint.tensor, adapter=self.adapter)

    def logits(self, backend: str) -> Callable[[Sequence[int]], np.ndarray]:
        """A function from tokens, in an empty context, to real logits [T, vocab_size]."""
        if backend == "float":
            from weights_to_rom.quantise.float_llama import FloatLlama

            with step(STEPS[backend]):
                checkpoint = self._source.checkpoint
                return FloatLlama(checkpoint.config, checkpoint.tensor, adapter=self.adapter).forward
        llama, adapter = self.golden(), self.integer_adapter

        def golden(tokens: Sequence[int]) -> np.ndarray:
            llama.reset()
            return llama.extend(tokens, adapter=adapter) * 2.0**-12  # Wide's LSB

        return golden

    def encode(self, prompt: str, before: Sequence[int] = ()) -> list[int]:
        """Token numbers of a text after those ``before`` it; for a model without a tokenizer it is token numbers itself.

        Raises TokenizerError if there are none, and ContextFull if there are too many.
        """
        if self.tokenizer is None:
            ids = self._numbers(prompt)
        else:
            ids = self.tokenizer.encode(prompt, bos=not before)
        return self._fitting(ids, before)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token numbers of a conversation in the model's chat template, up to where the model is to answer.

        Raises as ``encode``, and TokenizerError if there is no template.
        """
        if self.tokenizer is None:
            raise TokenizerError(f"{self.name}: has no tokenizer, which a chat needs")
        return self._fitting(self.tokenizer.encode(self.tokenizer.chat(messages), bos=False))

    def _fitting(self, ids: list[int], before: Sequence[int] = ()) -> list[int]:
        if not ids:
            raise TokenizerError("the prompt is empty: a model continues at least one token")
        if len(before) + len(ids) > self.max_context and not self.slides:
            from sim.session import ContextFull

            after = f" after {len(before)} others" if before else ""
            raise ContextFull(f"the prompt has {len(ids)} tokens{after}, and the context holds {self.max_context}")
        return ids

    def _numbers(self, prompt: str) -> list[int]:
        try:
            ids = [int(word) for word in prompt.split()]
        except ValueError:
            raise TokenizerError(
                f'{self.name}: has no tokenizer, so its prompts are token numbers, as in "1 2 3", not {prompt!r}'
            ) from None
        if outside := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise TokenizerError(f"token {outside[0]} is not in the vocabulary of {self.vocab_size}")
        return ids
