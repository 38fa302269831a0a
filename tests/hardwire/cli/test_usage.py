"""Wrong commands: the name that was meant is said, and no error is empty."""

import pytest
import typer

from hardwire.cli.usage import error_line
from hardwire.compiled import CompiledError, CompiledModel
from tests.support.cli import Hardwire, write_model
from weights_to_rom.errors import HardwireError
from weights_to_rom.readers import known_models


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "code", "meant"),
    [
        ("run stories-260 --prompt x", 1, "stories-260k"),
        ("run Stories_Tiny --prompt x", 1, "stories-tiny"),
        ("explain smolm2-135m", 1, "smollm2-135m"),
        ("fpga build stories-tiny --board icebraker", 1, "icebreaker"),
        ("fpga build stories-tiny --board ULX3S", 1, "ulx3s-85f"),
        ("run stories-tiny --promt x", 2, "--prompt"),
        ("compile stories-tiny -o x --row-lane 2", 2, "--row-lanes"),
        ("run stories-tiny --backend goldn", 2, "golden"),
        ("compile stories-tiny -o x --multiplier plane", 2, "plain"),
        ("perplexity stories-tiny --text x --backend flaot", 2, "float"),
    ],
)
def test_the_name_that_was_meant_is_said(hardwire, arguments, code, meant):
    result = hardwire(*arguments.split())
    assert result.code == code and result.err.startswith("error: ") and result.err.count("\n") == 1
    assert f": did you mean {meant}?" in result.err


def test_a_name_that_is_like_no_other_lists_all(hardwire):
    assert "and no known model: stories-tiny, stories-260k, smollm2-135m\n" in hardwire("run", "qqqq").err
    assert "no board is called qqqq: there are ulx3s-85f, icesugar-pro" in hardwire("fpga", "build", "x", "--board", "qqqq").err


def test_a_path_that_was_meant_is_said(hardwire, tmp_path):
    write_model(tmp_path / "stories-mine")
    (tmp_path / "stories-none").mkdir()
    assert f": did you mean {tmp_path / 'stories-mine'}?" in hardwire("run", tmp_path / "stories-nine").err
    (tmp_path / "out").mkdir()
    (tmp_path / "out/chip.json").write_text("{}")
    with pytest.raises(CompiledError, match=f"no compiled model: did you mean {tmp_path / 'out'}"):
        CompiledModel(tmp_path / "ou")
    with pytest.raises(CompiledError, match=r"no compiled model \(make one with"):
        CompiledModel(tmp_path / "elsewhere")


@pytest.mark.parametrize("arguments", ["", "lora", "fpga"])
def test_a_command_without_arguments_shows_its_help_alone(hardwire, arguments):
    result = hardwire(*arguments.split())
    assert result.code == 2 and "Usage: hardwire" in result.out and not result.err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HardwireError(), "error: HardwireError"),
        (HardwireError("  "), "error: HardwireError"),
        (OSError(), "error: OSError"),
        (OSError(None, None, "x"), "error: x: OSError"),
        (FileNotFoundError(2, "No such file", "x"), "error: x: No such file"),
        (MemoryError(), "error: MemoryError"),
    ],
)
def test_no_error_is_empty(error, line):
    assert error_line(error) == line


@pytest.mark.parametrize("error", [EOFError, typer.Abort, KeyboardInterrupt])
def test_the_end_of_the_input_ends_a_command(hardwire, monkeypatch, error):
    def asks() -> list:
        raise error

    monkeypatch.setattr(known_models, "known_models", asks)
    result = hardwire("models")
    assert result.code == 130 and result.err.split() == ["interrupted"]


def test_rtl_is_not_offered_where_no_chip_runs(hardwire):
    text = hardwire("perplexity", "--help").out
    assert "golden|float" in text.replace(" ", "") and "rtl|" not in text
    assert "rtl|golden|float" in hardwire("run", "--help").out.replace(" ", "")
