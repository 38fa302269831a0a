"""Metadata of GGUF files: each field of a wrong type, length or range is refused by its name."""

import gguf
import pytest

from tests.support.checkpoints import SHAPE, write_gguf
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab"]


def with_tokens(writer: gguf.GGUFWriter, **changes) -> None:
    """A sentencepiece tokenizer; ``changes`` are lists by the method of the writer."""
    lists = {
        "tokenizer_model": "llama",
        "token_list": TOKENS,
        "token_scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0],
        "token_types": [2, 3, 3, 1, 1, 1],
    }
    for name, value in (lists | changes).items():
        getattr(writer, f"add_{name}")(value)


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_scores": [0.0, 0.0, 0.0, -1.0, -2.0]}, "tokenizer.ggml.scores has 5 entries, tokenizer.ggml.tokens 6"),
        ({"token_types": [2, 3, 3, 1, 1, 1, 1]}, "tokenizer.ggml.token_type has 7 entries, tokenizer.ggml.tokens 6"),
        ({"token_types": [2, 3, 3, 1, 1, 7]}, "tokenizer.ggml.token_type must be a list of token types, 0 to 6, not 7 .entry 5"),
        (
            {"token_scores": [0.0, 0.0, 0.0, float("nan"), 0.0, 0.0]},
            "tokenizer.ggml.scores must be a list of finite numbers, not nan .entry 3",
        ),
        ({"token_list": [1, 2, 3, 4, 5, 6]}, "tokenizer.ggml.tokens must be a list of texts, at most 524,288, not 1 .entry 0"),
        ({"token_scores": ["x"] * 6}, "tokenizer.ggml.scores must be a list of finite numbers, not 'x'"),
    ],
)
def test_lists_of_a_tokenizer(tmp_path, changes, message):
    path = tmp_path / "model.gguf"
    write_gguf(path, fields=lambda w: with_tokens(w, **changes))
    refused(path, message)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda w: w.add_string("tokenizer.ggml.eot_token_id", "x"), "tokenizer.ggml.eot_token_id must be a token number, not 'x'"),
        (
            lambda w: w.add_array("tokenizer.ggml.eom_token_id", [2]),
            r"tokenizer.ggml.eom_token_id must be a token number, not \[2\]",
        ),
        (lambda w: w.add_uint32("tokenizer.ggml.add_bos_token", 1), "tokenizer.ggml.add_bos_token must be true or false, not 1"),
        (lambda w: w.add_uint32("tokenizer.chat_template", 1), "tokenizer.chat_template must be a text, not 1"),
        (
            lambda w: w.add_uint32("tokenizer.ggml.tokens", 7),
            "tokenizer.ggml.tokens must be a list of texts, at most 524,288, not 7",
        ),
        (lambda w: w.add_float32("tokenizer.ggml.scores", 1.5), "tokenizer.ggml.scores must be a list of finite numbers, not 1.5"),
        (lambda w: w.add_uint32("tokenizer.ggml.model", 1), "tokenizer.ggml.model must be a text, not 1"),
        (lambda w: w.add_uint32("tokenizer.ggml.pre", 1), "tokenizer.ggml.pre must be a text, not 1"),
        (lambda w: w.add_string("tokenizer.ggml.merges", "a b"), "tokenizer.ggml.merges must be a list of texts, not 'a b'"),
        (lambda w: w.add_string("split.count", "1"), "split.count must be an integer, not '1'"),
        (lambda w: w.add_uint16("split.no", 1), "part 2 of a model in several files: merge them"),
        (lambda w: w.add_type("adapter"), "a LoRA adapter, not a model: give its base model"),
        (lambda w: w.add_type("mmproj"), "not a model: general.type is 'mmproj'"),
        (lambda w: w.add_uint32("llama.rope.scaling.type", 1), "llama.rope.scaling.type must be a text, not 1"),
        (
            lambda w: w.add_float32("llama.rope.scaling.factor", float("nan")),
            "rope.scaling.factor must be a finite number, not nan",
        ),
        (lambda w: w.add_bool("llama.attention.causal", False), "llama.attention.causal is False: the chip has no such feature"),
        (lambda w: w.add_float32("llama.attention.scale", 0.1), "llama.attention.scale is 0.1"),
        (lambda w: w.add_float32("llama.logit_scale", 16.0), "llama.logit_scale is 16.0"),
        (lambda w: w.add_string("llama.expert_count", "no"), "llama.expert_count is 'no'"),
    ],
)
def test_fields_of_a_wrong_type_or_value(tmp_path, add, message):
    write_gguf(tmp_path / "model.gguf", fields=add)
    refused(tmp_path / "model.gguf", message)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon"])
def test_constants_must_be_positive_numbers(tmp_path, key, value):
    path = tmp_path / "model.gguf"
    write_gguf(path)
    reader = gguf.GGUFReader(path, "r+")
    reader.fields[key].parts[-1][0] = value
    reader.data.flush()
    refused(path, f"{key} must be a positive finite number, not {value}")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("llama.embedding_length", "must be an integer from 1 to 2147483647, not 'x'"),
        ("llama.attention.layer_norm_rms_epsilon", "must be a positive finite number, not 'x'"),
    ],
)
def test_texts_in_place_of_numbers(tmp_path, key, message):
    path = tmp_path / "model.gguf"
    other = key[:-4] + "_txt"
    write_gguf(path, fields=lambda w: w.add_string(other, "x"))
    data = path.read_bytes().replace(key.encode(), key[:-4].encode() + b"_num")
    path.write_bytes(data.replace(other.encode(), key.encode()))
    refused(path, f"{key} {message}")


@pytest.mark.parametrize("add", [lambda w: w.add_int32("tokenizer.ggml.eot_token_id", -1), lambda w: w.add_eot_token_id(2**32 - 1)])
def test_minus_one_is_no_token(tmp_path, add):
    write_gguf(tmp_path / "model.gguf", fields=add)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    assert checkpoint.config == SHAPE
    assert [line.partition(": ")[2][:30] for line in checkpoint.warnings] == ["tokenizer.ggml.eot_token_id is"]


def test_a_damaged_tokenizer_may_be_replaced(tmp_path):
    """With another tokenizer the lists of the file are not looked at."""
    write_gguf(tmp_path / "bad.gguf", fields=lambda w: with_tokens(w, token_scores=[0.0]))
    refused(tmp_path / "bad.gguf", "scores has 1 entries")
    write_gguf(tmp_path / "good.gguf", fields=with_tokens)
    tokenizer = open_checkpoint(tmp_path / "good.gguf").tokenizer
    assert tokenizer is not None
    tokenizer.save(tmp_path / "tokenizer")
    assert open_checkpoint(tmp_path / "bad.gguf", tmp_path / "tokenizer").tokenizer is not None
