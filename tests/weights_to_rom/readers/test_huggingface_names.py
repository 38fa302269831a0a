"""Tensors under other names: prefixes of wrappers are left out, and tensors of other kinds of models are named."""

import numpy as np
import pytest

from tests.support.checkpoints import SHAPE, hugging_face_name, random_weights, write_hugging_face, write_safetensors
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint

TENSORS = {hugging_face_name(name): array for name, array in random_weights(SHAPE).items()}
TIED = {name: array for name, array in TENSORS.items() if name != "lm_head.weight"}


def check_equal(folder):
    checkpoint = open_checkpoint(folder)
    for name, array in random_weights(SHAPE).items():
        if name != "head" or not checkpoint.config.tied:
            assert np.array_equal(checkpoint.tensor(name), array), name
    return checkpoint


PREFIXES = ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "base_model.model.", "module.module.",
            "base_model.model._orig_mod.", "module.base_model.model.", "_fsdp_wrapped_module."]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_left_out(tmp_path, prefix):
    write_hugging_face(tmp_path, tensors={prefix + name: array for name, array in TENSORS.items()})
    notes = check_equal(tmp_path).notes
    assert len(notes) == 1 and notes[0].startswith("names of tensors: without ")


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_a_wrapped_layer_is_one_like_others(tmp_path, wrapper):
    write_hugging_face(tmp_path, tensors={name.replace("layers.1.", f"layers.1.{wrapper}"): a for name, a in TENSORS.items()})
    assert check_equal(tmp_path).notes == [f"names of tensors: without {wrapper}"]


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "base_model.model."])
def test_llama_model_saves_without_model(tmp_path, prefix):
    tensors = {prefix + name.removeprefix("model."): array for name, array in TIED.items()}
    write_hugging_face(tmp_path, tensors=tensors, architectures=["LlamaModel"], tie_word_embeddings=True)
    assert check_equal(tmp_path).config.tied


def test_llama_model_without_a_head_is_no_model_of_a_language(tmp_path):
    tensors = {name.removeprefix("model."): array for name, array in TIED.items()}
    write_hugging_face(tmp_path, tensors=tensors, architectures=["LlamaModel"], tie_word_embeddings=False)
    refused(tmp_path, r"the tensor lm_head\.weight is missing")


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_one_tensor_under_two_names(tmp_path):
    write_hugging_face(tmp_path, tensors=TENSORS | {"module.model.norm.weight": np.zeros(64, np.float32)})
    refused(tmp_path, r"holds model\.norm\.weight twice: \S*model\.norm\.weight in .*, and \S*model\.norm\.weight in ")


Q, ONES = "model.layers.0.self_attn.q_proj", np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"base_model.model.{Q}.base_layer.weight", "a model with an adapter of peft that was not merged"),
        (f"base_model.model.{Q}.lora_A.default.weight", "a model with an adapter of peft that was not merged"),
        (f"{Q}.lora_magnitude_vector", "a model with an adapter of peft that was not merged"),
        (f"{Q}.qweight", "quantised by GPTQ or AWQ: only floats are read here; give the model before"),
        (f"{Q}.g_idx", "quantised by GPTQ or AWQ"),
        (f"{Q}.weight_scale", "quantised by a method with scales, such as FP8"),
        (f"{Q}.weight_scale_inv", "quantised by a method with scales, such as FP8"),
        (f"{Q}.weight_packed", "quantised by compressed-tensors"),
        (f"{Q}.SCB", "quantised by bitsandbytes"),
        (f"{Q}.weight.absmax", "quantised by bitsandbytes"),
        (f"{Q}.weight.quant_state.bitsandbytes__nf4", "quantised by bitsandbytes"),
        (f"{Q}.scales", "quantised by MLX"),
        (f"{Q}.biases", "quantised by MLX"),
    ],
)
def test_tensors_of_other_kinds_are_named(tmp_path, name, message):
    write_hugging_face(tmp_path, tensors={name: ONES} | TENSORS)
    refused(tmp_path, f"holds {name}: .*{message}")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, r"quantised by 'bitsandbytes' \(quanti"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised by 'fp8'"),
        ({"quantization_config": {"bits": 4}}, "quantised by an unnamed method"),
        ({"quantization": {"group_size": 64, "bits": 4}}, r"quantised by MLX \(quantization\)"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "quantised by 'compressed-tensors'"),
        ({"quantization_config": 7}, r"quantised by 7 \(quantization_config\)"),
    ],
)
def test_configurations_of_quantised_checkpoints(tmp_path, field, message):
    write_hugging_face(tmp_path, **field)
    refused(tmp_path, message)


def test_an_empty_quantization_config_is_none(tmp_path):
    write_hugging_face(tmp_path, quantization_config={})
    check_equal(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_zero_biases_are_no_biases(tmp_path, dtype):
    bias = {f"{Q}.bias": np.array([0.0, -0.0] * 48, np.float32), "model.layers.1.mlp.up_proj.bias": np.zeros(160, np.float32)}
    if dtype == "float64":  # a type that is not read is not looked into
        write_hugging_face(tmp_path, tensors=TENSORS | bias, dtype=dtype)
        refused(tmp_path, "is not zero")
        return
    write_hugging_face(tmp_path, tensors=TENSORS | bias, dtype=dtype, attention_bias=True, mlp_bias=True)
    assert open_checkpoint(tmp_path).config == SHAPE
    for value in (1e-4, np.nan):
        bias[f"{Q}.bias"][95] = value
        write_hugging_face(tmp_path, tensors=TENSORS | bias, dtype=dtype, attention_bias=True, mlp_bias=True)
        refused(tmp_path, rf"the bias {Q}\.bias, which is not zero: the chip has no biases")


def test_promised_biases_that_are_missing(tmp_path):
    for field in ("attention_bias", "mlp_bias"):
        write_hugging_face(tmp_path, **{field: True})
        refused(tmp_path, f"{field} is True, and the weights hold no such biases")


@pytest.mark.parametrize("buffer", ["inv_freq", "original_inv_freq", "cos_cached", "sin_cached"])
@pytest.mark.parametrize("place", ["model.layers.0.self_attn.rotary_emb", "model.rotary_emb"])
def test_tables_of_rope_are_ignored(tmp_path, place, buffer):
    write_hugging_face(tmp_path, tensors=TENSORS | {f"{place}.{buffer}": np.ones((1, 1, 8), np.float32)})
    check_equal(tmp_path)


@pytest.mark.parametrize(("embed", "head"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "float32")])
def test_an_equal_head_in_another_type_is_tied(tmp_path, embed, head):
    weights = TIED["model.embed_tokens.weight"]
    # values that all three types hold
    coarse = (np.round(weights * 8) / 8).astype(np.float32)
    write_hugging_face(tmp_path, tensors=TIED, tie_word_embeddings=True)
    (tmp_path / "model.safetensors").unlink()
    rest = {name: array for name, array in TIED.items() if name != "model.embed_tokens.weight"}

    def write(head_values):
        write_safetensors(tmp_path / "a.safetensors", {"model.embed_tokens.weight": coarse}, embed)
        write_safetensors(tmp_path / "b.safetensors", {"lm_head.weight": head_values}, head)
        write_safetensors(tmp_path / "c.safetensors", rest, "float32")
        shards = {"model.embed_tokens.weight": "a", "lm_head.weight": "b"} | dict.fromkeys(rest, "c")
        index = str({name: f"{shard}.safetensors" for name, shard in shards.items()}).replace("'", '"')
        (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {index}}}')

    write(coarse)
    assert open_checkpoint(tmp_path).config.tied
    coarse[74, 63] += 1
    head_values, coarse[74, 63] = coarse.copy(), coarse[74, 63] - 1
    write(head_values)
    refused(tmp_path, r"tie_word_embeddings, but lm_head\.weight differs")


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "..", "", "a/b.safetensors"])
def test_a_shard_is_a_file_of_the_folder(tmp_path, shard):
    write_hugging_face(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model.safetensors")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"x": "{shard}"}}}}')
    refused(tmp_path / "model", "must be the name of a file in the same folder")


def test_weights_under_another_name(tmp_path):
    write_hugging_face(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "consolidated.safetensors")
    refused(tmp_path, r"holds no model\.safetensors .* \(rename consolidated\.safetensors to model\.safetensors\)")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    refused(tmp_path, r"\(several files need their index\)")
