"""An exact signed product, cut into multiplications that fit one 18x18 DSP each."""

from amaranth.hdl import Cat, Const, Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.lib.pipeline import registered

DIGIT = 17
"""Unsigned bits of a digit: with a sign bit it is an operand of an 18x18 signed multiplier."""


class WideProduct(wiring.Component):
    """p = a * b.

    Operands wider than 18 bits are split into digits of 17 bits, of which the top one is signed.  The products of digits are
    registered and then added pairwise, with a register after every level of additions.  No register is reset, so that the first
    one can be the one inside an FPGA's multiplier.

    Latency: ``latency`` = 1 + ceil(log2(products of digits)) cycles with ``en`` high.  Rate: a product a cycle.  All registers
    hold while ``en`` is low.

        32 x 16:  2 multipliers, latency 2        47 x 16:  3, latency 3        32 x 32:  4, latency 3

    Parameters
    ----------
    a_width, b_width : bits of the operands, both signed, at least 1

    Members
    -------
    a, b : In(signed)
    en : In(1)
    p : Out(signed)     len(a) + len(b) bits
    """

    def __init__(self, *, a_width: int, b_width: int):
        for name, width in (("a_width", a_width), ("b_width", b_width)):
            if not isinstance(width, int) or width < 1:
                raise ValueError(f"{name} must be a positive integer, not {width!r}")
        self.latency = 1 + ceil_log2(_n_digits(a_width) * _n_digits(b_width))
        super().__init__({"a": In(signed(a_width)), "b": In(signed(b_width)), "en": In(1), "p": Out(signed(a_width + b_width))})

    def elaborate(self, platform):
        m = Module()
        width = len(self.p)

        # (shift, register) of partial products: p = sum of register << shift.
        terms = []
        for i, a in enumerate(_digits(self.a)):
            for j, b in enumerate(_digits(self.b)):
                shift = DIGIT * (i + j)
                terms.append((shift, registered(m, (a * b)[: width - shift].as_signed(), name=f"p_{i}_{j}", en=self.en)))

        level = 0
        while len(terms) > 1:
            level += 1
            # Pairs of neighbouring shifts: the low bits of the lower term need no addition.
            terms.sort(key=lambda term: term[0])
            paired = []
            for k in range(0, len(terms) - 1, 2):
                (low_shift, low), (high_shift, high) = terms[k : k + 2]
                gap = high_shift - low_shift
                paired.append((low_shift, Cat(low[:gap], (low >> gap) + high).as_signed()))
            paired += terms[len(paired) * 2 :]
            terms = [
                (shift, registered(m, total[: width - shift].as_signed(), name=f"s_{level}_{k}", en=self.en))
                for k, (shift, total) in enumerate(paired)
            ]

        m.d.comb += self.p.eq(terms[0][1])
        return m


def _n_digits(width: int) -> int:
    return 1 if width <= DIGIT + 1 else 1 + -(-(width - DIGIT - 1) // DIGIT)


def _digits(value):
    """The digits, the least significant first, all as signed values; only the top one can be negative."""
    n = _n_digits(len(value))
    return [Cat(value[DIGIT * i : DIGIT * (i + 1)], Const(0, 1)).as_signed() for i in range(n - 1)] + [
        value[DIGIT * (n - 1) :].as_signed()
    ]
