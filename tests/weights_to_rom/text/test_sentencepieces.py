"""Sentencepiece's models: the merges of equal scores, spaces before a text, and lists that make no model."""

import json
import random
from itertools import pairwise

import pytest
import sentencepiece

from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.open import read_tokenizer
from weights_to_rom.text.sentencepieces import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Pieces,
    read_sentencepiece,
    sentencepiece_model,
)

HEAD = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
KINDS = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]


def model_of(words, scores=None, kinds=None):
    words = [*words, *sorted({letter for word in [*words, *"abcd", SPACE] for letter in word} - {*words})]
    scores = dict.fromkeys(words, 0.0) | (scores or {})
    kinds = [(kinds or {}).get(word, NORMAL) for word in words]
    return sentencepiece_model([*HEAD, *words], [0.0] * 259 + [scores[word] for word in words], KINDS + kinds), words


def merged(text, scores):
    """BPE by its definition: of the neighbours whose token has the best score merge the leftmost, until there are none."""
    parts = list(SPACE + text.replace(" ", SPACE))
    while True:
        found = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not found:
            return parts
        i = min(found)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@pytest.mark.parametrize("spread", [1, 2, 5, 1000])
def test_of_equal_merges_the_leftmost_is_first(tmp_path, spread):
    chance = random.Random(spread)
    words = {"".join(chance.choices("abcd" + SPACE, k=chance.randrange(2, 6))) for _ in range(60)}
    words = sorted(word for word in words if not word.endswith(SPACE) or word.strip(SPACE) == "")
    chance.shuffle(words)
    scores = {word: -float(chance.randrange(spread)) for word in words}
    proto, words = model_of(words, scores)
    (tmp_path / "tokenizer.model").write_bytes(proto)
    tokenizer = read_tokenizer(tmp_path)
    scores = dict.fromkeys(words, 0.0) | scores
    for _ in range(300):
        text = "".join(chance.choices("abcd ", k=chance.randrange(1, 14)))
        assert tokenizer.encode(text, bos=False) == [259 + words.index(part) for part in merged(text, scores)], text


def with_config(folder, **config):
    proto, words = model_of([f"{SPACE}a", f"{SPACE}b", "<x>"], kinds={"<x>": USER_DEFINED})
    (folder / "tokenizer.model").write_bytes(proto)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"} | config))
    names = [*HEAD, *words]
    tokenizer = read_tokenizer(folder)
    return lambda text, **options: [names[i] for i in tokenizer.encode(text, **options)]


def test_a_space_before_the_text_and_after_added_tokens(tmp_path):
    old = [f"{SPACE}a", "</s>", f"{SPACE}b"]
    for config in ({}, {"legacy": None}, {"legacy": True}, {"add_prefix_space": True}):
        tokens = with_config(tmp_path, **config)
        assert tokens("a</s>b", bos=False) == old
        assert tokens(" a", bos=False) == [SPACE, f"{SPACE}a"]
        assert tokens("</s>b", bos=False) == ["</s>", f"{SPACE}b"]
    tokens = with_config(tmp_path, legacy=False)
    assert tokens("a</s>b", bos=False) == [f"{SPACE}a", "</s>", "b"]
    assert tokens("a</s> b", bos=False) == [f"{SPACE}a", "</s>", f"{SPACE}b"]
    assert tokens(" a", bos=False) == [f"{SPACE}a"]
    assert tokens("</s>b", bos=False) == ["</s>", "b"]
    for legacy in (True, False):
        tokens = with_config(tmp_path, legacy=legacy, add_prefix_space=False)
        assert tokens("a</s>b a", bos=False) == ["a", "</s>", "b", f"{SPACE}a"]


def test_user_defined_pieces_stand_within_words(tmp_path):
    assert with_config(tmp_path)("a<x>b", bos=False) == [f"{SPACE}a", "<x>", "b"]


def test_what_is_put_around_a_text(tmp_path):
    assert with_config(tmp_path)("a") == ["<s>", f"{SPACE}a"]
    assert with_config(tmp_path, add_bos_token=False)("a") == [f"{SPACE}a"]
    tokens = with_config(tmp_path, add_eos_token=True)
    assert tokens("a") == ["<s>", f"{SPACE}a", "</s>"]
    assert tokens("a", bos=False) == [f"{SPACE}a"]
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.warnings == ["tokenizer: puts '</s>' after every prompt, as its files say"]
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").encode("a") == tokenizer.encode("a")
    assert with_config(tmp_path, bos_token="<x>")("a")[0] == "<x>"


@pytest.mark.parametrize(("name", "value"), [("legacy", "no"), ("add_prefix_space", 1), ("add_eos_token", [])])
def test_a_switch_must_be_true_or_false(tmp_path, name, value):
    with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json: {name} must be true or false, not"):
        with_config(tmp_path, **{name: value})


def test_decoding_is_the_librarys(tmp_path, page):
    proto, _ = model_of([f"{SPACE}a", "ab", SPACE * 2])
    (tmp_path / "tokenizer.model").write_bytes(proto)
    tokenizer = read_sentencepiece(tmp_path / "tokenizer.model")
    source = sentencepiece.SentencePieceProcessor(model_proto=proto)
    for text in (page, "a  ab", " a", "é🐉", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == source.decode(source.encode(text)) == text


def test_a_vocabulary_without_an_unknown_token_and_without_bytes():
    pieces = Pieces(sentencepiece_model([SPACE, "a"], [0.0, 0.0], [NORMAL, NORMAL]))
    assert pieces.encode(["aa"]) == [0, 1, 1]
    with pytest.raises(TokenizerError, match="the text has characters that the vocabulary lacks"):
        pieces.encode(["ab"])
    assert pieces.vocabulary([]).get_vocab_size() == 2


@pytest.mark.parametrize(
    ("tokens", "scores", "kinds", "message"),
    [
        (["a", "b"], [0.0], [1, 1], "2 tokens have 1 scores and 2 types"),
        (["a"], [0.0], [1, 1], "1 tokens have 1 scores and 2 types"),
        (["a", ""], [0.0] * 2, [1, 1], "the token 1 is empty or has a zero in it"),
        (["a\0", "b"], [0.0] * 2, [1, 1], "the token 0 is empty or has a zero in it"),
        (["a", "b"], [0.0, float("nan")], [1, 1], "score is not finite"),
        (["a", "b"], [0.0, float("-inf")], [1, 1], "score is not finite"),
        (["a", "b", "a"], [0.0] * 3, [1] * 3, "the token 'a' occurs twice"),
        (["<0x00>", "b"], [0.0] * 2, [BYTE, 1], "1 of the 256 tokens of bytes"),
    ],
)
def test_lists_that_make_no_model(tokens, scores, kinds, message):
    with pytest.raises(TokenizerError, match=message):
        sentencepiece_model(tokens, scores, kinds)
