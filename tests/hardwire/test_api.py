"""``import hardwire``: the functions and classes that a notebook or a server uses."""

import builtins
import json
import subprocess
import sys
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import hardwire
from tests.support.cli import write_model

LANES = {"row_lanes": 2, "block_lanes": 8}


@pytest.fixture(scope="module")
def chip(tmp_path_factory) -> hardwire.Chip:
    """A random model, compiled without its simulation."""
    folder = tmp_path_factory.mktemp("api")
    return hardwire.compile(write_model(folder / "model"), folder / "out", simulation=False, **LANES)


def imported_by(code: str, *names: str) -> list[str]:
    """Return which of these packages a program imports."""
    program = f"import sys\n{code}\nprint(*sorted({set(names)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_import_is_quick():
    assert imported_by("import hardwire", "numpy", "amaranth", "rich", "typer", "hdl", "sim") == []


def test_a_board_needs_no_amaranth(chip):
    """A program opens a compiled model, and looks for its board at a port that does not exist."""
    heavy = ("amaranth", "hdl.chip", "rich", "sim.rtl.verilator")
    assert imported_by("import fpga.link.host", *heavy) == []
    program = f"""
import hardwire
try:
    hardwire.open({str(chip.folder)!r}).session(port="/nowhere")
except hardwire.HardwireError as error:
    assert "/nowhere: No such file or directory" in str(error)
else:
    raise AssertionError("a board at no port")
"""
    assert imported_by(program, *heavy) == []


def test_every_name_is_there():
    for name in hardwire.__all__:
        assert hasattr(hardwire, name) and name in dir(hardwire)
    with pytest.raises(AttributeError, match="module 'hardwire' has no attribute 'melt'"):
        hardwire.melt  # noqa: B018
    assert hardwire.open is not builtins.open and callable(hardwire.compile)


def without_docstring(name: str, thing: Any) -> list[str]:
    """Names of a function, or of a class and its public methods and properties, that have no docstring of their own.

    A dataclass without a docstring gets its signature as one, and a class inherits none in ``vars``.
    """
    if not isinstance(thing, type):
        return [] if thing.__doc__ else [name]
    text = vars(thing).get("__doc__") or ""
    members = {
        f"{name}.{member}": getattr(value, "__func__", value)
        for member, value in vars(thing).items()
        if not member.startswith("_") and isinstance(value, (FunctionType, classmethod, staticmethod, property, cached_property))
    }
    bare = [member for member, value in members.items() if not value.__doc__]
    return bare if text and not text.startswith(f"{thing.__name__}(") else [name, *bare]


@pytest.mark.parametrize("name", hardwire.__all__)
def test_every_public_name_has_a_docstring(name):
    assert without_docstring(name, getattr(hardwire, name)) == []


def test_a_name_without_a_docstring_is_found():
    @dataclass
    class Bare:
        size: int

        def grow(self) -> None:
            pass

        @property
        def half(self) -> int:
            return self.size // 2

        @classmethod
        def empty(cls) -> "Bare":
            return cls(0)

        def shrink(self) -> None:
            """Has one."""

    class Heir(hardwire.Chip):
        pass

    assert without_docstring("Bare", Bare) == ["Bare", "Bare.grow", "Bare.half", "Bare.empty"]
    assert without_docstring("Heir", Heir) == ["Heir"]
    assert without_docstring("nothing", lambda: None) == ["nothing"]


def test_the_module_that_compiles_does_not_hide_the_function():
    """A submodule of a function's name would replace it at its first import."""
    code = "import hardwire, hardwire.compiler, hardwire.explain, hardwire.check\n"
    assert imported_by(code + "assert callable(hardwire.compile) and callable(hardwire.verify)") == []


def test_what_compile_returns_is_what_open_opens(chip):
    opened = hardwire.open(chip.folder)
    assert opened.about == chip.about and opened.identity == chip.identity
    assert (chip.config.row_lanes, chip.config.max_context) == (2, 24)
    assert chip.report["derived"]["multipliers"] == 16


def test_a_session_of_golden(chip):
    session = chip.session("golden")
    replies = list(hardwire.generate(session, [7, 9, 30], 5))
    assert session.position == 7 and len(replies[0].logits) == 41
    again = chip.session("golden")
    for token in (7, 9):
        again.step(token)
    assert [again.step(token).token for token in (30, *(reply.token for reply in replies[:-1]))] == [r.token for r in replies]
    hot = [reply.token for reply in hardwire.generate(chip.session("golden"), [7], 8, hardwire.Sampling(9.0, seed=3))]
    assert hot == [reply.token for reply in hardwire.generate(chip.session("golden"), [7], 8, hardwire.Sampling(9.0, seed=3))]


def test_verify_finds_the_chip_equal(chip):
    figures = hardwire.verify(chip, ["7 9 30", "1"], 3)
    assert figures["first_difference"] is None
    assert figures["n_identical_tokens"] == figures["n_tokens"] == 5 + 3
    replies = [reply.token for reply in hardwire.generate(chip.session(), [7, 9, 30], 4)]
    assert replies == [reply.token for reply in hardwire.generate(chip.session("golden"), [7, 9, 30], 4)]


def test_estimate_is_what_explain_prints(chip):
    figures = hardwire.estimate(chip.folder.parent / "model", 16, **LANES)
    assert figures["context"] == 16 and figures["lanes"] == chip.config.as_dict()
    decode = figures["predicted"]["decode"]
    assert sum(decode["by_unit"].values()) == decode["cycles"]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda folder: hardwire.open(folder), "no compiled model"),
        (lambda folder: hardwire.compile("nowhere", folder / "x"), "nowhere: no such file"),
        (lambda folder: hardwire.compile(folder / "model", folder / "x", rows=2), "a chip has no option rows"),
        (lambda folder: hardwire.compile(folder / "model", folder / "x", row_lanes="2"), "row_lanes must be a positive integer"),
        (lambda folder: hardwire.compile(folder / "model", folder / "x", wide_bits=31), "wide_bits must be 24 or 32"),
        (lambda folder: hardwire.estimate(folder / "model", 99), "a context is 1 to 24 positions"),
        (lambda folder: hardwire.estimate(folder / "out", 9, row_lanes=2), "leave --row-lanes out"),
        (lambda folder: hardwire.open(folder / "out").session("gpu"), "backend must be one of rtl, golden, float, not 'gpu'"),
        (lambda folder: hardwire.open(folder / "out").session("golden", port="x"), "port 'x' and backend 'golden' are two ways"),
        (lambda folder: hardwire.open(folder / "out").session(port="x", adapter=folder / "a"), "adapter_config.json is missing"),
        (lambda folder: hardwire.open(folder / "out").verify(["one"]), "has no tokenizer"),
    ],
)
def test_wrong_input_is_a_hardwire_error(chip, call, complaint):
    with pytest.raises(hardwire.HardwireError, match=complaint) as error:
        call(chip.folder.parent)
    assert "\n" not in str(error.value)
    assert not (chip.folder.parent / "x").exists()


def test_the_options_of_a_chip_are_fields(chip):
    names = {field.name for field in fields(hardwire.ChipConfig)}
    assert names == set(json.loads((Path(chip.folder) / "chip.json").read_text())["chip_config"])
