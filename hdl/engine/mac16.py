"""The multipliers of an iCE40's MAC16, each with an output register: behaviour here, cells in ``fpga/ice40/parts.v``."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Multiply(wiring.Component):
    """o = a * b, a cycle later.  One MAC16.

    |a * b| < 2**16 * 2**15, so 32 bits signed hold every product.

    Parameters
    ----------
    a_signed : bool
        Whether ``a`` is signed; ``b`` always is.

    Members
    -------
    a, b : In(16)
    o : Out(signed(32))
    """

    def __init__(self, *, a_signed: bool):
        self.a_signed = a_signed
        super().__init__({"a": In(16), "b": In(signed(16)), "o": Out(signed(32))})

    def elaborate(self, platform) -> Module:
        m = Module()
        product = Signal(signed(32), reset_less=True)
        m.d.sync += product.eq((self.a.as_signed() if self.a_signed else self.a) * self.b)
        m.d.comb += self.o.eq(product)
        return m


class MultiplyBytes(wiring.Component):
    """Two products of signed bytes, a cycle later: a[:8] * b[:8] and a[8:] * b[8:].  One MAC16.

    Members
    -------
    a, b : In(16)
    o : Out(32)        the product of the low bytes in the low half, that of the high bytes in the high half
    """

    def __init__(self):
        super().__init__({"a": In(16), "b": In(16), "o": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        products = [Signal(signed(16), name=f"product_{j}", reset_less=True) for j in range(2)]
        m.d.sync += [
            product.eq(self.a.word_select(j, 8).as_signed() * self.b.word_select(j, 8).as_signed())
            for j, product in enumerate(products)
        ]
        m.d.comb += self.o.eq(Cat(*products))
        return m
