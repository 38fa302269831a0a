"""A simulated chip that writes the waves of one of its units."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hdl.config import ChipConfig
from hdl.verilog import CORE, TOP
from sim.rtl.chip import RtlChip
from sim.rtl.verilator import Addition, SimulationError
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.names import did_you_mean


class TracedChip(RtlChip):
    """A simulated chip whose library keeps the signals of one ``scope``.  ``traced`` makes the class for a scope."""

    scope: str

    @classmethod
    def addition(cls, model: ModelFormat, config: ChipConfig) -> Addition:
        """Let Verilator trace the scope, and add trace.cpp, which writes the file."""
        return replace(
            super().addition(model, config),
            source=Path(__file__).with_suffix(".cpp"),
            configuration=f'tracing_off -scope "*"\ntracing_on -scope "{cls.scope}"\ntracing_on -scope "{cls.scope}.*"\n',
            verilator_flags=("--trace-vcd",),
            cxx_flags=("-DVM_TRACE=1", "-DVM_TRACE_VCD=1", "-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0"),
            runtime=("verilated_vcd_c.cpp",),
        )

    def trace(self, path: Path) -> None:
        """Write waves to a VCD file from the next cycle on.  A chip can do this once.

        Raises SimulationError if the file cannot be opened.
        """
        if self._library.simulation_trace(self._chip, str(path).encode()):
            raise SimulationError(f"{path}: cannot be written")

    def end_trace(self) -> None:
        """Close the file.

        Raises SimulationError if the file is incomplete.
        """
        if self._library.simulation_trace_end(self._chip):
            raise SimulationError("the waves could not be written whole: is the disk full?")


def traced(scope: str) -> type[TracedChip]:
    """Make the class of chips that trace ``scope`` and the units inside it.

    A scope is a path of instances that begins with the top module.
    """
    return type("TracedChip", (TracedChip,), {"scope": scope})


def units(verilog: str, top: str = TOP) -> list[str]:
    """List every unit of a chip by the path of its instance: "chip.core.embedding", "chip.core.stage.matvec.lane_00", ..."""
    inside: dict[str, list[tuple[str, str]]] = {}
    module = ""
    for line in verilog.splitlines():
        if match := re.match(r"module \\?(\S+?) ?\(", line):
            inside[module := match[1]] = []
        elif match := re.fullmatch(r"  \\?(\S+) +\\?(\S+) +\(", line):
            inside[module].append((match[1], match[2]))

    def below(module: str, path: str) -> list[str]:
        return [path] + [found for kind, name in inside.get(module, []) for found in below(kind, f"{path}.{name}")]

    return below(top, top)[1:]


def find_unit(name: str, paths: Sequence[str]) -> str:
    """Find the path that ends in ``name``, for example "rmsnorm", "lane_00" or "attention.cache".

    Raises SimulationError unless there is exactly one.
    """
    found = [path for path in paths if f".{path}".endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise SimulationError(f"there are several units {name}: {', '.join(_short(path) for path in found)}")
    large = [short for short in map(_short, paths) if "." not in short and not short.endswith(("_gate", "core", "stage"))]
    others = f": the chip has {', '.join(large)}, and in them parts such as matvec.lane_00"
    raise SimulationError(f"there is no unit {name}{did_you_mean(name, large) or others}")


def _short(path: str) -> str:
    """Return a path from the stage on, or from the ``hdl.chip.Chip``, or from the top module."""
    for parent in (f"{CORE}.stage", CORE):
        if inside := path.partition(f"{parent}.")[2]:
            return inside
    return path
