"""The interface: dispatch, checks that all formats share."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.checkpoints import SHAPE, random_weights, write_gguf, write_hugging_face, write_llama2c
from weights_to_rom.readers.base import BlockCodes, Checkpoint, CheckpointError
from weights_to_rom.readers.gguf_file import GgufCheckpoint
from weights_to_rom.readers.huggingface import HuggingFaceCheckpoint
from weights_to_rom.readers.open import open_checkpoint
from weights_to_rom.row_order import half_rotation_rows


def test_each_source_finds_its_reader(tmp_path):
    write_hugging_face(tmp_path / "model")
    write_gguf(tmp_path / "model.gguf")
    write_gguf(tmp_path / "named_otherwise")
    assert type(open_checkpoint(tmp_path / "model")) is HuggingFaceCheckpoint
    assert type(open_checkpoint(str(tmp_path / "model.gguf"))) is GgufCheckpoint
    assert type(open_checkpoint(tmp_path / "named_otherwise")) is GgufCheckpoint


@pytest.mark.parametrize("name", ["nothing_here", "nothing_here.gguf", "some/where"])
def test_unknown_source_lists_the_known_names(name):
    with pytest.raises(CheckpointError, match=f"{name}: no such file or directory.*stories-260k.*smollm2-135m"):
        open_checkpoint(name)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"notes\.txt: not a Hugging Face directory, a \.gguf file or"):
        open_checkpoint(tmp_path / "notes.txt")
    write_hugging_face(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: give the directory"):
        open_checkpoint(tmp_path / "model" / "model.safetensors")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(CheckpointError, match=r"empty\.gguf: not a GGUF file"):
        open_checkpoint(tmp_path / "empty.gguf")


def test_missing_tokenizer_is_named(tmp_path):
    write_hugging_face(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"tok\.json: no such tokenizer file"):
        open_checkpoint(tmp_path / "model", tokenizer=tmp_path / "tok.json")


def test_half_rotation_rows():
    # Two heads of eight: pairs (0, 1), (2, 3) ... become (0, 4), (1, 5) ...
    assert half_rotation_rows(2, 8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]


def test_block_values():
    codes = np.arange(128, dtype=np.uint8).reshape(2, 2, 32) % 16
    scale = np.array([[1.0, 0.5], [2.0, 0.25]], np.float32)
    minimum = np.array([[8.0, -1.0], [0.0, 2.0]], np.float32)
    values = BlockCodes(codes, scale, minimum, 4).values()
    assert values.shape == (2, 64) and values.dtype == np.float32
    assert values[0, 3] == 1.0 * 3 - 8.0
    assert values[0, 35] == 0.5 * 3 + 1.0
    assert values[1, 63] == 0.25 * 15 - 2.0


class OneTensor(Checkpoint):
    """Reads whatever it is given."""

    def __init__(self, array):
        super().__init__(SHAPE, "here")
        self.array = array

    def _read(self, name):
        return self.array


def test_tensor_is_float32_and_of_its_shape():
    assert OneTensor(np.ones(64, np.float64)).tensor("norm").dtype == np.float32
    with pytest.raises(CheckpointError, match=r"here: norm has shape \(63,\), not \(64,\)"):
        OneTensor(np.ones(63)).tensor("norm")
    with pytest.raises(KeyError, match="nrom"):
        OneTensor(np.ones(64)).tensor("nrom")


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_values_that_are_not_finite_are_named(value, kind):
    array = np.ones((64, 160), np.float32)
    array[3, 150:] = value
    with pytest.raises(CheckpointError, match=rf"here: layers.1.down holds 10 values .*{kind}, at \(3, 150\)"):
        OneTensor(array).tensor("layers.1.down")


def truncations(path, end, step):
    """The file cut at many places, below ``end`` bytes."""
    data = path.read_bytes()
    for size in [*range(0, end, step), end - 1]:
        path.write_bytes(data[:size])
        yield size


@pytest.mark.parametrize("name", ["model.gguf", "model.bin", "model/model.safetensors"])
def test_a_file_cut_anywhere_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    source = path
    if name.endswith("gguf"):
        # The writer pads after the last tensor; those bytes nobody misses.
        write_gguf(path, fields=lambda writer: writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "def"]))
        end = path.stat().st_size - 4 * SHAPE.dim
    elif name.endswith("bin"):
        config = replace(SHAPE, head_dim=8, n_heads=8)
        write_llama2c(path, config, random_weights(config))
        end = path.stat().st_size
    else:
        source = tmp_path / "model"
        write_hugging_face(source)
        end = path.stat().st_size
    open_checkpoint(source)
    for _ in truncations(path, end, step=max(1, end // 400)):
        with pytest.raises(CheckpointError) as error:
            open_checkpoint(source)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_special_tokens_that_the_model_lacks_are_left_out_with_a_warning(tmp_path):
    write_hugging_face(tmp_path / "model", bos_token_id=75, eos_token_id=[-1, -7, 2, 900])
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [3, 900, 74]}')
    write_gguf(tmp_path / "model.gguf", fields=lambda writer: writer.add_eot_token_id(2**32 - 1), bos=2**32 - 1)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert (checkpoint.config.bos_token_id, checkpoint.config.eos_token_ids) == (None, (3, 74))
    lacks = f"{tmp_path}/model: {{}} is {{}}, but the model has 75 tokens: it is left out"
    expected = [("bos_token_id", 75), ("eos_token_id", 900), ("eos_token_id", -7)]
    assert checkpoint.warnings == [lacks.format(*one) for one in expected]
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    assert (checkpoint.config.bos_token_id, checkpoint.config.eos_token_ids) == (None, (2,))
    assert [line.split(": ")[1].split(",")[0] for line in checkpoint.warnings] == [
        "tokenizer.ggml.bos_token_id is 4294967295",
        "tokenizer.ggml.eot_token_id is 4294967295",
    ]
