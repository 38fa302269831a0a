"""Tables: nothing in them is shortened, wherever they are printed."""

import pytest
from rich.console import Console

from fpga.boards import BOARDS
from hardwire.cli import show
from tests.support.cli import Hardwire


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def on_terminal(monkeypatch, width: int) -> None:
    monkeypatch.setattr(show, "Console", lambda **options: Console(force_terminal=True, color_system=None, width=width, **options))


@pytest.mark.parametrize("columns", ["20", "80", "300"])
def test_boards_through_a_pipe_are_plain(hardwire, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    heading, *rows = hardwire("boards").out.splitlines()
    assert heading.split() == ["board", "device", "LUTs", "block", "RAMs", "DSPs", "largest", "model", "measured", "build"]
    assert [row.split()[0] for row in rows] == list(BOARDS)
    assert rows[0].split("  ")[-1].strip() == "stories-260k, 19,706 tokens/s"
    assert not any("\x1b" in row or "…" in row or row != row.rstrip() for row in rows)


@pytest.mark.parametrize("width", [30, 80, 200])
def test_boards_on_a_terminal_keep_their_names(hardwire, monkeypatch, width):
    on_terminal(monkeypatch, width)
    out = hardwire("boards").out
    assert all(f" {name} " in out for name in BOARDS) and "…" not in out
    assert len([line for line in out.splitlines() if line.strip()]) == 1 + len(BOARDS)


def test_models_on_a_narrow_terminal_break_texts_and_no_names(hardwire, monkeypatch):
    on_terminal(monkeypatch, 76)
    out = hardwire("models").out
    assert all(len(line) <= 76 for line in out.splitlines())
    assert all(f" {name} " in out for name in ("stories-tiny", "stories-260k", "smollm2-135m")) and "…" not in out
