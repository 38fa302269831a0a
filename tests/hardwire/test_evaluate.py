"""``hardwire perplexity``: a model on a text, alone and against the same model in floating point."""

import json

import numpy as np
import pytest

from hardwire.target import Target
from tests.support.cli import Hardwire

TEXT = "Once upon a time, there was a little girl named Lily. She loved to play with her ball in the park."


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text"
    file.write_text(TEXT)
    return file


def test_golden_against_float(hardwire, text):
    target = Target("stories-tiny")
    tokens = target.tokenizer.encode(TEXT)[:41]
    p, q = (target.logits(backend)(tokens[:-1]).astype(np.float64) for backend in ("float", "golden"))
    ln_p, ln_q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (p, q))
    at = np.arange(40), tokens[1:]
    figures = json.loads(hardwire("perplexity", "stories-tiny", "--text", text, "--tokens", 40, "--against", "float", "--json").out)
    assert (figures["backend"], figures["against"], figures["n_tokens"]) == ("golden", "float", 40)
    assert figures["perplexity"] == round(float(np.exp(-ln_q[at].mean())), 4)
    assert figures["against_perplexity"] == round(float(np.exp(-ln_p[at].mean())), 4)
    assert figures["kl_divergence"] == round(float((np.exp(ln_p) * (ln_p - ln_q)).sum() / 40), 6) > 0
    assert figures["same_first_choice"] == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    lines = hardwire("perplexity", "stories-tiny", "--text", text, "--tokens", 40, "--against", "float").out.splitlines()
    assert lines[1:] == [
        f"perplexity {figures['against_perplexity']} in float",
        f"KL divergence from float: {figures['kl_divergence']} nats a token",
        f"the same first choice as float: {figures['same_first_choice']:.2%} of the tokens",
    ]


def test_float_against_golden_is_the_other_divergence(hardwire, text):
    both = [
        json.loads(hardwire("perplexity", "stories-tiny", "--text", text, "--backend", a, "--against", b, "--json").out)
        for a, b in (("golden", "float"), ("float", "golden"))
    ]
    assert both[0]["perplexity"] == both[1]["against_perplexity"] and both[1]["perplexity"] == both[0]["against_perplexity"]
    assert both[0]["same_first_choice"] == both[1]["same_first_choice"]
    assert both[0]["kl_divergence"] != both[1]["kl_divergence"]


@pytest.mark.parametrize(
    ("against", "words"),
    [("golden", "--against: must be another backend than golden"), ("rtl", "'rtl' is not one of 'golden', 'float'")],
)
def test_nothing_to_compare_with(hardwire, text, against, words):
    result = hardwire("perplexity", "stories-tiny", "--text", text, "--against", against)
    assert result.code == 2 and result.err.count("\n") == 1
    assert words in result.err
