"""The output of a step on a terminal, and without a terminal."""

import os
import time

from hardwire.cli import console


def test_progress_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "PATIENCE", 0.01)
    with console.step("count") as running:
        for i in range(4):
            time.sleep(0.02)
            running.update("sheep", i, 4)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:2] == ["count ... 0 % sheep", "count ... 25 % sheep"]
    assert err.splitlines()[-1].startswith("count: 0.")
    assert os.linesep not in err.splitlines()[0]


def test_a_warning_is_printed_once(capsys):
    warn = console.Warnings()
    for line in ("[one]", "two", "[one]"):
        warn(line)
    assert capsys.readouterr() == ("", "warning: [one]\nwarning: two\n")
