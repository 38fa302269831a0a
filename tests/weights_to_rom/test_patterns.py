"""Regular expressions of files: equal to ``re``, and stopped when they do not end."""

import re
import time

import pytest

from weights_to_rom import patterns
from weights_to_rom.errors import HardwireError
from weights_to_rom.patterns import matches

TEXTS = ["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "lm_head"]


class OwnError(HardwireError):
    pass


def test_equals_re():
    questions = [
        ("fullmatch", r".*\.(q|v)_proj"),
        ("match", r"(?:^|.*?\.)layers\.(\d+)\."),
        ("match", r"(?!.*mlp)model"),
        ("fullmatch", r"(?i)LM_HEAD"),
        ("match", "nothing|(model)"),
    ]
    found = matches([*questions, questions[0]], TEXTS, "f", OwnError)
    assert list(found) == questions
    for (method, pattern), answer in found.items():
        tries = {text: getattr(re, method)(pattern, text) for text in TEXTS}
        assert answer == {text: one.groups() for text, one in tries.items() if one}


def test_no_question_needs_no_process():
    assert matches([], TEXTS, "f", OwnError) == {}


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?<x>a)", r"\p{L}", "(?:" * 5000 + ")" * 5000, "a{99999999999999999999}"])
def test_other_languages_are_refused(pattern):
    with pytest.raises(OwnError, match=r"f: .* is no regular expression: "):
        matches([("match", pattern)], TEXTS, "f", OwnError)


@pytest.mark.parametrize("pattern", ["(.*)*" * 9 + "x", "(m|mo|o|d|de|e|l|.)+!", "(.+)+(.+)+(.+)+!"])
def test_a_match_that_does_not_end_is_stopped(pattern, monkeypatch):
    monkeypatch.setattr(patterns, "MATCH_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(OwnError, match=r"f: the pattern .*, or one of 1 others, cannot be matched in 0.5 seconds"):
        matches([("fullmatch", pattern), ("match", "lm")], [text * 9 for text in TEXTS], "f", OwnError)
    assert time.monotonic() - start < 5


def test_long_patterns_are_refused():
    with pytest.raises(OwnError, match=r"f: its patterns have 200000 characters, more than 100000"):
        matches([("match", "a" * 100_000), ("match", "b" * 100_000)], TEXTS, "f", OwnError)


def test_patterns_that_take_much_memory():
    """40,000 groups in each of 2,000 answers."""
    with pytest.raises(OwnError, match=r"f: the pattern '\(\)\(\).* cannot be matched: MemoryError"):
        matches([("match", "()" * 40_000)], [f"a{i}" for i in range(2000)], "f", OwnError)
