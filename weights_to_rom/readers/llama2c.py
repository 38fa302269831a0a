"""llama2.c checkpoints, version 0: seven int32, then float32 tensors in a fixed order.

Source: ``legacy_export`` in ``export.py`` and ``memory_map_weights`` in ``run.c`` of karpathy/llama2.c.
"""

import math
from pathlib import Path

import numpy as np

from weights_to_rom.config import LlamaConfig
from weights_to_rom.readers.base import Checkpoint, CheckpointError, head_size, make_config
from weights_to_rom.row_order import half_rotation_rows
from weights_to_rom.text.open import read_tokenizer
from weights_to_rom.text.tokenizer import Tokenizer

HEADER_BYTES = 7 * 4
# The first word of versions 1 and 2 ("ak42").
_LATER_MAGIC = 0x616B3432
# The tensors of layers in file order: the first tensor of every layer, then the second of every layer, and so on.
# The final norm, the tables of RoPE and the head follow.
_LAYER_ORDER = ("attn_norm", "q", "k", "v", "o", "ffn_norm", "gate", "down", "up")


class Llama2cCheckpoint(Checkpoint):
    """One .bin file; its tokenizer is tok<vocabulary>.bin or tokenizer.bin in the same folder."""

    def __init__(self, path: Path, tokenizer: Tokenizer | None = None) -> None:
        config = _read_config(path)
        self._path = path
        self._offsets = _offsets(path, config)
        if tokenizer is None:
            for name in (f"tok{config.vocab_size}.bin", "tokenizer.bin"):
                if (path.parent / name).is_file():
                    tokenizer = read_tokenizer(path.parent / name)
                    break
        super().__init__(config, str(path), tokenizer)

    def _read(self, name: str) -> np.ndarray:
        shape = self._shapes[name]
        array = np.fromfile(self._path, "<f4", math.prod(shape), offset=self._offsets[name])
        if array.size != math.prod(shape):
            raise CheckpointError(f"{self.source}: truncated: {name} ends beyond the file")
        array = array.reshape(shape)
        part = name.rpartition(".")[2]
        if part in ("q", "k"):
            heads = self.config.n_heads if part == "q" else self.config.n_kv_heads
            array = array[half_rotation_rows(heads, self.config.head_dim)]
        return array


def _read_config(path: Path) -> LlamaConfig:
    header = np.fromfile(path, "<i4", 7)
    if header.size < 7:
        raise CheckpointError(f"{path}: truncated: {path.stat().st_size} bytes are less than a llama2.c header")
    if header[0] == _LATER_MAGIC:
        raise CheckpointError(f"{path}: a llama2.c checkpoint of version {header[1]}: export it with --version 0")
    dim, ffn_dim, n_layers, n_heads, n_kv_heads, vocab, seq_len = (int(n) for n in header)
    if min(dim, ffn_dim, n_layers, n_heads, n_kv_heads, abs(vocab), seq_len) < 1:
        raise CheckpointError(f"{path}: not a llama2.c checkpoint: its header holds {header.tolist()}, and no size may be below 1")
    return make_config(
        str(path),
        dim=dim,
        ffn_dim=ffn_dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_size(str(path), dim, n_heads),
        vocab_size=abs(vocab),
        max_seq_len=seq_len,
        # A negative vocabulary says that the head follows.
        tied=vocab > 0,
        # Constants of the format.  The begin token also ends a text, because the training texts follow each other.
        norm_eps=1e-5,
        rope_theta=10000.0,
        bos_token_id=1,
        eos_token_ids=(1, 2),
    )


def _offsets(path: Path, config: LlamaConfig) -> dict[str, int]:
    """Map each tensor to its offset in the file, in bytes."""
    shapes = config.tensor_shapes()
    layers = [f"layers.{i}.{part}" for part in _LAYER_ORDER for i in range(config.n_layers)]
    offsets: dict[str, int] = {}
    end = HEADER_BYTES
    for name in ["embed", *layers, "norm"]:
        offsets[name] = end
        end += 4 * math.prod(shapes[name])
    # Two tables of RoPE's cosines and sines, which this reader skips.
    end += 2 * 4 * config.max_seq_len * (config.head_dim // 2)
    if not config.tied:
        offsets["head"] = end
        end += 4 * math.prod(shapes["head"])
    size = path.stat().st_size
    if size < end:
        raise CheckpointError(f"{path}: truncated: {size} bytes, its header asks for {end}")
    if size > end:
        raise CheckpointError(f"{path}: not a llama2.c checkpoint: {size} bytes, its header asks for {end}")
    return offsets
