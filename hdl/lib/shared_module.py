"""One Verilog module for all copies of a unit."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, PureInterface


@runtime_checkable
class Parts(Protocol):
    """A platform that keeps the text of modules (``hdl.verilog``)."""

    def part(self, module: str, make: Callable[[], wiring.Component]) -> tuple[str, wiring.Signature]:
        """The name and the ports of the component's module; the name is ``module`` unless another component has it already."""


def add_part(m: Module, name: str, make: Callable[[], wiring.Component], module: str, platform) -> PureInterface | wiring.Component:
    """Add the component that ``make`` returns as the submodule ``name``, and return its ports.

    In Verilog the submodule is an instance of ``module``, which all copies share.  The text then does not grow with the lanes.
    Verilator keeps these modules apart (``sim/rtl/verilator.vlt``) and runs the same code for all copies, so that the code fits
    the cache of a processor.

    Parameters
    ----------
    m : the module that the unit is added to
    name : name of the submodule
    make : returns a new component; equal for all copies that share a module
    module : name of the shared Verilog module
    platform : as given to ``elaborate``; if it is no ``Parts`` the component itself becomes the submodule
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
