"""What ``run`` and ``chat`` take and say: warnings, where an answer ends, text in any encoding."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

import hdl.verilog
from hardwire.compiled import CompiledModel
from tests.support.checkpoints import hugging_face_name, random_weights, write_hugging_face
from tests.support.cli import SHAPE, Hardwire, write_model
from weights_to_rom.text.tokenizer import Tokenizer


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def change(file: Path, **fields: object) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_warning_is_said_when_a_model_is_compiled_and_when_it_runs(hardwire, tmp_path, monkeypatch):
    monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: "")
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    change(model / "config.json", bos_token_id=77)
    said = f"{model}: bos_token_id is 77, but the model has 41 tokens: it is left out"
    result = hardwire("compile", model, "-o", out, "--no-simulation", "--max-context", 16)
    assert result.code == 0 and result.err.count(f"warning: {said}\n") == 1
    assert CompiledModel(out).warnings == [said] and said in CompiledModel(out).report["notes"]
    for command in (("run", model), ("run", out, "--backend", "golden"), ("run", out, "--backend", "float")):
        result = hardwire(*command, "--prompt", "1 2 3", "--tokens", 2, "--json")
        assert result.code == 0 and result.err.count("warning: ") == result.err.count(f"warning: {said}\n") == 1
        assert json.loads(result.out)["prompt_tokens"] == [1, 2, 3]


SPECIAL = ("<begin>", "<|im_start|>", "<|im_end|>", "<text_end>")
TURN_END, TEXT_END = 258, 259
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}:\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant:{{ '\n' }}"
)


def byte_tokenizer(template: str | None, special: bool = True) -> Tokenizer:
    model = tokenizers.Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.add_tokens([AddedToken(token, special=special, normalized=False) for token in SPECIAL])
    return Tokenizer(model, chat_template=template, eos_ids=[TEXT_END], special={"eos_token": "<text_end>"})


def write_script(folder: Path, template: str | None = TEMPLATE, special: bool = True) -> Path:
    """Write a model that answers the end of a line with "hi", the end of its turn, "more", and the end of its text."""
    tokenizer = byte_tokenizer(template, special)
    chain = [*tokenizer.encode("\nhi"), TURN_END, *tokenizer.encode("more"), TEXT_END, *tokenizer.encode("!")]
    config = replace(SHAPE, dim=256, n_layers=1, n_kv_heads=2, vocab_size=260, max_seq_len=128, tied=False)
    weights = random_weights(config)
    weights["embed"] = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), size=(260, 256))
    weights["head"] = np.zeros((260, 256), np.float32)
    for before, after in pairwise(chain):
        weights["head"][after] += weights["embed"][before] / 16
    weights["norm"] = np.ones_like(weights["norm"])
    weights["layers.0.o"] *= 0
    weights["layers.0.down"] *= 0
    tensors = {hugging_face_name(name): value for name, value in weights.items()}
    write_hugging_face(folder, config, tensors=tensors, bos_token_id=None, eos_token_id=TEXT_END)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    return write_script(tmp_path_factory.mktemp("talk") / "model")


def test_a_chat_stops_at_the_end_of_a_turn_and_a_text_at_its_end(hardwire, script, tmp_path, monkeypatch):
    monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: "")
    assert hardwire("compile", script, "-o", tmp_path / "out", "--no-simulation").code == 0
    for model, backend in ((script, "float"), (script, "golden"), (tmp_path / "out", "golden")):
        run = ("run", model, "--backend", backend, "--prompt", "Well?\n", "--tokens", 20, "--json")
        text, chat, on = (json.loads(hardwire(*run, *more).out) for more in ((), ("--chat",), ("--chat", "--ignore-end")))
        assert (text["text"], text["tokens"][-1], text["stopped_by"]) == ("himore", TEXT_END, "end of text")
        assert (chat["text"], chat["tokens"][-1], chat["stopped_by"]) == ("hi", TURN_END, "end of text")
        assert on["text"].startswith("himore!") and on["stopped_by"] == "tokens"
        talk = hardwire("chat", model, "--backend", backend, "--json", "--tokens", 20, stdin="Well?\nWhy?\n")
        answers = [json.loads(line) for line in talk.out.splitlines()]
        assert [(answer["text"], answer["read_again"]) for answer in answers] == [("hi", False)] * 2
        assert "cut off" not in talk.err


def test_the_end_of_a_turn_is_no_part_of_the_answer(hardwire, tmp_path):
    """Also where a file declares it as a token that is text."""
    model = write_script(tmp_path / "model", special=False)
    run = ("run", model, "--backend", "float", "--prompt", "Well?\n", "--tokens", 20, "--json")
    assert json.loads(hardwire(*run, "--chat").out)["text"] == "hi"
    assert json.loads(hardwire(*run).out)["text"] == "hi<|im_end|>more"
    talk = hardwire("chat", model, "--backend", "float", "--json", stdin="Well?\nWhy?\n")
    answers = [json.loads(line) for line in talk.out.splitlines()]
    assert [(answer["text"], answer["read_again"]) for answer in answers] == [("hi", False)] * 2


@pytest.mark.parametrize(
    "failure",
    [
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 12 }}",
        "{% generation %}",
    ],
)
def test_a_template_that_fails_is_one_line(hardwire, tmp_path, failure):
    model = write_script(tmp_path / "model", failure)
    result = hardwire("run", model, "--backend", "float", "--chat", "--prompt", "hi")
    assert result.code == 1 and not result.out
    assert result.err.startswith("error: chat template: ") and result.err.count("\n") == 1


def test_a_chat_goes_on_after_a_template_that_fails(hardwire, tmp_path):
    failure = "{% if messages[-1].content == 'fail' %}{{ 1 / 0 }}{% endif %}"
    model = write_script(tmp_path / "model", failure + TEMPLATE)
    result = hardwire("chat", model, "--backend", "float", "--json", stdin="one\nfail\ntwo\n")
    assert result.code == 0 and "chat template: ZeroDivisionError: division by zero\n" in result.err
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [(answer["prompt"], answer["text"], answer["read_again"]) for answer in answers] == [
        ("one", "hi", False),
        ("two", "hi", False),
    ]


@pytest.mark.parametrize("chat", [(), ("--chat",)])
def test_a_prompt_that_is_not_utf8_is_one_line(hardwire, script, chat):
    result = hardwire("run", script, "--backend", "float", "--prompt", "caf\udce9", *chat)
    assert (result.code, result.out, result.err) == (1, "", "error: the text is not UTF-8 (byte 3): write it in UTF-8\n")


def test_a_chat_goes_on_after_text_that_is_not_utf8(hardwire, script, tmp_path):
    result = hardwire("chat", script, "--backend", "float", "--json", stdin="one\ncaf\udce9\ntwo\n/save a\0b\n/save \udce9/x\n")
    assert result.code == 0 and "the text is not UTF-8 (byte 3): write it in UTF-8\n" in result.err
    assert [json.loads(line)["prompt"] for line in result.out.splitlines()] == ["one", "two"]
    assert result.err.count("not saved: ") == 2 and "Traceback" not in result.err
    system = hardwire("chat", script, "--backend", "float", "--system", "\udcff", stdin="one\n")
    assert (system.code, system.out) == (1, "") and system.err == "error: the text is not UTF-8 (byte 0): write it in UTF-8\n"


@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}],
)
def test_any_bytes_in_any_locale(script, locale):
    """A process of its own: arguments and stdin are bytes, and stdout shows what it can."""
    command = [sys.executable, "-c", "from hardwire.cli.main import main; main()"]
    told = {"capture_output": True, "env": os.environ | locale}
    run = [*command, "run", script, "--backend", "float", "--tokens", "9"]
    good, bad = (subprocess.run([*run, "--prompt", prompt], **told) for prompt in ("é\n".encode(), b"caf\xe9"))
    expected = "é" if locale["PYTHONUTF8"] == "1" else "\\xe9"
    assert good.returncode == 0 and good.stdout.decode().split() == [expected, "himore"]
    assert (bad.returncode, bad.stdout) == (1, b"") and bad.stderr == b"error: the text is not UTF-8 (byte 3): write it in UTF-8\n"
    chat = [*command, "chat", script, "--backend", "float", "--json"]
    result = subprocess.run(chat, input="é\n".encode() + b"hi \xff\nlast\n", **told)
    assert result.returncode == 0 and b"the text is not UTF-8 (byte 3)" in result.stderr and b"Traceback" not in result.stderr
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["é", "last"]


def test_a_calibration_text_that_is_not_utf8_is_one_line(hardwire, script, tmp_path):
    (tmp_path / "text").write_bytes(b"caf\xe9")
    for command in (
        ("perplexity", script, "--text", tmp_path / "text"),
        ("compile", script, "-o", tmp_path / "out", "--gptq", tmp_path / "text"),
    ):
        result = hardwire(*command)
        assert result.code == 1 and result.err.splitlines()[-1] == f"error: {tmp_path}/text: is not UTF-8 text (byte 3)"
    assert not (tmp_path / "out").exists()
