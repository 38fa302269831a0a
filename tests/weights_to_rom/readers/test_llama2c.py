"""llama2.c checkpoints."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from tests.support.checkpoints import SHAPE, random_weights, write_llama2c
from tests.support.tokens import write_tokenizer_bin
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint

# The format has no head_dim of its own, and its constants are fixed.
GQA = replace(SHAPE, n_heads=8, head_dim=8, eos_token_ids=(1, 2))
MHA = replace(GQA, n_heads=4, n_kv_heads=4, head_dim=16, tied=True)


@pytest.mark.parametrize("config", [GQA, MHA])
def test_round_trip(tmp_path, config):
    weights = random_weights(config)
    path = tmp_path / "model.bin"
    write_llama2c(path, config, weights)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config
    assert checkpoint.tokenizer is None and checkpoint.notes == []
    for name, array in weights.items():
        assert np.array_equal(checkpoint.tensor(name), array), name
        assert checkpoint.blocks(name) is None


def patched(path, **header):
    fields = ("dim", "ffn_dim", "n_layers", "n_heads", "n_kv_heads", "vocab", "seq_len")
    data = bytearray(path.read_bytes())
    for name, value in header.items():
        struct.pack_into("<i", data, 4 * fields.index(name), value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"n_layers": 3}, r"model\.bin: truncated: \d+ bytes, its header asks for \d+"),
        ({"n_layers": 1}, r"model\.bin: not a llama2\.c checkpoint: \d+ bytes, its header asks for \d+"),
        ({"n_layers": 1 << 30}, r"model\.bin: n_layers must be at most 1000, not 1073741824"),
        ({"dim": 0}, r"model\.bin: not a llama2\.c checkpoint: its header holds \[0, 160, .*no size may be below 1"),
        ({"n_heads": 0}, r"model\.bin: not a llama2\.c checkpoint: its header holds \[64, .*no size may be below 1"),
        ({"n_heads": 7}, r"model\.bin: dim 64 is not a multiple of n_heads 7"),
        ({"n_heads": 16}, r"model\.bin: head_dim must be a multiple of 8, not 4"),
        ({"n_kv_heads": 3}, r"model\.bin: n_heads \(8\) must be a multiple of n_kv_heads \(3\)"),
        (
            {"dim": 0x616B3432, "ffn_dim": 2},
            r"model\.bin: a llama2\.c checkpoint of version 2: export it with",
        ),
    ],
)
def test_headers_that_are_refused(tmp_path, header, message):
    path = tmp_path / "model.bin"
    write_llama2c(path, GQA, random_weights(GQA))
    patched(path, **header)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_nan_is_found_when_the_tensor_is_read(tmp_path):
    weights = random_weights(GQA)
    weights["layers.1.gate"][2, 5] = np.nan
    write_llama2c(tmp_path / "model.bin", GQA, weights)
    checkpoint = open_checkpoint(tmp_path / "model.bin")
    checkpoint.tensor("layers.0.gate")
    with pytest.raises(CheckpointError, match=r"layers\.1\.gate holds 1 values .*NaN, at \(2, 5\)"):
        checkpoint.tensor("layers.1.gate")


@pytest.mark.parametrize("size", [299, 300, 301])
def test_a_tokenizer_of_another_size_is_refused(tmp_path, size):
    """A tokenizer.bin states every token of its model, so that one with fewer belongs to another model, too."""
    config = replace(MHA, vocab_size=300)
    write_llama2c(tmp_path / "model.bin", config, random_weights(config))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *map(chr, range(0x100, 0x100 + size - 259))]
    write_tokenizer_bin(tmp_path / "elsewhere.bin", tokens, [0.0] * size)
    (tmp_path / "tokenizer.bin").write_bytes((tmp_path / "elsewhere.bin").read_bytes())
    for given in ((), (tmp_path / "elsewhere.bin",)):
        if size == 300:
            assert open_checkpoint(tmp_path / "model.bin", *given).notes == []
            continue
        few = "only " if size > 300 else ""
        message = rf"model\.bin: its tokenizer has {size} tokens, the model {few}300: name the right one with --tokenizer"
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path / "model.bin", *given)
