"""The interface of checkpoints of every format, and the checks that all readers share."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from weights_to_rom.config import LlamaConfig
from weights_to_rom.errors import HardwireError
from weights_to_rom.text.tokenizer import Tokenizer

# No Llama comes near this limit.  It is there because a damaged header could ask for billions of tensor names.
MAX_LAYERS = 1000


class CheckpointError(HardwireError):
    """A checkpoint cannot be compiled.  The message is one line: the file, the fault and its remedy."""


@dataclass(frozen=True)
class BlockCodes:
    """The codes of a quantised matrix in its file: ``value = scale * codes - minimum``, in blocks of 32 along a row.

    ``codes`` uint8[rows, n_blocks, 32], below ``2**bits``; ``scale`` float32[rows, n_blocks], never negative;
    ``minimum`` float32[rows, n_blocks], negative only where the whole block is positive.
    """

    codes: np.ndarray
    scale: np.ndarray
    minimum: np.ndarray
    bits: int

    def values(self) -> np.ndarray:
        """Dequantise: float32[rows, n_blocks * 32], exactly the values that the file's format defines."""
        values = self.scale[..., None] * self.codes - self.minimum[..., None]
        return values.reshape(len(self.codes), -1)


class Checkpoint:
    """One model on disk.  ``tensor`` and ``blocks`` read one tensor and keep no copy.

    Parameters
    ----------
    config : LlamaConfig
    source : str                  the name of the checkpoint in messages
    tokenizer : Tokenizer         its tokenizer
    turn_end_ids : Iterable[int]  tokens that the checkpoint's files give as ends: a chat stops at them, beside the tokenizer's own

    Members
    -------
    config : LlamaConfig
    source : str               the name of the checkpoint in messages
    notes : list[str]          one line for each tensor or token that the reader changes
    warnings : list[str]       one line for each thing that may make the model's answers wrong; the tokenizer's are among them
    tokenizer : Tokenizer | None
    """

    def __init__(
        self, config: LlamaConfig, source: str, tokenizer: Tokenizer | None = None, turn_end_ids: Iterable[int] = ()
    ) -> None:
        self.config = config
        self.source = source
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.tokenizer: Tokenizer | None = None
        self._shapes = config.tensor_shapes()
        bos = () if config.bos_token_id is None else (config.bos_token_id,)
        self.config = replace(
            config,
            bos_token_id=next(iter(self._known("bos_token_id", bos)), None),
            eos_token_ids=self._known("eos_token_id", config.eos_token_ids),
        )
        turn_end_ids = self._known("eos_token_id", turn_end_ids)
        if tokenizer is not None:
            self._adopt(tokenizer, turn_end_ids)

    def tensor(self, name: str) -> np.ndarray:
        """The tensor of a canonical name (``LlamaConfig.tensor_shapes``), as float32.

        Raises CheckpointError if it holds a NaN or an infinity, and KeyError if the model has no such tensor.
        """
        shape = self._shapes[name]
        array = np.ascontiguousarray(self._read(name), dtype=np.float32)
        if array.shape != shape:
            raise CheckpointError(f"{self.source}: {name} has shape {array.shape}, not {shape}")
        self._check_finite(name, array)
        return array

    def blocks(self, name: str) -> BlockCodes | None:
        """The codes that the file holds for a tensor, or None if the tensor has floats or codes that ``BlockCodes`` cannot hold."""
        if name not in self._shapes:
            raise KeyError(name)
        return None

    def _read(self, name: str) -> np.ndarray:
        raise NotImplementedError

    def _check_finite(self, name: str, array: np.ndarray) -> None:
        finite = np.isfinite(array)
        if not finite.all():
            where = np.unravel_index(int(np.argmin(finite)), array.shape)
            kind = "NaN" if np.isnan(array[where]) else "infinite"
            raise CheckpointError(
                f"{self.source}: {name} holds {finite.size - int(finite.sum())} values that are not finite "
                f"(the first, {kind}, at {tuple(int(i) for i in where)}): the checkpoint is damaged"
            )

    def _known(self, name: str, ids: Iterable[int]) -> tuple[int, ...]:
        """The tokens of ``ids`` that the model has.  Each of the others is a warning: converters write such numbers for "none"."""
        size, known = self.config.vocab_size, dict.fromkeys(ids)
        for number in [number for number in known if not 0 <= number < size]:
            del known[number]
            line = f"{self.source}: {name} is {number}, but the model has {size} tokens: it is left out"
            if line not in self.warnings:
                self.warnings.append(line)
        return tuple(known)

    def _adopt(self, tokenizer: Tokenizer, turn_end_ids: Iterable[int]) -> None:
        """Take a tokenizer, and let it and the configuration agree on the tokens that begin and end a text."""
        self._fit(tokenizer)
        if tokenizer.bos is not None and not self._known("bos_token_id", [tokenizer.bos]):
            tokenizer.bos = None
        eos, config = self._known("eos_token_id", tokenizer.eos_ids), self.config
        self.config = replace(
            config,
            bos_token_id=tokenizer.bos if config.bos_token_id is None else config.bos_token_id,
            eos_token_ids=config.eos_token_ids or eos,
        )
        tokenizer.eos_ids = self.config.eos_token_ids
        tokenizer.turn_end_ids = tuple(dict.fromkeys([*tokenizer.turn_end_ids, *turn_end_ids, *eos]))
        self.warnings += [f"{self.source}: {line}" for line in tokenizer.warnings]
        self.tokenizer = tokenizer

    def _fit(self, tokenizer: Tokenizer) -> None:
        """Compare the sizes of the vocabularies, and note a difference that can be lived with.  Raises CheckpointError."""
        size, base = self.config.vocab_size, tokenizer.base_size
        if base > size or (tokenizer.complete and base != size):
            few = "only " if base > size else ""
            raise CheckpointError(
                f"{self.source}: its tokenizer has {base} tokens, the model {few}{size}: name the right one with --tokenizer"
            )
        if tokenizer.vocab_size > size:
            # Many published models have a padding token in the tokenizer that the embedding lacks.
            self.notes.append(f"tokenizer: tokens {size} to {tokenizer.vocab_size - 1} are not in the model")
            tokenizer.vocab_size = size
        elif tokenizer.vocab_size < size:
            self.notes.append(f"tokenizer: tokens {tokenizer.vocab_size} to {size - 1} of the model have no text")


def make_config(source: str, **fields: object) -> LlamaConfig:
    """Make a LlamaConfig.  Raises CheckpointError, which names the file, for a field that is out of range."""
    try:
        config = LlamaConfig(**fields)  # type: ignore[arg-type]
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from None
    if config.n_layers > MAX_LAYERS:
        raise CheckpointError(f"{source}: n_layers must be at most {MAX_LAYERS}, not {config.n_layers}")
    return config


def head_size(source: str, dim: int, n_heads: int) -> int:
    """Compute head_dim for a model that does not state it."""
    if n_heads < 1 or dim % n_heads:
        raise CheckpointError(f"{source}: dim {dim} is not a multiple of n_heads {n_heads}")
    return dim // n_heads


def check_tensors(
    source: str,
    config: LlamaConfig,
    names: Mapping[str, str],
    found: Mapping[str, Sequence[int]],
    ignored: Collection[str],
    is_zero: Callable[[str], bool],
) -> None:
    """Raise CheckpointError unless the tensors of a file have the names and shapes of the configuration.

    ``found`` maps the file's names to shapes, ``names`` maps canonical names to the file's.  Extra tensors are refused unless
    they are ``ignored``, because the chip would not compute their part of the result.  A bias has no part if ``is_zero`` says
    that it holds nothing but zeros.
    """
    shapes = config.tensor_shapes()
    expected = {names[name] for name in shapes}
    extra = [name for name in found if name not in expected and name not in ignored]
    for name in extra[:]:
        if name.endswith(".bias") and name.removesuffix("bias") + "weight" in expected:
            if not is_zero(name):
                raise CheckpointError(f"{source}: holds the bias {name}, which is not zero: the chip has no biases")
            extra.remove(name)
    for name, shape in shapes.items():
        if names[name] not in found:
            raise CheckpointError(f"{source}: the tensor {names[name]} is missing")
        if tuple(found[names[name]]) != shape:
            raise CheckpointError(f"{source}: {names[name]} has shape {tuple(found[names[name]])}, not {shape}")
    if extra:
        more = f" and {len(extra) - 1} more tensors" if extra[1:] else ""
        raise CheckpointError(f"{source}: holds {extra[0]}{more}, which a Llama of this shape does not have")
