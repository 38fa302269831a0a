"""A tool runs in its own process: its progress, its failure in one line, its end, and the keys of its results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synth.run import BuildError, key_of, progress_of, run_tool, tool_versions


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("12.43.15.5. Executing ABC9.", "pass ABC9"),
        ("Info:     at iteration #6, type ALL: wirelen solved = 349419, spread = 1", "placing: iteration 6, wires 349,419"),
        ("Info:   at iteration #5: temp = 0.001, timing cost = 9, wirelen = 12345", "refining: iteration 5, wires 12,345"),
        ("Info:       1000 |       12        988 |   12   988 |      4321|", "routing: 4,321 arcs left"),
        ("Info: Packing constants..", "packing constants"),
        ("something else", ""),
    ],
)
def test_progress_is_read_from_a_log(line, told):
    assert progress_of(line) == told
    assert progress_of(f"1. Executing ABC\n{line}\nand more\n") == (told or "pass ABC")


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Return a function that runs the body of a tool."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(body: str, *arguments: str, progress=lambda line: None):
        (tmp_path / "hammer.py").write_text(f"import time\n\n\ndef strike(arguments):\n    {body}\n")
        run_tool("hammer", "strike", arguments, tmp_path, "hammer.log", progress)
        return (tmp_path / "hammer.log").read_text()

    return run


def test_arguments_and_log(tool):
    assert tool("print(arguments)", "-p", "a b") == "['-p', 'a b']\n"


def test_progress_is_reported(tool):
    lines = []
    tool("print('1. Executing ABC', flush=True); time.sleep(0.8)", progress=lines.append)
    assert "pass ABC" in lines


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('a.v:3: ERROR: no module'); print('bye'); return 1", r"a\.v:3: ERROR: no module"),
        ("print('first'); print('last'); return 2", "last"),
        ("return 1", "no message"),
    ],
)
def test_a_failure_is_one_line(tool, body, reason):
    with pytest.raises(BuildError, match=rf"^hammer: {reason} \(see .*hammer\.log\)$"):
        tool(body)


def test_keys():
    assert key_of("a", b"b", 1) == key_of("a", "b", "1") and len(key_of()) == 24
    assert len({key_of("ab"), key_of("a", "b"), key_of("", "ab"), key_of("b", "a")}) == 4


def test_versions():
    assert tool_versions(["pytest"]) == {"pytest": pytest.__version__}


def test_a_tool_ends_with_the_command_that_started_it(tmp_path):
    (tmp_path / "sleeper.py").write_text(
        "import os, time\n\n\ndef run(arguments):\n    print(os.getpid(), flush=True)\n    time.sleep(100)\n"
    )
    (tmp_path / "command.py").write_text(
        "import signal, sys\nfrom pathlib import Path\n\nfrom synth.run import run_tool\n\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "run_tool('sleeper', 'run', [], Path(), 'sleeper.log', lambda line: None)\n"
    )
    root = str(Path.cwd())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    command = subprocess.Popen([sys.executable, "command.py"], cwd=tmp_path, env=environment)
    try:
        log = tmp_path / "sleeper.log"
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().endswith("\n")):
            assert time.monotonic() < deadline and command.poll() is None
            time.sleep(0.05)
        command.send_signal(signal.SIGTERM)
        assert command.wait(30) == 143
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text()), 0)
    finally:
        command.kill()
