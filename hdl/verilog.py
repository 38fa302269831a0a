"""Verilog out of Amaranth: one file, the same to the byte for every model of a shape."""

import gc
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby

from amaranth.back import verilog
from amaranth.hdl import ClockDomain, ClockSignal, Const, DomainRenamer, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from hdl.chip import Chip
from hdl.config import ChipConfig
from hdl.interface import TOP, rom_macro
from hdl.lib.clock_gate import CLOCK_GATE_VERILOG
from hdl.lib.ram import VerilogPlatform
from hdl.lib.rom import RomSpec, rom_verilog
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import Rom, rom_map

CORE = f"{TOP}.core"
"""The path of the ``hdl.chip.Chip`` instance in its Verilog, and the name of its module.  ``ChipConfig.module`` adds the prefix."""


class _Registered(wiring.Component):
    """A component whose reset is registered.

    The reset reaches the component from a flip-flop, which a board needs, and a simulator need not evaluate the component's whole
    next-state logic whenever an input changes.

    Parameters
    ----------
    component : wiring.Component
        Its members become those of this component.
    """

    def __init__(self, component: wiring.Component):
        self.component = component
        super().__init__(component.signature)

    def elaborate(self, platform):
        m = Module()
        m.domains.core = ClockDomain()
        reset = Signal(init=1, reset_less=True)
        m.d.sync += reset.eq(ResetSignal())
        m.d.comb += [ClockSignal("core").eq(ClockSignal()), ResetSignal("core").eq(reset)]
        m.submodules.core = DomainRenamer("core")(self.component)
        connect(m, flipped(self), self.component)
        return m


def _woken(text: str) -> str:
    """The same Verilog, for simulators that read it as SystemVerilog too.

    Yosys makes each ``always @*`` depend on a register that is declared with the value 0.  The register changes from unknown to 0
    at the start, so that the process runs once.  SystemVerilog gives declarations their values before any process waits for a
    change: a process that depends on constants alone would never run.  An ``initial`` at the end of the module runs after its
    ``always @*`` processes wait, hence the rewriting.
    """
    text = re.sub(r"\\\$auto\$verilog_backend\S+", r"\\$wake", text)
    return re.sub(
        r"^  reg \\\$wake  = 0;\n(.*?)^endmodule",
        r"  reg \\$wake ;\n\1  initial \\$wake  = 0;\nendmodule",
        text,
        flags=re.MULTILINE | re.DOTALL,
    )


def _replicated(text: str) -> str:
    """The same Verilog with ``{ a, a, a }`` written as ``{ {3{a}} }``, a form that Yosys does not write.

    People and Verilator recognise a sign extension in this form; Verilator assembles the other form bit by bit.
    """

    def once(match: re.Match) -> str:
        items = [(item, len(list(same))) for item, same in groupby(match[1].split(", "))]
        return "{ " + ", ".join(item if n == 1 else f"{{{n}{{{item}}}}}" for item, n in items) + " }"

    return re.sub(r"\{ ([^{}]*?) \}", once, text)


class _Parts(VerilogPlatform):
    """The platform for writing Verilog: each kind of memory and each kind of lane becomes a module."""

    def __init__(self):
        super().__init__()
        self._texts: dict[str, str] = {}
        self._parts: dict[tuple[str, Callable], tuple[str, wiring.Signature]] = {}

    def part(self, module: str, make: Callable[[], wiring.Component]) -> tuple[str, wiring.Signature]:
        """``hdl.lib.shared_module.Parts``: lanes of two stages share a module only if they are the same."""
        if (module, make) not in self._parts:
            unit, name = make(), module
            while (text := _text(unit, name, self)) != self._texts.setdefault(name, text):
                unit, name = make(), f"{name}_2"
            self._parts[module, make] = name, unit.signature
        return self._parts[module, make]

    @property
    def verilog(self) -> str:
        return "".join(f"\n{text}" for text in self._texts.values()) + super().verilog


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's garbage collector, which would look again and again through millions of nets that are all in use."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _text(component: wiring.Component, name: str, platform: _Parts) -> str:
    # A stream that is always ready has a constant for that, which is no port.
    members = {"__".join(map(str, path)): Value.cast(value) for path, _, value in component.signature.flatten(component)}
    ports = {name: (value, None) for name, value in members.items() if not isinstance(value, Const)}
    with _uncollected():
        text = verilog.convert(component, name=name, platform=platform, ports=ports, strip_internal_attrs=True, emit_src=False)
    # Yosys says by which version it was written; keep even that out of the comparison between installations.
    return _replicated(_woken(re.sub(r"^/\* Generated by .* \*/\n", "", text)))


def convert(component: wiring.Component, name: str, roms: Iterable[Rom | RomSpec] = (), macro: str = rom_macro()) -> str:
    """A component and the modules it instantiates, as Verilog; no source locations, so no path of a machine.

    Parameters
    ----------
    component : wiring.Component
    name : str
        Name of the top module.
    roms : iterable of Rom or RomSpec
        The ROMs that the component instantiates; their contents stand in ``<name>.hex`` files.
    macro : str
        The Verilog macro that names the folder of these files (``hdl.lib.rom.rom_verilog``).
    """
    # Debian's Yosys is older than Amaranth asks for; the Yosys of Amaranth's own wheel is not.
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    parts = _Parts()
    text = _text(component, name, parts)
    return text + parts.verilog + "".join("\n" + rom_verilog(rom.name, rom.width, rom.depth, macro) for rom in roms)


def chip_verilog(model: ModelFormat, config: ChipConfig) -> str:
    """The chip for a model's format: top module ``config.module(TOP)``.  Its ROM images lie in the folder ``rom`` next to it."""
    return whole_verilog(Chip(model=model, config=config), TOP, rom_map(model, **config.rom_lanes).values(), config.prefix)


def whole_verilog(component: wiring.Component, name: str, roms: Iterable[Rom | RomSpec], prefix: str = "") -> str:
    """A complete design, such as a chip or a board around one: its reset is registered, and every module it needs is there.

    The names of all its modules begin with ``prefix``, and so does the macro of its ROM images.
    """
    text = convert(_Registered(component), name, roms, rom_macro(prefix)) + "\n" + CLOCK_GATE_VERILOG
    return _prefixed(text, f"{prefix}_") if prefix else text


def _prefixed(text: str, prefix: str) -> str:
    """The same Verilog with ``prefix`` at the beginning of each name of a module, in declarations and in instances."""
    names = set(re.findall(r"^module (\\?[^\s(]+)", text, flags=re.MULTILINE))

    def renamed(match: re.Match) -> str:
        before, name = match.groups()
        if name not in names:
            return match[0]
        return f"{before}\\{prefix}{name[1:]}" if name.startswith("\\") else f"{before}{prefix}{name}"

    return re.sub(r"^(module |  )(\\?[^\s(]+)", renamed, text, flags=re.MULTILINE)
