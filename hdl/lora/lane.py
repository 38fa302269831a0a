"""One lane of the LoRA adder: a word of adapter memory times mantissas, as one block of A or as rows of B."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.fabric.row_lane import ROUND_TERM, TERM_FRACTION
from hdl.lib.pipeline import add_pairs, registered
from hdl.lib.streams import EXP_BITS
from weights_to_rom.model_format import BLOCK, lora_word_bits, rank_block

SHIFT_RIGHT = 24
"""The largest shift to the right.  |P| < 2**19, so 20 and more leave 0; 24 is the first multiple of eight among these."""

SHIFT_BITS = 6
"""Bits of a shift.  0 is SHIFT_RIGHT to the right, 63 is 39 to the left, where every P but 0 saturates."""


class LoraLane(wiring.Component):
    """sum[g] = c + sum over words of sat(rshr(P[g], -(e[g] + exp[g] + 16)), wide_bits + 5), LSB 2**-16.

    A word of B has 32 / nb groups of nb mantissas with an exponent e each: parts of rows.  P[g] is the dot product of group g
    with its part of ``operand``, and c = ``constant``.  A word of A is one block of 32 mantissas with the exponent e[0]: with
    ``whole`` P[0] is the dot product of all 32, c = 0, and only sum[0] has a meaning.

    Latency: ``latency`` = 9 cycles from ``word`` to ``sum``.  Rate: a free-running pipeline, one word a cycle.  Cycles are
    counted from ``word``::

        0        word, ``operand``, ``exp``
        1        products; e + exp
        2 .. 6   an adder tree, a level a cycle; a group's dot product waits for the root: P
        7        P << (shift mod 8); ``whole`` comes with P, in 6
        8        the term: the rest of the shift, by multiples of eight, and saturation; ``add``, ``first``, ``rounds``
        9        ``sum``, with that term in it

    Parameters
    ----------
    rank : rank of the adapter, a power of two from 2 to 64; nb = min(32, rank)
    wide_bits : width of the residual vector; a term has wide_bits + 5 bits
    sum_bits : bits of ``sum``, enough for ``constant`` and every term of a sum
    constant : c, in LSBs of ``sum``

    Members
    -------
    word : In(lora_word_bits(rank))         mantissas -128 .. 127, exponents of 8 bits signed
    operand : In(signed(8)).array(32)       mantissas -127 .. 127
    exp : In(signed(8)).array(32 / nb)      exponents of ``operand``
    whole : In(1)                           at 6: the word is one block of A
    add, first : In(1)                      at 8: there is a term; it is the sum's first
    rounds : In(1)                          at 8: the sum starts from ``constant``, not from zero
    sum : Out(signed(sum_bits)).array(32 / nb)
    """

    WHOLE, ADD = 6, 8
    """Cycles after ``word`` in which ``whole`` is read; in which ``add``, ``first`` and ``rounds`` are."""

    def __init__(self, *, rank: int, wide_bits: int, sum_bits: int, constant: int) -> None:
        self.latency = 9
        self.nb, self.constant = rank_block(rank), constant
        self.groups = BLOCK // self.nb
        self.term_bits, self.sum_bits = wide_bits + 5, sum_bits
        super().__init__(
            {
                "word": In(lora_word_bits(rank)),
                "operand": In(signed(8)).array(BLOCK),
                "exp": In(signed(EXP_BITS)).array(self.groups),
                "whole": In(1),
                "add": In(1),
                "first": In(1),
                "rounds": In(1),
                "sum": Out(signed(sum_bits)).array(self.groups),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()

        # |w * x| <= 128 * 127 < 2**14: 15 bits signed.  The sum of 32 products is below 2**19: 20 bits signed.
        products = [(self.word[8 * j : 8 * j + 8].as_signed() * x)[:15].as_signed() for j, x in enumerate(self.operand)]
        level = [registered(m, p, name=f"product_{j:02}") for j, p in enumerate(products)]
        exponents = self.word[8 * BLOCK :]
        # Two exponents of 8 bits and 16 + SHIFT_RIGHT = 40: -216 .. 294, 10 bits signed.
        shifts = [
            registered(m, _total_shift(exponents.word_select(g, EXP_BITS).as_signed(), exp), name=f"shift_1_{g:02}")
            for g, exp in enumerate(self.exp)
        ]
        shifts = [_clip(shift) for shift in shifts]
        rows = []
        for depth in range(2, 7):
            level = [registered(m, total, name=f"sum_{depth}_{k:02}") for k, total in enumerate(add_pairs(level))]
            rows = (
                level if len(level) == self.groups else [registered(m, r, name=f"row_{depth}_{g:02}") for g, r in enumerate(rows)]
            )
            shifts = [registered(m, s, name=f"shift_{depth}_{g:02}") for g, s in enumerate(shifts)]
        rows = [Mux(self.whole, level[0], rows[0]), *rows[1:]]

        for g, (product, shift) in enumerate(zip(rows, shifts, strict=True)):
            term = self._term(m, product, shift, g)
            # A term has one bit below its LSB: the carry ROUND_TERM into that bit rounds it.  |term| <= 2**(term_bits - 1), and
            # whoever makes the lane gives ``sum_bits`` for as many terms as a sum has, and the constant.
            total = Signal(signed(self.sum_bits), name=f"total_{g:02}", reset_less=True)
            start = Mux(self.rounds, Const(self.constant, total.shape()), 0)
            with m.If(self.add):
                m.d.sync += total.eq((Cat(Const(ROUND_TERM, 1), Mux(self.first, start, total)).as_signed() + term)[1:])
            m.d.comb += self.sum[g].eq(total)
        return m

    def _term(self, m, product, shift, g: int) -> Signal:
        """sat(product << (shift - SHIFT_RIGHT), term_bits), with one more bit below its LSB and not rounded; two cycles later.

        The fine shift, by 0 .. 7 to the left, comes first; then the coarse one, by a multiple of eight.
        """
        bits = self.term_bits
        fine = Signal(signed(20 + 7), name=f"fine_{g:02}", reset_less=True)
        step = Signal(SHIFT_BITS - 3, name=f"step_{g:02}", reset_less=True)
        m.d.sync += [fine.eq(product << shift[:3]), step.eq(shift[3:])]

        # Only shifts to the left saturate, and there the bit below the LSB is zero: ``limit`` is the saturated term.
        term = Signal(signed(bits + 1), name=f"term_{g:02}", reset_less=True)
        sign = fine[-1]
        limit = Cat(Const(0, 1), (~sign).replicate(bits - 1), sign)
        with m.Switch(step):
            for index in range(1 << len(step)):
                left = 8 * index - SHIFT_RIGHT
                # ``outside`` are the bits of ``fine`` that leave the term or become its sign; the term fits if they are equal.
                # With ``left`` >= bits every bit leaves, and only 0 fits, not -1.
                outside = fine[max(0, bits - 1 - left) :]
                fits = ~(outside ^ sign.replicate(len(outside))).any() if left < bits else fine == 0
                moved = fine << left + 1 if left >= 0 else fine >> -left - 1
                with m.Case(index):
                    m.d.sync += term.eq(moved if len(outside) < 2 else Mux(fits, moved[: bits + 1], limit))
        return term


def _total_shift(e, exp):
    """The shift of P: 0 is SHIFT_RIGHT to the right."""
    return e + exp + (TERM_FRACTION + SHIFT_RIGHT)


def _clip(shift):
    """A signed shift, clipped to 0 .. 63."""
    return Mux(shift < 0, 0, Mux(shift >= 1 << SHIFT_BITS, (1 << SHIFT_BITS) - 1, shift))[:SHIFT_BITS]
