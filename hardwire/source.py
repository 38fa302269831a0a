"""A checkpoint that is open, and its quantisation to an integer model."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hardwire.progress import step, warn
from weights_to_rom.compile import class_bits, quantise_checkpoint
from weights_to_rom.errors import HardwireError
from weights_to_rom.integer_model import IntegerModel, matrix_names
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.quantise.blocks import QuantisedMatrix
from weights_to_rom.readers.base import Checkpoint, CheckpointError
from weights_to_rom.readers.open import open_checkpoint
from weights_to_rom.text.errors import TokenizerError

CALIBRATION_TOKENS = 8192
"""GPTQ reads this many tokens of its text at most: sixteen windows."""

RANGE_TEXT = "Once upon a time there was a little dog. 2 + 2 = 4, and the capital of France is Paris."
N_RANGE_TOKENS = 24
"""The text, and the number of tokens, on which every model's numbers are compared with the chip's range."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that is open, and the names by which it can be opened again.

    Members
    -------
    checkpoint : Checkpoint   shapes, tensors and tokenizer
    name : str                its absolute path, or the known name
    tokenizer : str or None   absolute path of its tokenizer, if the caller named one
    """

    checkpoint: Checkpoint
    name: str
    tokenizer: str | None

    @classmethod
    def open(cls, name: str, tokenizer: str | None = None) -> "Source":
        """Open a model by path or known name, and report the checkpoint's warnings.  Raises CheckpointError."""
        checkpoint = open_checkpoint(name, tokenizer)
        for line in checkpoint.warnings:
            warn(line)
        return cls(checkpoint, _absolute(name), None if tokenizer is None else _absolute(tokenizer))

    def format(self, wide_bits: int = 32) -> ModelFormat:
        """Return shapes and number formats of the integer model.  Raises HardwireError for a ``wide_bits`` other than 24 and 32."""
        return ModelFormat.of(self.checkpoint.config, wide_bits=wide_bits, **class_bits(self.checkpoint))

    def quantise(self, wide_bits: int = 32, gptq_text: Path | None = None, seconds: dict[str, float] | None = None) -> IntegerModel:
        """Quantise the checkpoint to an integer model.

        Parameters
        ----------
        wide_bits : int    width of the residual stream: 32 or 24
        gptq_text : Path   quantise by GPTQ, with this file as calibration text, instead of rounding to nearest
        seconds : dict     gets the time of each step, by name

        The model then reads a few tokens.  If its residual stream exceeds the chip's range, another power of two scales it; other
        numbers that do not fit are a warning.  The report's "ranges" counts them.

        Raises
        ------
        RangeError, CheckpointError   if the chip cannot hold the numbers of the model
        """
        from sim.ranges import RangeError, fit_residual

        n_matrices = len(list(matrix_names(self.format(wide_bits))))
        prepared = None if gptq_text is None else self._gptq(gptq_text, seconds)
        with step("quantise", seconds) as running:
            model = quantise_checkpoint(
                self.checkpoint,
                wide_bits=wide_bits,
                prepared=prepared,
                progress=_count(running.update, n_matrices),
            )
        checkpoint, chosen = self.checkpoint, model.residual_shift
        with step("measure ranges", seconds):
            try:
                model, ranges = fit_residual(model, checkpoint.config.norm_eps, self._some_tokens())
            except RangeError as error:
                raise RangeError(f"{checkpoint.source}: {error}") from None
        notes = list(model.report["notes"])
        if (shift := model.residual_shift) < chosen:
            notes.append(f"the residual stream is scaled by 2^{shift} instead of 2^{chosen}, so that the chip's range holds it")
        if line := ranges.warning():
            notes.append(line)
            self.add_warnings([line])
        return replace(model, report=model.report | {"ranges": ranges.as_dict(), "notes": notes})

    def add_warnings(self, lines: Iterable[str]) -> None:
        """Report warnings about the numbers of the model, and keep them among the checkpoint's."""
        for line in lines:
            if line not in self.checkpoint.warnings:
                warn(line)
                self.checkpoint.warnings.append(line)

    def _some_tokens(self) -> list[int]:
        """Return N_RANGE_TOKENS tokens, or as many as the context holds: those of RANGE_TEXT, then random ones."""
        config, tokenizer = self.checkpoint.config, self.checkpoint.tokenizer
        tokens: list[int] = []
        if tokenizer is not None:
            with suppress(TokenizerError):
                tokens = [token for token in tokenizer.encode(RANGE_TEXT) if token < config.vocab_size]
        elif config.bos_token_id is not None:
            tokens = [config.bos_token_id]
        tokens += np.random.default_rng(0).integers(config.vocab_size, size=N_RANGE_TOKENS).tolist()
        return tokens[: min(N_RANGE_TOKENS, config.max_seq_len)]

    def _gptq(self, text: Path, seconds: dict[str, float] | None) -> Mapping[str, QuantisedMatrix]:
        from weights_to_rom.quantise.gptq import gptq

        checkpoint = self.checkpoint
        if checkpoint.tokenizer is None:
            raise CheckpointError(f"{checkpoint.source}: has no tokenizer to read {text} with: name one with --tokenizer")
        linears = [
            name for name, shape in checkpoint.config.tensor_shapes().items() if len(shape) == 2 and name.startswith("layers.")
        ]
        if kept := next((name for name in linears if checkpoint.blocks(name) is not None), None):
            raise CheckpointError(
                f"{checkpoint.source}: {kept} is quantised already and keeps its codes: --gptq is for float weights"
            )
        tokens = checkpoint.tokenizer.encode(read_text(text))[:CALIBRATION_TOKENS]
        if not tokens:
            raise HardwireError(f"{text}: is empty, and GPTQ needs calibration text")
        with step("gptq", seconds) as running:
            return gptq(checkpoint.config, checkpoint.tensor, tokens, _count(running.update, len(linears)))


def read_text(path: Path) -> str:
    """Read a text file.  Raises HardwireError if it is not UTF-8, and OSError."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise HardwireError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name


def _count(update: Callable[..., None], total: int) -> Callable[[str], None]:
    """Return a callback for names.  It counts them, and calls ``update`` with the name, the count and ``total``."""
    done = 0

    def progress(name: str) -> None:
        nonlocal done
        done += 1
        update(name, done, total)

    return progress
