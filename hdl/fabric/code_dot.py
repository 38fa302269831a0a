"""Four-bit codes times int8 activations, three ways, equal to the bit.

P = sum over j of q[j] * x[j] for ``block_lanes`` elements, q in 0..15, x in -127..127.

A multiplier has a broadcast side and a lane side.  The broadcast side exists once, at the input buffer; every row lane has a lane
side of its own.  The three differ in the values that the broadcast side computes for all lanes:

========  ==============================================  =========================================
          once for all row lanes                          each element of each row lane
========  ==============================================  =========================================
magic     the odd multiples 3x, 5x ... 15x                a 16 to 1 multiplexer
booth     -x and the sum of all x                         two Booth digits, a 5 to 1 multiplexer each
plain     nothing                                         a 4 by 8 bit multiplication
========  ==============================================  =========================================
"""

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.utils import ceil_log2

from hdl.lib.pipeline import add_pairs, registered
from weights_to_rom.model_format import BLOCK

CODE_MAX = 15
MANTISSA_MAX = 127


def bits_for_magnitude(bound: int) -> int:
    """Bits of a signed integer v with |v| <= bound."""
    return bound.bit_length() + 1


def total_shape(block_lanes: int) -> Shape:
    """Sum of ``block_lanes`` mantissas: 32 * 127 < 2**12, so at most 13 bits signed."""
    return signed(bits_for_magnitude(block_lanes * MANTISSA_MAX))


def product_shape(block_lanes: int) -> Shape:
    """P: 32 * 15 * 127 < 2**16, so at most 17 bits signed."""
    return signed(bits_for_magnitude(block_lanes * CODE_MAX * MANTISSA_MAX))


class CodeDot:
    """The parts that all three share: the registers and the adder tree.

    In the first cycle the codes are registered, because a ROM is slow, and the broadcast side prepares ``x``.

    The selection and each level of the tree have a register at their output.  The registers cost nothing, because the cell of an
    adder has an unused flip-flop.  They also keep Yosys from fusing the levels into carry-save adders, which take two LUTs a bit
    on an FPGA instead of one.

    Latency: ``latency`` = 2 + log2(block_lanes) cycles from ``codes`` and ``x`` to P; two more with Booth, whose tree has two
    levels more.  ``block_latency`` is the latency from the last word of a block to the P of the block: one cycle more if a block
    is several words, because the row lane then adds up their P.  Rate: a word a cycle.

    Parameters
    ----------
    block_lanes : elements of a word: 4, 8, 16 or 32
    """

    TERMS = (1, 0)
    """The number of terms of P: for each element, and in addition to those."""

    def __init__(self, block_lanes: int) -> None:
        self.block_lanes = block_lanes
        each, more = self.TERMS
        self.levels = ceil_log2(each * block_lanes + more)
        self.latency = 1 + self.levels + 1
        self.block_latency = self.latency + (block_lanes < BLOCK)

    @property
    def signature(self) -> wiring.Signature:
        """The values that the broadcast side sends to every lane."""
        raise NotImplementedError

    def _prepare(self, x: Sequence[Value], total: Value, prepared) -> list:
        """Assignments of the broadcast values for ``x`` and ``total`` to ``prepared``."""
        raise NotImplementedError

    def _terms(self, prepared, codes: Sequence[Value]) -> list[Value]:
        """The terms of P, as many as ``TERMS`` says."""
        raise NotImplementedError

    def prepare(self, m: Module, x: Sequence[Value], total: Value):
        """The broadcast side, for mantissas ``x`` and their sum ``total``: an interface of ``signature``."""
        prepared = self.signature.create(path=("prepared",))
        m.d.sync += self._prepare(x, total, prepared)
        return prepared

    def dot(self, m: Module, prepared, codes: Sequence[Value]) -> Signal:
        """The lane side: the register that holds P."""
        held = Signal(4 * self.block_lanes, name="codes_held", reset_less=True)
        m.d.sync += held.eq(Cat(*codes))
        level = self._terms(prepared, [held[4 * j : 4 * j + 4] for j in range(self.block_lanes)])
        for depth in range(self.levels):
            registers = [registered(m, value, name=f"sum_{depth}_{j:02}") for j, value in enumerate(level)]
            level = add_pairs(registers)
        (root,) = level
        # The root may be wider than P, because Booth's digits overlap; the bits that are cut off repeat the sign.
        product = Signal(product_shape(self.block_lanes), reset_less=True)
        m.d.sync += product.eq(root)
        return product


class Magic(CodeDot):
    """The broadcast side computes all sixteen multiples of an activation, and each weight selects one of them.

    The published descriptions of Taalas' HC1 suggest the same multiplier: a ROM cell there routes one of sixteen wires.
    """

    _ODD = range(1, CODE_MAX + 1, 2)

    @property
    def signature(self):
        return wiring.Signature(
            {f"x{k}": Out(signed(bits_for_magnitude(k * MANTISSA_MAX))).array(self.block_lanes) for k in self._ODD}
        )

    def _prepare(self, x, total, prepared):
        return [getattr(prepared, f"x{k}")[j].eq(k * x[j]) for k in self._ODD for j in range(self.block_lanes)]

    def _terms(self, prepared, codes):
        def multiple(k: int, j: int) -> Value:
            if k == 0:
                return Value.cast(0)
            zeros = (k & -k).bit_length() - 1
            return getattr(prepared, f"x{k >> zeros}")[j] << zeros

        # 15 * 127 < 2**11: 12 bits signed
        return [Array([multiple(k, j) for k in range(16)])[code] for j, code in enumerate(codes)]


class Booth(CodeDot):
    """Radix-4 Booth recoding of c = q - 8, which is the code with its top bit flipped.

    c = d0 + 4 * d1 with d0 = c[0] - 2 * c[1] in -2..1 and d1 = c[1] + c[2] - 2 * c[3] in -2..2 (Booth 1951,
    in the form of MacSorley 1961).  P = sum of c[j] * x[j] + 8 * sum of x[j]; all lanes share the last sum.
    """

    TERMS = (2, 1)

    @property
    def signature(self):
        mantissas = Out(signed(bits_for_magnitude(MANTISSA_MAX))).array(self.block_lanes)
        return wiring.Signature({"x": mantissas, "neg": mantissas, "total": Out(total_shape(self.block_lanes))})

    def _prepare(self, x, total, prepared):
        return [
            *(prepared.x[j].eq(x[j]) for j in range(self.block_lanes)),
            *(prepared.neg[j].eq(-x[j]) for j in range(self.block_lanes)),
            prepared.total.eq(total),
        ]

    def _terms(self, prepared, codes):
        low, high = [], []
        for x, neg, q in zip(prepared.x, prepared.neg, codes, strict=True):
            c3 = ~q[3]
            low_x = Mux(q[1], neg, x)
            low.append(Mux(q[0], low_x, Mux(q[1], low_x << 1, 0)))
            high_x = Mux(c3, neg, x)
            high.append(Mux(q[1] ^ q[2], high_x, Mux(q[1] ^ c3, high_x << 1, 0)))
        return [*low, *(value << 2 for value in high), prepared.total << 3]


class Plain(CodeDot):
    """The multiplication x * q itself; synthesis chooses its form: DSP blocks, where there are enough."""

    @property
    def signature(self):
        return wiring.Signature({"x": Out(signed(bits_for_magnitude(MANTISSA_MAX))).array(self.block_lanes)})

    def _prepare(self, x, total, prepared):
        return [prepared.x[j].eq(x[j]) for j in range(self.block_lanes)]

    def _terms(self, prepared, codes):
        return [x * q for x, q in zip(prepared.x, codes, strict=True)]


MULTIPLIERS = {"booth": Booth, "magic": Magic, "plain": Plain}
"""The names that ``--multiplier`` takes."""
