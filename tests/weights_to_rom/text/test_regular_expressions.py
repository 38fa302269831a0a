"""Patterns of tokenizers: published ones pass, and those that can take exponential time are refused."""

import json

import pytest
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.open import read_tokenizer
from weights_to_rom.text.regular_expressions import endless_pattern, may_explode

PUBLISHED = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|\s+",
    r"(?<=\d)(?=(?:\d{3})+(?!\d))",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
    r"\A +| +\z",
    r"(?:a|b)+",
    r"(ab){2}(c?)",
    r"[(a+)+]",
    r"\(a+\)+",
    r"(?<name>abc)+",
]
ENDLESS = [
    r"(a+)+$",
    r"(.*)*x",
    r"(?:\w+\s?)*!",
    r"((ab?)c)+",
    r"([^\]]+)*",
    r"(a{1,9}){2,}",
    r"((x){1,}y)*",
    r"(a?){1,500}b",
    r"(?:(a+))+",
]


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_pass(pattern):
    Regex(pattern)
    assert not may_explode(pattern)


@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_that_explode(pattern):
    Regex(pattern)
    assert may_explode(pattern)


@pytest.mark.parametrize(
    "place",
    [
        {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Split(Regex("(a+)+$"), "isolated")])},
        {"normalizer": normalizers.Sequence([normalizers.Replace(Regex("(a+)+$"), "x")])},
        {"decoder": decoders.Sequence([decoders.Replace(Regex("(a+)+$"), "x")])},
    ],
)
def test_a_tokenizer_with_one_is_refused(tmp_path, place):
    model = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    path = tmp_path / "tokenizer.json"
    path.write_text(model.to_str())
    assert endless_pattern(model) is None and read_tokenizer(path).vocab_size == 3
    for name, part in place.items():
        setattr(model, name, part)
    path.write_text(model.to_str())
    assert endless_pattern(model) == "(a+)+$"
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: its pattern '\(a\+\)\+\$' may take exponential time"):
        read_tokenizer(path)
    assert json.loads(path.read_text())["model"]["vocab"]
