"""One kind of files that are changed, and what reads a file that was accepted."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import bases
from weights_to_rom.readers.base import Checkpoint
from weights_to_rom.text.tokenizer import Tokenizer


class Silent(Exception):  # noqa: N818 (it is the finding, not an error of the product)
    """A file was accepted with a number in it that is not finite."""


@dataclass(frozen=True)
class Kind:
    """``make`` writes a case into a folder and says whether a number that is read is not finite.

    ``first`` is the first check: the file is one of its format at all.  ``use`` reads everything.  Both raise HardwireError for
    a file that is refused.
    """

    make: Callable[[random.Random, Path], bool]
    first: Callable[[Path], object]
    use: Callable[[Path], None]


def check_finite(what: str, *arrays: Any) -> None:
    for array in arrays:
        if array is not None and not np.isfinite(array).all():
            raise Silent(what)


def use_checkpoint(checkpoint: Checkpoint) -> None:
    """Read all tensors, the constants and the tokenizer of a checkpoint that was opened."""
    config = checkpoint.config
    check_finite("a constant of the configuration", config.norm_eps, config.rope_theta, config.rope_frequencies())
    for name in config.tensor_shapes():
        check_finite(name, checkpoint.tensor(name))
        if (blocks := checkpoint.blocks(name)) is not None:
            check_finite(f"blocks of {name}", blocks.scale, blocks.minimum)
    if checkpoint.tokenizer is not None:
        use_tokenizer(checkpoint.tokenizer)


def use_tokenizer(tokenizer: Tokenizer) -> None:
    """Encode and decode texts, stop a chat, and render the chat template."""
    assert all(0 <= token < tokenizer.vocab_size for token in tokenizer.chat_stop_ids)
    for text in bases.TEXTS:
        tokenizer.decode(tokenizer.encode(text))
    tokenizer.decode(list(range(min(tokenizer.vocab_size, 400))))
    if tokenizer.chat_template is not None:
        tokenizer.encode_chat(bases.MESSAGES)
