"""The bundled adapter and a sliding window of stories-260k, from the command line to the simulated chip."""

import json
from pathlib import Path

import pytest

from hardwire.target import Target
from tests.support.cli import Hardwire
from weights_to_rom.adapters.peft import MODULES

pytestmark = pytest.mark.xdist_group("adapters")  # one worker, so that the chip is built once

PIRATES = Path("models/stories-260k-pirates")
PROMPT = "Once upon a time"


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    from hardwire.compiler import compile_model
    from hardwire.source import Source

    out = tmp_path_factory.mktemp("adapters") / "out"
    compile_model(
        Source.open("stories-260k"), out, row_lanes=1, max_context=48, n_sinks=4, n_sequences=2, lora_rank=8, simulation=False
    )
    return out


def run(hardwire, *arguments: object) -> dict:
    code, text, complaint = hardwire("run", *arguments, "--json")
    assert code == 0, complaint
    return json.loads(text)


def test_chip_and_golden_tell_the_same_story_with_and_without(hardwire, out):
    """200 tokens through a window of 48, every logit of the chip compared with golden's."""
    told = {}
    for adapter in ((), ("--adapter", PIRATES)):
        figures = run(hardwire, out, "--prompt", PROMPT, "--tokens", 200, "--ignore-end", "--check", *adapter)
        check = figures["check"]
        assert check["first_difference"] is None and check["n_identical_tokens"] == check["n_tokens"] == 200
        assert check["n_identical_logits"] == check["n_logits"] == 200 * 512
        told[bool(adapter)] = figures["text"]
    pirates = ("pirate", "captain", "Jacky", "coins")
    assert any(word in told[True] for word in pirates) and not any(word in told[False] for word in pirates)


def test_float_tells_of_pirates_too(hardwire, out):
    floats = run(hardwire, out, "--prompt", PROMPT, "--tokens", 30, "--backend", "float", "--adapter", PIRATES)
    golden = run(hardwire, out, "--prompt", PROMPT, "--tokens", 30, "--backend", "golden", "--adapter", PIRATES)
    both = zip(floats["tokens"], golden["tokens"], strict=True)
    assert sum(a == b for a, b in both) > 10 and "pirate" in floats["text"]


def test_float_and_golden_slide_alike(out):
    """Rounding makes golden differ from float; the error far beyond the window is less than twice that within it."""
    subject = Target(str(out))
    tokens = [0, *(i * 7 % 500 for i in range(150))]
    errors = []
    sessions = subject.session("float"), subject.session("golden")
    for token in tokens:
        a, b = (session.step(token).logits for session in sessions)
        errors.append(float(abs(a - b / 4096).max()))
    assert max(errors[100:]) < 2 * max(errors[:48])


def test_cost(hardwire, out):
    code, text, complaint = hardwire("lora", "cost", out, "--context", 32, "--json")
    assert code == 0, complaint
    figures = json.loads(text)
    assert figures["switching_cycles"] == 0
    assert 0 <= figures["more"]["q_v"] <= 0.05 and 0 <= figures["more"]["all"] <= 0.15
    assert figures["cycles"]["none"] > 9000


def test_sram_is_in_the_report(out):
    derived = json.loads((out / "report.json").read_text())["derived"]
    # k and v, 2 sequences, 5 layers, 4 heads, 48 places of 8 mantissas and an exponent.
    assert derived["kv_sram_bits"] == 2 * 2 * 5 * 4 * 48 * (8 + 1) * 8
    # 2 adapters, 5 layers; A: 7 projections of 8 rows; B: (128 + 64 + 384 + 64) rows of 8; 32 mantissas and 4 exponents.
    a = 8 * (3 * 2 + 2 + 2 * 2 + 6)
    assert len(MODULES) == 7 and derived["lora_sram_bits"] == 2 * 5 * (a + 640 * 8 // 32) * 36 * 8


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--adapter", "tests"), "tests: "),
        (("--adapter", "nowhere"), "nowhere: "),
    ],
)
def test_bad_adapters_are_one_line(hardwire, out, arguments, complaint):
    code, text, err = hardwire("run", out, "--prompt", PROMPT, *arguments)
    assert code == 1 and not text and complaint in err and "Traceback" not in err


def test_a_chip_without_an_adder_says_how_to_get_one(hardwire, tmp_path):
    code, text, err = hardwire("run", "stories-tiny", "--prompt", "a", "--adapter", PIRATES)
    assert code == 1 and not text and "stories-260k-pirates" in err.replace("\n", "")
