"""Every command has --json, and prints the names that docs/reference/json.md describes and no others."""

import json

import pytest
import typer.core
import typer.main

from hardwire.cli.main import app
from hardwire.cli.vocabulary import COMMANDS, MEANINGS, paths, unknown
from tests.support.cli import Hardwire
from tests.support.modules import ROOT


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def commands(command: typer.core.TyperCommand, name: str = "") -> list[tuple[str, typer.core.TyperCommand]]:
    below = getattr(command, "commands", None)
    if below is None:
        return [(name, command)]
    return [found for word, of in below.items() for found in commands(of, f"{name} {word}".strip())]


def test_every_command_has_json_and_is_described():
    found = dict(commands(typer.main.get_command(app)))
    assert set(found) == set(COMMANDS)
    for name, command in found.items():
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_every_name_has_a_meaning():
    words = {word for command in COMMANDS for path in paths(command) for word in path.split(".")}
    leaves = {[word for word in path.split(".") if word != "*"][-1] for command in COMMANDS for path in paths(command)}
    assert leaves <= set(MEANINGS) <= words


@pytest.mark.parametrize(
    "arguments", ["models", "boards", "explain stories-tiny", "perplexity stories-tiny --text {text} --tokens 4"]
)
def test_a_command_prints_what_is_described(hardwire, tmp_path, arguments):
    """``Hardwire`` compares the names.  Tests of the other commands call them with --json, too."""
    (tmp_path / "text").write_text("Once upon a time")
    result = hardwire(*arguments.format(text=tmp_path / "text").split(), "--json")
    assert result.code == 0 and len(json.loads(result.out)) > 1, result.err


def test_a_new_name_is_noticed():
    assert unknown("run", {"schema": 1, "ids": [1], "check": {"first_difference": {"what": 1}, "n_logit": 3}}) == [
        "ids",
        "check.n_logit",
    ]
    assert unknown("fpga verify", {"memories": [{"name": "a", "words": 1}, {"size": 2}], "logic": []}) == ["memories.size"]
    assert unknown("compile", {"measured": {"prefill": {"1": 5}, "decode": {"1": {"cycles": 5, "idle": 1}}}}) == [
        "measured.decode.1.idle"
    ]


@pytest.mark.parametrize("board", ["ulx3s-85f", "icesugar-pro", "icebreaker"])
def test_reports_of_builds_have_the_same_names(board):
    report = json.loads((ROOT / f"docs/reports/{board}.json").read_text())
    assert not unknown("fpga build", report)
