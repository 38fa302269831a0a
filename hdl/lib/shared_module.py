"""Units that a chip has many of, as one Verilog module."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, PureInterface


@runtime_checkable
class Parts(Protocol):
    """A platform that keeps the text of modules (``hdl.verilog``)."""

    def part(self, module: str, make: Callable[[], wiring.Component]) -> tuple[str, wiring.Signature]:
        """The name and the ports of the module that ``make`` gives: ``module``, unless another component has that name already."""


def add_part(m: Module, name: str, make: Callable[[], wiring.Component], module: str, platform) -> PureInterface | wiring.Component:
    """Add what ``make`` gives as the submodule ``name``, and return its ports.

    In Verilog it is an instance of ``module``, which all of its kind share: the text does not grow with the lanes, and
    simulators which keep modules apart (``sim/rtl/verilator.vlt``) run one piece of code for all of them, which then fits a
    processor's cache.
    """
    if not isinstance(platform, Parts):  # a simulation, or a board's own flow
        m.submodules[name] = unit = make()
        return unit
    module, signature = platform.part(module, make)
    unit = signature.create(path=(name,))
    ports = {
        ("i_" if member.flow == In else "o_") + "__".join(map(str, path)): Value.cast(value)
        for path, member, value in signature.flatten(unit)
    }
    m.submodules[name] = Instance(module, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
    return unit
