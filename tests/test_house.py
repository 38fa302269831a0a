"""The order of the house: who may import whom, how large a module is, and where a test lies."""

import ast
from collections.abc import Iterator

import pytest

from tests.support.modules import MODULES, ROOT, files

RANKS = {"weights_to_rom": 0, "hdl": 1, "sim": 2, "synth": 2, "fpga": 3, "hardwire": 4}
"""Data flow one way: a room imports from itself and from rooms of a lower rank."""

TESTS = [path for path in files("test_*.py") if path.relative_to(ROOT).parts[0] == "tests"]

MOST_LINES = 450
MOST_ENTRIES = {"hdl": 25, "fpga": 15}


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules of the house that a module imports, at its top or within a function, but not for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            yield from imports(node)
            continue
        yield from (name for name in names if name in MODULES)


GRAPH = {name: sorted({*imports(ast.parse(path.read_text()))} - {name}) for name, path in MODULES.items()}


def test_no_arrow_runs_up():
    up = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if (here := name.split(".")[0]) != (there := other.split(".")[0]) and RANKS[there] >= RANKS[here]
    ]
    assert up == []


def circles(graph: dict[str, list[str]]) -> list[list[str]]:
    """Every way that leads back to a module through packages' own modules, found by walking on from each."""
    found, done = [], set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append(path[path.index(name) :])
        elif name not in done:
            for other in graph[name]:
                walk(other, [*path, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return found


def test_no_circle():
    assert circles(GRAPH) == []


def test_a_circle_is_found():
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"]}) == [["b", "c"]]


@pytest.mark.parametrize("path", files("*.py"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_can_be_read_in_one_sitting(path):
    n_lines = path.read_text().count("\n")
    assert n_lines <= MOST_LINES


@pytest.mark.parametrize("room", MOST_ENTRIES)
def test_a_room_can_be_overseen(room):
    entries = {path.relative_to(ROOT / room).parts[0] for path in files() if path.is_relative_to(ROOT / room)}
    assert len(entries) <= MOST_ENTRIES[room]


def test_tests_lie_in_the_room_they_test():
    """tests/ROOM/.../test_NAME.py stands for ROOM/...: the folder exists; what belongs to no room stands at the top."""
    elsewhere = {"chip", "formal", "fuzz", "slow", "support", "data", "training"}
    for path in TESTS:
        folder = path.parent.relative_to(ROOT / "tests")
        if folder.parts and folder.parts[0] not in elsewhere:
            assert (ROOT / folder).is_dir(), f"{path.relative_to(ROOT)} tests no room"


def test_helpers_lie_in_support():
    allowed = {"support", "chip", "formal", "fuzz", "data"}
    helpers = [
        path.relative_to(ROOT / "tests") for path in [path for path in files("*.py") if path.relative_to(ROOT).parts[0] == "tests"]
    ]
    assert [
        str(path)
        for path in helpers
        if not path.name.startswith("test_") and path.name not in ("conftest.py", "__init__.py") and path.parts[0] not in allowed
    ] == []


def test_tests_do_not_import_tests():
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests."):
                assert not node.module.rpartition(".")[2].startswith("test_"), f"{path}: imports {node.module}"


@pytest.mark.xdist_group("together")
def test_groups_of_tests_stay_on_one_worker(request):
    """pytest-xdist puts the group behind a test's name.  If it did not, each worker would build the chips of a group again."""
    if request.config.getoption("loadgroup", False):
        assert request.node.nodeid.endswith("@together")
