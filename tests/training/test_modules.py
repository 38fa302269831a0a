"""The modules of models.training: they fit together, and those that need no torch run."""

import ast
import importlib
import py_compile
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

FOLDER = Path(__file__).parents[2] / "models" / "training"
MODULES = {path.stem: path for path in sorted(FOLDER.glob("*.py")) if path.stem != "__init__"}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def defined(tree: ast.Module) -> set[str]:
    """Names that a module assigns, defines or imports at its top."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("name", MODULES)
def test_compiles(name, tmp_path):
    py_compile.compile(str(MODULES[name]), cfile=str(tmp_path / "compiled"), doraise=True)


@pytest.mark.parametrize("name", MODULES)
def test_imports_what_is_there(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            room, _, stem = node.module.rpartition(".")
            names = {alias.name for alias in node.names}
            if room == "models.training":
                assert names <= defined(TREES[stem])
            elif room.split(".")[0] in ("sim", "weights_to_rom"):
                assert all(hasattr(importlib.import_module(node.module), each) for each in names)


@pytest.mark.parametrize("name", ["evaluate", "pirates", "stories"])
def test_needs_no_torch(name):
    importlib.import_module(f"models.training.{name}")


@pytest.mark.parametrize("name", ["evaluate", "pirates"])
def test_help(name):
    app = typer.Typer()
    app.command()(importlib.import_module(f"models.training.{name}").main)
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0 and "Usage" in result.output
