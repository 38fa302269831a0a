"""One function opens every format, and refuses any other file in one line."""

from dataclasses import replace

import pytest

from tests.support.checkpoints import SHAPE, random_weights, write_gguf, write_hugging_face, write_llama2c
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.gguf_file import GgufCheckpoint
from weights_to_rom.readers.huggingface import HuggingFaceCheckpoint
from weights_to_rom.readers.llama2c import Llama2cCheckpoint
from weights_to_rom.readers.open import open_checkpoint

MULTIPLE = replace(SHAPE, n_heads=8, n_kv_heads=4, head_dim=SHAPE.dim // 8)
"""llama2.c has no head_dim: it is dim / n_heads."""


def test_formats_are_told_apart(tmp_path):
    write_hugging_face(tmp_path / "folder")
    write_gguf(tmp_path / "model.gguf")
    write_llama2c(tmp_path / "model.bin", MULTIPLE, random_weights(MULTIPLE))
    for name, kind in (("folder", HuggingFaceCheckpoint), ("model.gguf", GgufCheckpoint), ("model.bin", Llama2cCheckpoint)):
        assert type(open_checkpoint(tmp_path / name)) is kind


def test_gguf_is_known_by_its_first_bytes(tmp_path):
    write_gguf(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").rename(tmp_path / "model.part1")
    assert isinstance(open_checkpoint(tmp_path / "model.part1"), GgufCheckpoint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "give the directory that holds it"),
        ("config.json", "give the directory that holds it"),
        ("model.pt", r"not a Hugging Face directory, a \.gguf file or a llama2\.c \.bin"),
        ("model.gguf", "a text that begins 'something else', not the file itself"),
    ],
)
def test_refuses_other_files(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=rf"{name}: {message}"):
        open_checkpoint(tmp_path / name)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(CheckpointError, match=r"another: no such file.*stories-tiny, stories-260k, smollm2-135m"):
        open_checkpoint("another")
    with pytest.raises(CheckpointError, match=r"storeis: no such file.* did you mean stories-tiny\?"):
        open_checkpoint("storeis")


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    write_hugging_face(tmp_path / "folder")
    with pytest.raises(CheckpointError, match=r"none\.json: no such tokenizer file"):
        open_checkpoint(tmp_path / "folder", tmp_path / "none.json")


def test_a_name_that_no_file_can_have():
    with pytest.raises(CheckpointError, match=r"a{5000}: File name too long"):
        open_checkpoint("a" * 5000)
