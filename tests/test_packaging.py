"""A wheel built from the tree, installed in a fresh environment, compiles, simulates and verifies."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("weights_to_rom", "hdl", "sim", "synth", "fpga", "hardwire", "models")

pytestmark = [pytest.mark.wheel, pytest.mark.xdist_group("wheel")]


def run(*command: object, cwd: Path) -> str:
    """Run a command without any way to the checkout.  Returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    ran = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, f"{command}:\n{ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree: setuptools would leave its own folders in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, tree)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ".", cwd=tree)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh environment that has the wheel and the packages of requirements/core.txt."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    bin_ = folder / "venv/bin"
    run(bin_ / "pip", "install", "--quiet", "--requirement", ROOT / "requirements/core.txt", cwd=folder)
    run(bin_ / "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
    return bin_


def test_wheel_has_every_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.is_relative_to(ROOT / "models/training")
    }
    assert files - held == set()
    assert [name for name in held if name.startswith(("tests/", "models/training/"))] == []


def test_wheel_compiles_runs_and_verifies(commands: Path, tmp_path: Path) -> None:
    where = run(
        commands / "python", "-c", "import hardwire, hdl, sys; print(hardwire.__file__, hdl.__file__, *sys.path)", cwd=tmp_path
    )
    assert str(commands.parent) in where
    assert str(ROOT) not in where
    run(commands / "hardwire", "compile", "stories-tiny", "-o", "out", cwd=tmp_path)
    story = run(commands / "hardwire", "run", "out", "--prompt", "Once upon a time", "--tokens", "20", "--check", cwd=tmp_path)
    assert story.startswith("Once upon a time")
    run(commands / "hardwire", "verify", "out", "--tokens", "3", cwd=tmp_path)
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    third = tmp_path / "third"
    third.mkdir()
    run("iverilog", "-g2012", "-o", "tb.vvp", moved / "chip.v", moved / "tb.v", cwd=third)
    printed = run("vvp", "-n", "tb.vvp", cwd=third).splitlines()
    text = json.loads((moved / "tokens.json").read_text())
    assert printed == [*(f"token {token}" for token in text["tokens"]), "4 of 4 tokens equal the integer model's"]
    prompt = run(commands / "hardwire", "run", moved, "--prompt", "Once upon a time", "--tokens", "4", "--json", cwd=third)
    assert json.loads(prompt)["tokens"] == text["tokens"]
