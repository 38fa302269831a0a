"""The tokens of 5,000 texts with every kind of tokenizer, as transformers, sentencepiece and llama.cpp make them.

``tests/data/generators/tokens.py`` has asked them, and recorded the answers.
"""

from itertools import accumulate, pairwise

import numpy as np
import pytest

from tests.support.tokens import BASE, CASES, digest, digests, texts, tokenizer_of
from weights_to_rom.text.open import read_tokenizer


@pytest.fixture(scope="module")
def expected():
    with np.load(BASE / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def lines(expected):
    lines = texts()
    assert digest(lines) == expected["texts"], "the texts have changed: make tokens-truth, and record again"
    return lines


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_of_all_texts(tmp_path, expected, lines, name):
    CASES[name](tmp_path)
    tokenizer = tokenizer_of(tmp_path)
    ids = [tokenizer.encode(line) for line in lines]
    # These are recorded in full, so that a difference can be read.
    ends = list(accumulate(expected[f"{name}/lengths"].tolist(), initial=0))
    whole = [expected[f"{name}/ids"][begin:end].tolist() for begin, end in pairwise(ends)]
    assert [(line, found) for line, found in zip(lines, ids, strict=False)][: len(whole)] == list(zip(lines, whole, strict=False))
    assert digests(ids) == [entry.tobytes().hex() for entry in expected[f"{name}/digests"]]
    # A compiled model keeps the tokenizer in files of its own.
    tokenizer.save(tmp_path / "saved")
    saved = read_tokenizer(tmp_path / "saved")
    assert [saved.encode(line) for line in lines[: len(whole)]] == whole


def test_every_case_is_recorded(expected):
    assert {key.partition("/")[0] for key in expected} == {*CASES, "texts", "versions"}
