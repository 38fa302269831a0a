"""A tokenizer that is guessed says so, wherever the model is used."""

from dataclasses import replace

import pytest

import hdl.verilog
from tests.support.checkpoints import write_gguf
from tests.support.cli import SHAPE, Hardwire

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab"]


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def test_a_missing_pre_tokenizer_is_a_warning_at_compile_and_run(hardwire, tmp_path, monkeypatch):
    monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: "")
    model, out = tmp_path / "model.gguf", tmp_path / "out"

    def fields(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(TOKENS)
        writer.add_token_types([2, 3, 3, 1, 1, 1])
        writer.add_token_merges(["a b"])

    write_gguf(model, replace(SHAPE, vocab_size=len(TOKENS)), fields=fields)
    says = "tokenizer: model.gguf does not say how words are split (tokenizer.ggml.pre), which is guessed"
    for command in (
        ("compile", model, "-o", out, "--no-simulation", "--max-context", 16),
        ("run", model, "--backend", "float", "--prompt", "ab", "--tokens", 1),
        ("run", out, "--backend", "golden", "--prompt", "ab", "--tokens", 1),
    ):
        result = hardwire(*command)
        assert result.code == 0, result.err
        lines = [line for line in result.err.splitlines() if line.startswith("warning: ") and says in line]
        assert lines == [f"warning: {model}: {says}"]
