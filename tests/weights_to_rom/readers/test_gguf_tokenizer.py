"""Tokenizers of GGUF files that converters left incomplete."""

import json
from dataclasses import replace

import pytest

from tests.support.checkpoints import SHAPE, write_gguf
from tests.support.tokens import BASE
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint
from weights_to_rom.text.open import read_tokenizer
from weights_to_rom.text.sentencepieces import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED

BYTES = [f"<0x{i:02X}>" for i in range(256)]


def write(path, family, tokens, kinds=None, *, more=0, **fields):
    def add(writer):
        writer.add_tokenizer_model(family)
        writer.add_token_list(tokens)
        if kinds is not None:
            writer.add_token_types(kinds)
        for key, value in fields.items():
            getattr(writer, f"add_{key}")(value)

    write_gguf(path, replace(SHAPE, vocab_size=len(tokens) + more, tied=True), fields=add)
    return path


def byte_level(path, extra=(), kinds=None, **fields):
    model = json.loads((BASE / "tokenizer.json").read_text())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].__getitem__), *extra]
    kinds = [CONTROL, CONTROL, *[NORMAL] * (len(tokens) - 2 - len(extra)), *(kinds or [NORMAL] * len(extra))]
    fields = {"tokenizer_pre": "llama-bpe", "token_merges": [" ".join(pair) for pair in model["merges"]]} | fields
    given = {key: value for key, value in fields.items() if value is not None}
    return write(path, "gpt2", tokens, kinds, bos_token_id=0, eos_token_id=1, **given), tokens


SPECIAL = [
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|reserved_special_token_7|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜User｜>",
    "<｜end▁of▁sentence｜>",
    "<|fim prefix|>",
    "<fim_suffix>",
    "<EOT>",
    "[EOS]",
    "[PAD]",
    "▁<EOT>",
    "<MID>",
]


def test_special_tokens_that_a_converter_left_as_normal_ones(tmp_path):
    path, tokens = byte_level(tmp_path / "model.gguf", SPECIAL)
    tokenizer = open_checkpoint(path).tokenizer
    for token in SPECIAL:
        number = tokens.index(token)
        ids = tokenizer.encode(f"a{token}b", bos=False)
        assert ids == [*tokenizer.encode("a", bos=False), number, *tokenizer.encode("b", bos=False)], token
        assert tokenizer.decode(ids) == "ab"


def test_text_that_only_looks_so_is_text(tmp_path):
    words = ["<||>", "<|>", "<b>", "<|a", "|>", "<0x0>", "[INST]"]
    path, tokens = byte_level(tmp_path / "model.gguf", words, tokenizer_pre="gpt-2")
    tokenizer = open_checkpoint(path).tokenizer
    for word in words:
        assert tokens.index(word) not in tokenizer.encode(f"a{word}b")


def test_tokens_with_a_role_are_whole_but_ordinary_ones_stay_ordinary(tmp_path):
    path, tokens = byte_level(tmp_path / "model.gguf", ["<stop>", "[PAD]"], eot_token_id=700, pad_token_id=2)
    assert tokens[2] == "!"
    checkpoint = open_checkpoint(path)
    tokenizer = checkpoint.tokenizer
    assert 700 in tokenizer.encode("a<stop>b")
    assert tokenizer.special["pad_token"] == "!"
    text = "Stop! Stop!! !!!"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    # It stays so in a compiled model.
    tokenizer.save(tmp_path / "saved")
    saved = read_tokenizer(tmp_path / "saved")
    assert saved.special == tokenizer.special
    assert saved.encode(text) == tokenizer.encode(text)
    assert saved.decode(saved.encode(text)) == text


def test_user_defined_tokens_are_whole_and_are_text(tmp_path):
    path, _ = byte_level(tmp_path / "model.gguf", ["<tool>"], [USER_DEFINED])
    tokenizer = open_checkpoint(path).tokenizer
    assert tokenizer.decode(tokenizer.encode("a<tool>b")) == "a<tool>b"
    assert 700 in tokenizer.encode("a<tool>b")


@pytest.mark.parametrize("merges", [None, []])
def test_a_bpe_without_merges_is_refused(tmp_path, merges):
    path, _ = byte_level(tmp_path / "model.gguf", token_merges=merges)
    with pytest.raises(CheckpointError, match=r"model\.gguf: its BPE has no merges.*--tokenizer"):
        open_checkpoint(path)
    assert open_checkpoint(path, BASE / "tokenizer.json").tokenizer is not None


def test_single_letters_need_no_merges(tmp_path):
    path = write(tmp_path / "model.gguf", "gpt2", ["a", "b", "c"], [NORMAL] * 3, tokenizer_pre="gpt-2")
    assert open_checkpoint(path).tokenizer.encode("cab", bos=False) == [2, 0, 1]


@pytest.mark.parametrize("pre", [None, "default"])
def test_a_guessed_split_is_a_warning(tmp_path, pre):
    path, _ = byte_level(tmp_path / "model.gguf", tokenizer_pre=pre)
    says = f"{path}: tokenizer: model.gguf does not say how words are split (tokenizer.ggml.pre), which is guessed"
    assert open_checkpoint(path).warnings == [says]
    path, _ = byte_level(tmp_path / "model.gguf")
    assert open_checkpoint(path).warnings == []


def test_the_end_token_that_a_file_puts_after_a_text_is_a_warning(tmp_path):
    path, _ = byte_level(tmp_path / "model.gguf", add_eos_token=True)
    checkpoint = open_checkpoint(path)
    assert checkpoint.warnings == [f"{path}: tokenizer: puts '<|end|>' after every prompt, as model.gguf says"]
    tokenizer = checkpoint.tokenizer
    assert tokenizer.encode("a")[-1] == 1 and tokenizer.encode("a", bos=False)[-1] != 1
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").encode("a") == tokenizer.encode("a")


PIECES = ["<unk>", "<s>", "</s>", *BYTES, SPACE, "a", "b", f"{SPACE}a", "ab", "ba"]


def test_a_sentencepiece_vocabulary_without_types_and_scores(tmp_path):
    tokenizer = open_checkpoint(write(tmp_path / "model.gguf", "llama", PIECES)).tokenizer
    names = [PIECES[i] for i in tokenizer.encode("abab é<s>")]
    # All scores are equal: the leftmost merge is first.
    assert names == ["<s>", f"{SPACE}a", "ba", "b", SPACE, "<0xC3>", "<0xA9>", "<s>"]
    assert tokenizer.decode(tokenizer.encode("abab é<s>")) == "abab é"


def test_empty_tokens_and_tokens_without_a_kind_do_no_harm(tmp_path):
    tokens = [*PIECES, "", ""]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 5, 0, NORMAL, UNUSED]
    tokenizer = open_checkpoint(write(tmp_path / "model.gguf", "llama", tokens, kinds)).tokenizer
    assert [tokens[i] for i in tokenizer.encode("ab ba")] == ["<s>", f"{SPACE}a", "b", SPACE, "ba"]


@pytest.mark.parametrize(
    ("tokens", "kinds", "message"),
    [
        (["<unk>", "<s>", "</s>", "<0x00>", "<0x01>", "a"], [2, 3, 3, 6, 6, 1], "has 2 of the 256 tokens of bytes"),
        (["<unk>", "a", "a"], [2, 1, 1], "the token 'a' occurs twice"),
    ],
)
def test_vocabularies_that_are_refused(tmp_path, tokens, kinds, message):
    with pytest.raises(CheckpointError, match=rf"model\.gguf: .*{message}"):
        open_checkpoint(write(tmp_path / "model.gguf", "llama", tokens, kinds))


def test_sizes_that_differ_are_named(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "model.gguf", "llama", PIECES, more=3))
    n = len(PIECES)
    assert checkpoint.notes == [f"tokenizer: tokens {n} to {n + 2} of the model have no text"]
    with pytest.raises(CheckpointError, match=rf"model\.gguf: its tokenizer has {n} tokens, the model only {n - 1}"):
        open_checkpoint(write(tmp_path / "model.gguf", "llama", PIECES, more=-1))
