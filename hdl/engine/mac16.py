"""Multipliers as the iCE40's MAC16 has them, a register behind each: behaviour here, cells in ``fpga/ice40/parts.v``."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Multiply(wiring.Component):
    """o = a * b, a cycle later; a is signed or not, b is signed.  One MAC16.

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
    """Two products of signed bytes, a cycle later.  One MAC16.

    Members
    -------
    a, b : In(16)
    o : Out(32)        low bytes' product in the low half
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
