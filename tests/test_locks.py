"""The files of requirements/ give what pyproject.toml asks for, with one version of each package."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))


def locked(use: str) -> dict[str, str]:
    """Versions by package: those of a file, and of the files that it begins with."""
    versions: dict[str, str] = {}
    for line in (ROOT / "requirements" / f"{use}.txt").read_text().splitlines():
        if line.startswith("-r "):
            versions |= locked(line.removeprefix("-r ").removesuffix(".txt"))
        elif not line.startswith("#"):
            name, version = line.split("==")
            versions[canonicalize_name(name)] = version
    return versions


def unsatisfied(requirements: list[str], versions: dict[str, str]) -> list[str]:
    """The requirements that the versions do not satisfy."""
    return [
        line
        for line in requirements
        if (wanted := Requirement(line)).name != PROJECT["name"]
        and not wanted.specifier.contains(versions.get(canonicalize_name(wanted.name), ""), prereleases=True)
    ]


def test_each_use_has_a_lock() -> None:
    assert FILES == ["bench", "core", "docs", "fpga", "lint", "litex", "test"]


@pytest.mark.parametrize("use", FILES)
def test_lock_satisfies_pyproject(use: str) -> None:
    extra = [] if use == "core" else PROJECT["optional-dependencies"][use]
    assert unsatisfied(PROJECT["dependencies"] + extra, locked(use)) == []


def test_a_version_that_is_too_old_is_found() -> None:
    assert unsatisfied(["numpy>=2.0", "rich>=13"], {"numpy": "1.26.4", "rich": "13.0"}) == ["numpy>=2.0"]
    assert unsatisfied(["numpy>=2.0"], {}) == ["numpy>=2.0"]


def test_locks_agree() -> None:
    versions: dict[str, set[str]] = {}
    for use in FILES:
        for name, version in locked(use).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("use", FILES)
def test_a_lock_has_names_and_versions_alone(use: str) -> None:
    lines = (ROOT / "requirements" / f"{use}.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|-r [a-z]+\.txt|[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []
