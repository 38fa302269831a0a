"""Ctrl-C and SIGTERM: a command ends always, quietly, and with its tools."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardwire.cli.signals import ending

pytestmark = pytest.mark.usefixtures("interruptible")


class Interrupted:
    """Its destructor is interrupted, and Python discards the exception."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.parametrize("times", [1, 3])
def test_an_exception_that_is_discarded_is_raised_again(number, error, times):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)], sys.unraisablehook
    with ending() as told:
        with pytest.raises(error):
            for _ in range(times):
                Interrupted(number)
            for _ in range(500):
                time.sleep(0.01)
        assert told.status == 128 + number
    assert before == ([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)], sys.unraisablehook)


def test_other_exceptions_in_destructors_are_shown(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))

    class Broken:
        def __del__(self):
            raise ZeroDivisionError

    with ending() as told:
        Broken()
    assert seen == [ZeroDivisionError] and told.status == 0


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending() as told:
            signal.raise_signal(signal.SIGINT)
        assert told.status == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_tools_end_with_the_command():
    with ending():
        tool = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
        assert tool.stdout is not None
        below = int(tool.stdout.readline())
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert tool.wait(10) == -signal.SIGKILL
    tool.stdout.close()
    deadline = time.monotonic() + 10
    while (stat := Path(f"/proc/{below}/stat")).exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_interrupted_at_any_instant(tmp_path, share):
    """A compilation ends at once, with one word at most, and leaves nothing."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hardwire", "compile", "stories-tiny", "-o", out, "--no-simulation"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
        # A shell's background job ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(share * 5 + random.random() / 10)
    process.send_signal(signal.SIGINT)
    said, remarks = process.communicate(timeout=30)
    if process.returncode:  # else it was done before
        assert process.returncode in (130, -signal.SIGINT)
        assert said == "" and "Traceback" not in remarks and "ignored" not in remarks and "never used" not in remarks
        assert [*tmp_path.iterdir()] == []
