"""A model by its name: a compiled model, or a checkpoint that is not compiled."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardwire.compiled import BACKENDS, CompiledError, CompiledModel, is_output
from hardwire.progress import step, warn
from hardwire.source import Source
from weights_to_rom.adapters.lora import RANKS, IntegerAdapter, quantise_adapter
from weights_to_rom.adapters.peft import PeftAdapter, open_peft
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import shape_of
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.lacking import lacking, lacking_line
from weights_to_rom.text.tokenizer import Tokenizer
from weights_to_rom.text.unicode import unicode_of

if TYPE_CHECKING:
    from hardwire.state import Saved
    from sim.golden.llama import GoldenLlama
    from sim.session import Session


class Target:
    """A model by the name that a person gives it: OUT, the path of a checkpoint, or a known name.

    A Source is a checkpoint that is not compiled, a CompiledModel is the folder OUT, and a Target is one of the two.  ``run``,
    ``chat``, ``verify`` and ``perplexity`` take a Target, because it gives both the same tokenizer, window, adapter and sessions.
    A checkpoint is quantised in memory for backend golden.

    Parameters
    ----------
    name : str, Path or CompiledModel   the model
    tokenizer : str                     path of a tokenizer that is not where the checkpoint's format puts it
    adapter : Path                      a folder that peft wrote: every backend adds this adapter to the model

    Members
    -------
    name : str                          the name as it was given, for messages
    output : CompiledModel or None      the compiled model, if this is one

    Raises
    ------
    CompiledError, CheckpointError      if there is no such model
    """

    def __init__(self, name: str | Path | CompiledModel, tokenizer: str | None = None, adapter: Path | None = None):
        self.output: CompiledModel | None = None
        if isinstance(name, CompiledModel):
            self.output, name = name, name.folder
        elif is_output(Path(name)):
            self.output = CompiledModel(name)
        for line in self.output.warnings if self.output else ():
            warn(line)
        self.name, self._adapter = str(name), adapter
        self._read: set[str] = set()  # the characters of the texts so far
        if self.output is not None and tokenizer is not None:
            raise CompiledError(f"{name}: has the tokenizer it was compiled with: leave --tokenizer out")
        self._given = None if self.output else Source.open(self.name, tokenizer)

    @cached_property
    def source(self) -> Source:
        """The checkpoint, for a compiled model the one that it was made from.  Raises CompiledError if that one is gone."""
        if self.output is not None:
            return self.output.source()
        assert self._given is not None
        return self._given

    @cached_property
    def model(self) -> IntegerModel:
        """The integer model; a checkpoint is quantised for it."""
        if self.output is None:
            return self.source.quantise()
        with step("read the integer model"):
            return self.output.model

    @cached_property
    def adapter(self) -> PeftAdapter | None:
        """The adapter in floating point.  Raises AdapterError for a folder that peft did not write, or not for this model."""
        if self._adapter is None:
            return None
        return open_peft(self._adapter, shape_of(self.output.format) if self.output else self.source.checkpoint.config)

    @cached_property
    def integer_adapter(self) -> IntegerAdapter | None:
        """The adapter in integers, at the chip's rank; for a checkpoint, at the least rank that holds the adapter.

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
        """Make the integer model with the chip's window.  The caller passes ``integer_adapter`` to its calls."""
        from sim.golden.llama import GoldenLlama

        return GoldenLlama(self.model, self.max_context, self.n_sinks)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; without one, prompts are token numbers."""
        return self.output.tokenizer if self.output else self.source.checkpoint.tokenizer

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """The tokens that end a text."""
        if self.tokenizer is not None:
            return self.tokenizer.eos_ids
        return self.output.model.eos_token_ids if self.output else self.source.checkpoint.config.eos_token_ids

    def stops(self, chat: bool) -> Sequence[int]:
        """Return the tokens that end an answer: in a chat those that end a turn, else those that end a text."""
        return self.tokenizer.chat_stop_ids if chat and self.tokenizer is not None else self.eos_token_ids

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.output.format.vocab_size if self.output else self.source.checkpoint.config.vocab_size

    @property
    def max_context(self) -> int:
        """Number of positions of the chip's KV cache, for a checkpoint the number that it was trained for."""
        return self.output.config.max_context if self.output else self.source.checkpoint.config.max_seq_len

    @property
    def n_sinks(self) -> int:
        """Number of sinks: positions at the beginning of a text that a sliding window keeps; 0 if the window does not slide."""
        return self.output.config.n_sinks if self.output else 0

    @property
    def slides(self) -> bool:
        """Whether the window slides, so that a text may be longer than the context."""
        return self.n_sinks > 0

    def compiled(self) -> CompiledModel:
        """Return the compiled model.  Raises CompiledError for a checkpoint."""
        if self.output is None:
            raise CompiledError(f"{self.name}: is not compiled: hardwire compile {self.name} -o OUT")
        return self.output

    def backend(self, wanted: str | None) -> str:
        """Return the backend to use; by default rtl, and golden for a checkpoint.  Raises CompiledError for rtl of a checkpoint."""
        if wanted == "rtl" and self.output is None:
            raise CompiledError(f"{self.name}: is not compiled, which backend rtl needs: hardwire compile {self.name} -o OUT")
        return wanted or BACKENDS[0 if self.output else 1]

    def session(self, backend: str | None = None, saved: "Saved | None" = None) -> "Session":
        """Open a session of ``backend`` rtl, golden or float; by default rtl, and golden for a checkpoint.

        It is at position 0, or at the end of the text of ``saved``, which needs backend rtl.
        """
        from hardwire.sessions import session

        return session(self, self.backend(backend), saved)

    def logits(self, backend: str) -> Callable[[Sequence[int]], np.ndarray]:
        """Return a function from tokens, in an empty context, to real logits [T, vocab_size]; ``backend`` is golden or float."""
        if backend == "float":
            from weights_to_rom.quantise.float_llama import FloatLlama

            with step("read the weights"):
                checkpoint = self.source.checkpoint
                return FloatLlama(checkpoint.config, checkpoint.tensor, adapter=self.adapter).forward
        llama, adapter = self.golden(), self.integer_adapter

        def golden(tokens: Sequence[int]) -> np.ndarray:
            llama.reset()
            return llama.extend(tokens, adapter=adapter) * 2.0**-12  # Wide's LSB

        return golden

    def encode(self, prompt: str, before: Sequence[int] = ()) -> list[int]:
        """Return the tokens of a text that follows the tokens ``before``.  Without a tokenizer the text is token numbers itself.

        Raises
        ------
        TokenizerError   if the text has no tokens, or names one that the model has not
        ContextFull      if it has more tokens than positions are left
        """
        if self.tokenizer is None:
            return self._fitting(self._numbers(prompt), before)
        self._say_lacking(prompt)
        tokenizer = self.tokenizer
        return self._fitting(tokenizer.encode(prompt, bos=False) if before else tokenizer.encode_prompt(prompt), before)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a conversation in the model's chat template, up to the point where the model answers.

        Raises the errors of ``encode``, and TokenizerError if there is no template.
        """
        if self.tokenizer is None:
            raise TokenizerError(f"{self.name}: has no tokenizer, which a chat needs")
        self._say_lacking("".join(message["content"] for message in messages if message["role"] != "assistant"))
        return self._fitting(self.tokenizer.encode_chat(messages))

    def _say_lacking(self, text: str) -> None:
        """Warn of characters that the vocabulary lacks.  Each is named once, because a chat encodes a text again and again."""
        assert self.tokenizer is not None
        if characters := lacking(self.tokenizer, "".join(c for c in dict.fromkeys(unicode_of(text)) if c not in self._read)):
            warn(lacking_line(characters))
        self._read.update(text)

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
