"""Fields of config.json: two spellings of the same thing must agree, and ranges are checked."""

import json

import pytest

from tests.support.checkpoints import SHAPE, write_hugging_face
from weights_to_rom.config import RopeScaling
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
SCALING = RopeScaling(8.0, 1.0, 4.0, 64)


def config_of(tmp_path, **overrides):
    write_hugging_face(tmp_path, **overrides)
    return open_checkpoint(tmp_path).config


def refused(tmp_path, message, **overrides):
    write_hugging_face(tmp_path, **overrides)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_theta": None}, 10000.0, None),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, 5e5, SCALING),
        ({"rope_theta": None, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, 5e5, SCALING),
        ({"rope_theta": 5e5, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "rope_scaling": LLAMA3}, 5e5, SCALING),
        ({"rope_theta": 5e5, "rope_parameters": {}, "rope_scaling": LLAMA3}, 5e5, SCALING),
        ({"rope_scaling": LLAMA3 | {"type": "llama3"}}, 10000.0, SCALING),
        ({"rope_scaling": LLAMA3, "original_max_position_embeddings": 64}, 10000.0, SCALING),
        ({"rope_scaling": {"type": "linear", "factor": 1.0}}, 10000.0, None),
        ({"rope_scaling": {"rope_type": "linear", "factor": 1}, "rope_parameters": {"rope_type": "default"}}, 10000.0, None),
    ],
)
def test_spellings_of_rope(tmp_path, fields, theta, scaling):
    config = config_of(tmp_path, **fields)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
            r"rope_theta and rope_parameters contradict .* base .*10000\.0 and 500000\.0",
        ),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": LLAMA3},
            "rope_scaling and rope_parameters contradict .* scaling",
        ),
        ({"rope_parameters": LLAMA3 | {"factor": 4.0}, "rope_scaling": LLAMA3}, "rope_scaling and rope_parameters contradict"),
        ({"rope_scaling": LLAMA3 | {"type": "linear"}}, "rope_scaling: rope_type is 'llama3' and type is 'linear'"),
        (
            {"rope_scaling": LLAMA3, "original_max_position_embeddings": 65},
            "original_max_position_embeddings is 64, and 65 outside",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope scaling 'linear' \(factor 2.0\) is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope scaling 'linear' is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 1.0}}, "rope scaling 'yarn'"),
        ({"rope_scaling": {"type": 3}}, "rope_scaling: type must be a text, not 3"),
        ({"rope_scaling": LLAMA3 | {"factor": float("nan")}}, "rope_scaling: factor must be a finite number, not nan"),
        ({"rope_scaling": LLAMA3 | {"factor": -1.0}}, "rope_scaling: factor must be a positive finite number, not -1.0"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "rope_scaling: high_freq_factor must be above low_freq_factor"),
        ({"rope_parameters": [LLAMA3]}, r"rope_parameters must be an object, not \["),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be a positive finite number, not inf"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive finite number, not nan"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive finite number, not 0"),
        ({"rope_theta": float("inf")}, "rope_theta must be a positive finite number, not inf"),
        ({"hidden_size": 10**30}, "hidden_size must be an integer from 1 to 2147483647, not 10000"),
        ({"num_hidden_layers": 10**6}, "n_layers must be at most 1000"),
        ({"max_position_embeddings": 1e9}, "max_position_embeddings must be an integer from 1 to .*, not 1000000000.0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, not 'yes'"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM'"),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\]"),
        ({"attention_bias": 1}, "attention_bias must be true or false, not 1"),
        ({"num_local_experts": {}}, r"num_local_experts is \{\}"),
    ],
)
def test_fields_that_are_refused(tmp_path, fields, message):
    refused(tmp_path, message, **fields)


def test_the_spelling_of_the_type_does_not_matter(tmp_path):
    """The weights have types of their own; transformers converts to one of these when it loads."""
    assert config_of(tmp_path, torch_dtype="float16", dtype="bfloat16") == SHAPE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"hidden_size": 1' + b"0" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b" " * ((8 << 20) + 1), "has 8388609 bytes: no configuration has more"),
    ],
)
def test_json_that_is_no_configuration(tmp_path, content, message):
    write_hugging_face(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ('{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "x": {}}', "header .* x occurs twice"),
        ('{"x": 3}', "x must be an object with dtype, shape and data_offsets, not 3"),
        ('{"x": {"dtype": 3, "shape": [4], "data_offsets": [0, 16]}}', "x: dtype must be a text, not 3"),
        ('{"x": {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}}', "x: shape must be a list of sizes.*, not 4"),
        ('{"x": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}}', "x: shape must be a list of sizes.*, not 4.0"),
        ('{"x": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}', "x: shape must be a list of sizes.*, not -4"),
        ('{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}', "x: data_offsets must be two offsets"),
        ('{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, true]}}', "x: data_offsets must be two offsets"),
        ('{"x": {"dtype": "F32", "shape": [4]}}', "x: data_offsets is missing"),
        (('{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, '
         '"y": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}'), "y shares bytes with the tensor before it"),
        ("[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_headers_of_safetensors(tmp_path, header, message):
    write_hugging_face(tmp_path)
    data = header.encode()
    (tmp_path / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(16))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{message}"):
        open_checkpoint(tmp_path)


def test_a_long_header_is_not_read(tmp_path):
    write_hugging_face(tmp_path)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((10 << 20).to_bytes(8, "little"))
        file.truncate(50 << 20)
    with pytest.raises(CheckpointError, match="its header has 10485760 bytes, more than 8388608: not a safetensors file"):
        open_checkpoint(tmp_path)


def test_names_in_messages_are_printable(tmp_path):
    write_hugging_face(tmp_path)
    header = json.dumps({"x\n\x1b[31m": 3}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"x\\n\\x1b\[31m must be an object"):
        open_checkpoint(tmp_path)
