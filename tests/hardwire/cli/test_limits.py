"""Every number of every command: huge, zero and negative ones end at once, in a result or in one line."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from hardwire.cli.main import app
from hardwire.compiler import compile_model
from hardwire.source import Source
from tests.support.cli import Hardwire, write_model

HUGE = 10**30
ARGUMENTS = {
    "compile": "{model} -o {folder}/x --no-simulation",
    "run": "{out} --backend golden --prompt 7",
    "chat": "{out} --backend golden",
    "verify": "{model}",
    "explain": "{model}",
    "trace": "{out} --unit nowhere",
    "perplexity": "{model} --text {folder}/text",
    "lora pack": "{out} {model}",
    "lora cost": "{out}",
    "fpga build": "{model} --board ulx3s-85f --estimate --row-lanes 1 --block-lanes 8 --attention-heads 1",
}
"""The words of a command that has numbers as options.  They are such that nothing is simulated."""


def no_verilog(model, config) -> str:
    """Stand for the Verilog, whose generation takes seconds."""
    return "module chip; endmodule"


def numbers() -> list[tuple[str, str]]:
    """Every option of a command that takes a number."""
    found = []

    def walk(command, path: str) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{path} {name}".strip())
        for option in command.params:
            if (
                option.name
                and option.opts[0].startswith("--")
                and re.search(r"\b(int|float)\b", str(option.type_descriptor.annotation))
            ):
                found.append((path, option.opts[0]))

    walk(typer.main.get_command(app), "")
    return found


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model, the same model compiled without its simulation, and a text."""
    folder = tmp_path_factory.mktemp("limits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hdl.verilog.chip_verilog", no_verilog)
        compile_model(Source.open(str(write_model(folder / "model"))), folder / "out", simulation=False)
    (folder / "text").write_text("Once upon a time")
    return folder


def test_every_command_with_numbers_is_here():
    assert {command for command, _ in numbers()} == set(ARGUMENTS)
    assert len(numbers()) > 40


@pytest.mark.parametrize("value", [HUGE, -HUGE, 0, -1, "nan", "inf", "1e400", "x"])
def test_every_number_is_answered_at_once(hardwire, folder, value, monkeypatch):
    monkeypatch.setattr("hdl.verilog.chip_verilog", no_verilog)
    monkeypatch.chdir(folder)
    for command, option in numbers():
        words = ARGUMENTS[command].format(folder=folder, model=folder / "model", out=folder / "out").split()
        required = ["--token", "1"] if command == "trace" and option != "--token" else []
        start = time.monotonic()
        result = hardwire(*command.split(), *words, *required, f"{option}={value}", stdin="7 9\n")
        assert time.monotonic() - start < 5, (command, option)
        assert "Traceback" not in result.err
        if result.code:
            assert result.err.startswith("error: ") and result.err.count("\n") == 1, (command, option, result.err)
            assert len(result.err) > 20


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("compile stories-260k -o {out} --row-lanes 1000000", "row_lanes must be at most 512, the rows of the largest matrix"),
        ("compile stories-260k -o {out} --n-sequences 65536", "n_sequences must be at most 256, not 65536"),
        ("compile stories-260k -o {out} --max-context 0", "max_context must be a positive integer, not 0"),
        ("compile stories-260k -o {out} --row-lanes 7", "row_lanes 4 or 8 would do"),
        ("fpga build stories-260k -o {out} --board ulx3s-85f --clock 500", "leave --clock out, or give --clock 75"),
    ],
)
def test_bounds_are_named_at_once(tmp_path, arguments, complaint):
    """In a process of its own, which may take 1 GiB: nothing is made before the bounds are checked."""
    program = (
        "import resource, time; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)); "
        "from hardwire.cli.main import main; main()"
    )
    words = arguments.format(out=tmp_path / "out").split()
    ran = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 1 and complaint in ran.stderr and ran.stderr.count("\n") == 1
    assert [*tmp_path.iterdir()] == []
