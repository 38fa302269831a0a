"""Write requirements/*.txt: the exact versions that each use of the project installs.

    python tools/lock.py

pip resolves the dependencies and all extras of pyproject.toml at once, so that a package has one version in all files.
Each file then lists what its use adds to the file that it begins with.  Versions that a file names already are kept;
to renew one, delete its line first.  Needs the package `packaging` (it is in requirements/core.txt).
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"

USES = {
    # file: the file that it begins with, and the purpose
    "core": (None, "For the commands of hardwire, but for bitstreams."),
    "fpga": ("core", "For bitstreams: synthesis, place and route, and the program that loads a board."),
    "test": ("fpga", "For the test suite and the proofs."),
    "litex": ("test", "For the example with LiteX and its test."),
    "docs": ("core", "For the site of the documentation."),
    "bench": ("core", "For the comparison with llama.cpp."),
    "lint": ("core", "For the linter, the formatter, the type checker and the commit hooks."),
}


def requirements(project: dict, use: str) -> list[Requirement]:
    """Return the requirements of a use in pyproject.toml, without the project itself."""
    lines = project["dependencies"] if use == "core" else project["optional-dependencies"][use]
    return [requirement for line in lines if (requirement := Requirement(line)).name != project["name"]]


def resolve(wanted: list[Requirement], kept: str) -> dict[str, dict]:
    """Let pip choose versions.  Returns the metadata of every package, by its canonical name."""
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder, "report.json"), Path(folder, "kept.txt")
        constraints.write_text(kept)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(report), "--constraint", str(constraints), *map(str, wanted)], check=True)
        packages = json.loads(report.read_text())["install"]
    return {canonicalize_name(package["metadata"]["name"]): package["metadata"] for package in packages}


def closure(packages: dict[str, dict], wanted: list[Requirement]) -> set[str]:
    """Return the names of all packages that the requirements lead to."""
    todo, done = list(wanted), set()
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        for line in packages[name].get("requires_dist", ()):
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                todo.append(needed)
    return {name for name, _ in done}


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {use: requirements(project, use) for use in USES}
    kept = "".join(path.read_text() for path in FOLDER.glob("*.txt"))
    kept = "".join(re.findall(r"^[^#\s-].*\n", kept, re.MULTILINE))
    packages = resolve([requirement for use in USES for requirement in wanted[use]], kept)
    listed: dict[str, set[str]] = {}
    for use, (base, purpose) in USES.items():
        below = listed.get(base or "", set())
        listed[use] = below | closure(packages, wanted[use])
        lines = [f"# {purpose}  Written by tools/lock.py.", *([f"-r {base}.txt"] if base else [])]
        lines += [f"{packages[name]['name']}=={packages[name]['version']}" for name in sorted(listed[use] - below)]
        (FOLDER / f"{use}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
