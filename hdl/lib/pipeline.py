"""Pieces of a pipeline: registers, delay lines and adder trees, as functions that add them to a module.

A signal of a pipeline often has to wait until another result is there.  A delay line is the chain of registers that
does so.  ``en`` is the enable of a pipeline that can stand still: a register keeps its value while ``en`` is low.
"""

from collections.abc import Sequence

from amaranth.hdl import Module, Signal, Value, ValueLike


def registered(m: Module, value: Value, *, name: str, en: ValueLike = 1, reset_less: bool = True) -> Signal:
    """A register of the same shape as ``value``: ``value`` one cycle ago.

    Parameters
    ----------
    m : the module that the register is added to
    value : the input; a view of a structure gives a register with the same fields
    name : name of the register
    en : the register keeps its value while this is low
    reset_less : without a reset; choose False where the value counts before the first beat, as a valid bit does
    """
    register = Signal(value.shape(), name=name, reset_less=reset_less)
    if isinstance(en, int):
        m.d.sync += register.eq(value)
    else:
        with m.If(en):
            m.d.sync += register.eq(value)
    return register


def delayed(
    m: Module, value: Value, cycles: int, *, name: str, en: ValueLike = 1, reset_less: bool = True, first: int = 1
) -> list[Value]:
    """[value, value one cycle ago, ..., value ``cycles`` cycles ago]: a delay line of ``cycles`` registers.

    Parameters
    ----------
    m, value, en, reset_less : as for ``registered``
    cycles : the number of registers; with 0 the list holds ``value`` alone
    name : the registers are called ``<name>_<first>``, ``<name>_<first + 1>`` ...
    first : the number of the pipeline stage that the first register feeds
    """
    line = [value]
    for stage in range(first, first + cycles):
        line.append(registered(m, line[-1], name=f"{name}_{stage}", en=en, reset_less=reset_less))
    return line


def add_pairs(values: Sequence[Value]) -> list[Value]:
    """One level of an adder tree: the sums of neighbours; the last of an odd number passes unchanged.

    The sum of two n-bit integers has n + 1 bits, so no level overflows.
    """
    return [a + b for a, b in zip(values[0::2], values[1::2], strict=False)] + list(values[len(values) & ~1 :])


def adder_tree(values: Sequence[Value]) -> Value:
    """The sum of at least one value, as a balanced tree of ceil(log2(len(values))) additions within one cycle."""
    while len(values) > 1:
        values = add_pairs(values)
    return values[0]
