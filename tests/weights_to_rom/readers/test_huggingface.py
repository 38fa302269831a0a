"""Hugging Face directories: written by safetensors and by transformers, and all that is refused."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import (
    SHAPE,
    hugging_face_name,
    random_weights,
    to_bfloat16,
    write_hugging_face,
    write_safetensors,
)
from weights_to_rom.config import RopeScaling
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint

FIXTURES = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tmp_path, dtype, tied):
    config = replace(SHAPE, tied=tied)
    weights = random_weights(config)
    write_hugging_face(tmp_path, config, tensors={hugging_face_name(n): w for n, w in weights.items()}, dtype=dtype)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == config
    assert checkpoint.tokenizer is None and checkpoint.notes == []
    for name, array in weights.items():
        if dtype == "bfloat16":
            array = (to_bfloat16(array).astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(checkpoint.tensor(name), array.astype(dtype if dtype == "float16" else "f4")), name
        assert checkpoint.blocks(name) is None


@pytest.mark.parametrize("name", ["transformers_gqa", "transformers_mha"])
def test_equal_to_transformers(name):
    checkpoint = open_checkpoint(FIXTURES / name)
    expected = json.loads((FIXTURES / name / "expected.json").read_text())
    shapes = checkpoint.config.tensor_shapes()
    for canonical in shapes:
        digest = hashlib.sha256(checkpoint.tensor(canonical).astype("<f4").tobytes()).hexdigest()
        assert digest == expected["weights"].pop(hugging_face_name(canonical)), canonical
    # What transformers has besides is the tied head.
    assert list(expected["weights"]) == (["lm_head.weight"] if checkpoint.config.tied else [])
    # float32 there, float64 here.
    np.testing.assert_allclose(checkpoint.config.rope_frequencies(), expected["rope"], rtol=1e-6)


def test_configuration_of_transformers():
    gqa = open_checkpoint(FIXTURES / "transformers_gqa").config
    assert (gqa.dim, gqa.n_heads, gqa.n_kv_heads, gqa.head_dim, gqa.ffn_dim) == (24, 4, 2, 16, 40)
    assert (gqa.vocab_size, gqa.max_seq_len, gqa.norm_eps, gqa.tied) == (320, 512, 1e-5, True)
    assert (gqa.rope_theta, gqa.rope_scaling) == (500000.0, RopeScaling(8.0, 1.0, 4.0, 128))
    assert (gqa.bos_token_id, gqa.eos_token_ids) == (0, (1, 3))
    mha = open_checkpoint(FIXTURES / "transformers_mha").config
    assert (mha.n_kv_heads, mha.head_dim, mha.norm_eps, mha.tied, mha.rope_scaling) == (
        2,
        8,
        1e-6,
        False,
        None,
    )


def config_of(tmp_path, **overrides):
    write_hugging_face(tmp_path, **overrides)
    return open_checkpoint(tmp_path).config


def test_defaults_of_an_old_configuration(tmp_path):
    square = replace(SHAPE, n_heads=4, n_kv_heads=4, tied=False)
    tensors = {hugging_face_name(n): w for n, w in random_weights(square).items()}
    config = config_of(
        tmp_path,
        config=square,
        tensors=tensors,
        head_dim=None,
        num_key_value_heads=None,
        rope_scaling=None,
        bos_token_id=None,
        eos_token_id=None,
        sliding_window=None,
        attention_bias=False,
        tie_word_embeddings=None,
    )
    assert (config.head_dim, config.n_kv_heads, config.tied) == (16, 4, False)
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())


def test_rope_parameters(tmp_path):
    llama3 = {
        "factor": 32.0,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": 8192,
    }
    scaling = RopeScaling(32.0, 1.0, 4.0, 8192)
    assert config_of(tmp_path, rope_scaling=llama3 | {"type": "llama3"}).rope_scaling == scaling
    assert config_of(tmp_path, rope_scaling=llama3 | {"rope_type": "llama3"}).rope_scaling == scaling
    new = config_of(tmp_path, rope_parameters=llama3 | {"rope_type": "llama3", "rope_theta": 5e5}, rope_theta=None)
    assert (new.rope_scaling, new.rope_theta) == (scaling, 5e5)
    default = config_of(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 1e5}, rope_theta=1e5)
    assert (default.rope_scaling, default.rope_theta) == (None, 1e5)


def test_generation_config_knows_better_where_a_text_ends(tmp_path):
    write_hugging_face(tmp_path, eos_token_id=2)
    assert open_checkpoint(tmp_path).config.eos_token_ids == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert open_checkpoint(tmp_path).config.eos_token_ids == (2, 7)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.5}')
    assert open_checkpoint(tmp_path).config.eos_token_ids == (2,)


def test_silence_on_tying_means_what_the_file_holds(tmp_path):
    tensors = write_hugging_face(tmp_path, tie_word_embeddings=None)
    assert not open_checkpoint(tmp_path).config.tied
    del tensors["lm_head.weight"]
    write_hugging_face(tmp_path, tensors=tensors, tie_word_embeddings=None)
    assert open_checkpoint(tmp_path).config.tied


def test_a_tied_head_may_be_in_the_file_if_it_is_the_embedding(tmp_path):
    tensors = write_hugging_face(tmp_path, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings, but lm_head\.weight differs"):
        open_checkpoint(tmp_path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    write_hugging_face(tmp_path, tensors=tensors, tie_word_embeddings=True)
    assert open_checkpoint(tmp_path).config.tied


def test_rotary_buffers_are_ignored(tmp_path):
    tensors = write_hugging_face(tmp_path)
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    write_hugging_face(tmp_path, tensors=tensors)
    open_checkpoint(tmp_path)


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"model_type": "mistral", "sliding_window": 4096},
            "model_type is 'mistral', with sliding_window 4096",
        ),
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
        ({"model_type": None, "architectures": None}, "model_type is None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"sliding_window": 1024}, "sliding_window is 1024"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"num_experts": 4}, "num_experts is 4"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "a checkpoint quantised by 'gptq' .*only floats are read"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
            "partial_rotary_factor is 0.25",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling 'yarn'"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
            "rope_scaling: low_freq_factor is missing",
        ),
        ({"rope_scaling": 3}, "rope_scaling must be an object, not 3"),
        ({"rope_theta": -1}, "rope_theta must be a positive finite number, not -1"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a positive finite number, not 'small'"),
        ({"hidden_size": "64"}, "hidden_size must be an integer from 1 to 2147483647, not '64'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer from 1 to 2147483647, not 0"),
        ({"head_dim": 12}, "head_dim must be a multiple of 8, not 12"),
        ({"head_dim": None}, "dim 64 is not a multiple of n_heads 6"),
        ({"num_key_value_heads": 4}, r"n_heads \(6\) must be a multiple of n_kv_heads \(4\)"),
        ({"eos_token_id": "end"}, "eos_token_id must be a token number, not 'end'"),
        ({"vocab_size": 76}, r"model\.embed_tokens\.weight has shape \(75, 64\), not \(76, 64\)"),
        ({"intermediate_size": 161}, r"mlp\.gate_proj\.weight has shape \(160, 64\), not \(161, 64\)"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight is missing"),
        ({"num_hidden_layers": 1}, r"holds model\.layers\.1\.\S+ and 8 more tensors"),
    ],
)
def test_configurations_that_are_refused(tmp_path, overrides, message):
    write_hugging_face(tmp_path, **overrides)
    refused(tmp_path, message)


def without(name):
    return lambda tensors: tensors.pop(name)


def plus(name, *shape):
    return lambda tensors: tensors.update({name: np.ones(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("model.layers.1.self_attn.k_proj.weight"),
            r"model\.layers\.1\.self_attn\.k_proj\.weight is missing",
        ),
        (without("lm_head.weight"), r"lm_head\.weight is missing"),
        (
            plus("model.layers.0.self_attn.q_proj.bias", 96),
            r"the bias model\.layers\.0\.self_attn\.q_proj\.bias",
        ),
        (
            plus("model.layers.0.self_attn.q_norm.weight", 16),
            r"holds model\.layers\.0\.self_attn\.q_norm\.weight, which",
        ),
        (plus("model.norm.weight", 63), r"model\.norm\.weight has shape \(63,\), not \(64,\)"),
    ],
)
def test_tensors_that_are_refused(tmp_path, change, message):
    tensors = write_hugging_face(tmp_path)
    change(tensors)
    write_hugging_face(tmp_path, tensors=tensors)
    refused(tmp_path, message)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_that_are_not_finite(tmp_path, value, dtype):
    tensors = write_hugging_face(tmp_path)
    tensors["model.layers.1.mlp.up_proj.weight"][7, 9] = value
    write_hugging_face(tmp_path, tensors=tensors, dtype=dtype)
    with pytest.raises(CheckpointError, match=r"layers\.1\.up holds 1 values .* at \(7, 9\)"):
        open_checkpoint(tmp_path).tensor("layers.1.up")


def test_other_dtypes_are_refused(tmp_path):
    write_hugging_face(tmp_path, dtype="float64")
    refused(tmp_path, r"model\.embed_tokens\.weight is F64, not F32 or F16 or BF16")


def test_configuration_that_is_missing_or_no_json(tmp_path):
    write_hugging_face(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama",')
    refused(tmp_path, r"config\.json: not JSON")
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path, r"config\.json: not a JSON object")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    refused(tmp_path, r"config\.json: not JSON")
    (tmp_path / "config.json").unlink()
    refused(tmp_path, r"config\.json is missing")


def test_no_weights(tmp_path):
    write_hugging_face(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    refused(tmp_path, r"holds no model\.safetensors .*pytorch_model\.bin")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: header of 0 bytes in a file of 0"),
        (b"\xff" * 100, "truncated: header of 18446744073709551615 bytes in a file of 100"),
        ((10).to_bytes(8, "little") + b"not json {", "its header is not that of a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "its header is not that of a safetensors file"),
    ],
)
def test_damaged_headers(tmp_path, data, message):
    write_hugging_face(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    refused(tmp_path, rf"model\.safetensors: {message}")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 17]}, "truncated: x lies at bytes"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [-4, 12]}, "truncated: x lies at bytes"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}, "x has 16 bytes, not those of its shape"),
    ],
)
def test_damaged_entries(tmp_path, entry, message):
    write_hugging_face(tmp_path)
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    refused(tmp_path, rf"model\.safetensors: {message}")


def sharded(tmp_path):
    tensors = write_hugging_face(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names = list(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        write_safetensors(tmp_path / shard, {name: tensors[name] for name in part}, "float32")
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return tensors, index, weight_map


def test_shards(tmp_path):
    tensors, index, weight_map = sharded(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    for name in checkpoint.config.tensor_shapes():
        assert np.array_equal(checkpoint.tensor(name), tensors[hugging_face_name(name)])
    weight_map["lm_head.weight"] = next(s for s in ("a.safetensors", "b.safetensors") if s != weight_map["lm_head.weight"])
    index.write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, r"[ab]\.safetensors lacks lm_head\.weight")
    (tmp_path / "b.safetensors").unlink()
    refused(tmp_path, r"the shard b\.safetensors is missing")
    index.write_text("{}")
    refused(tmp_path, r"index\.json: has no weight_map")


def test_a_bias_that_the_index_forgot_is_seen(tmp_path):
    sharded(tmp_path)
    shard = tmp_path / "a.safetensors"
    from safetensors.numpy import load_file

    write_safetensors(shard, load_file(shard) | {"model.layers.0.mlp.up_proj.bias": np.ones(160)}, "float32")
    refused(tmp_path, r"the bias model\.layers\.0\.mlp\.up_proj\.bias")


def test_tensors_are_read_one_at_a_time(tmp_path):
    write_hugging_face(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    first = checkpoint.tensor("norm")
    first[:] = 0
    assert checkpoint.tensor("norm").any(), "a tensor must be the caller's own"
