"""What ``run`` and ``chat`` take and say: warnings, where an answer ends, text in any encoding."""

import json
from pathlib import Path

import pytest

import hdl.verilog
from hardwire.compiled import CompiledModel
from tests.support.cli import Hardwire, write_model


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
        assert json.loads(result.out)["prompt_ids"] == [1, 2, 3]
