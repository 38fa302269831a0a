"""One row of a matrix: codes in, Wide out."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.fabric.code_dot import CodeDot, product_shape, total_shape
from hdl.lib.bits import saturate
from hdl.lib.pipeline import delayed
from weights_to_rom.model_format import BLOCK
from weights_to_rom.rom_map import weight_word

TERM_FRACTION = 16
"""A term's LSB is 2**-16."""

RESULT_SHIFT = 4
"""From a term's LSB to that of Wide, 2**-12."""

ROUND_TERM = 1
"""Half a term's LSB, in the guard bit below it."""

ROUND_RESULT = 1 << (RESULT_SHIFT - 1)
"""Half of Wide's LSB, in LSBs of a term."""

SCALE_SHAPE = signed(9)
"""exp + 16 (+ 4 in the high plane): -112..147; with e (-64..63) still above -2**8 and below 2**8."""


def slice_bits(block_lanes: int) -> int:
    """Bits of d | m << 8 that a word carries."""
    return block_lanes // 2


def word_bits(block_lanes: int) -> int:
    """A lane's weight word: ``block_lanes`` codes of four bits, then a slice of d | m << 8."""
    return weight_word(block_lanes).width


class RowLane(wiring.Component):
    """y = sat(rshr(sum of the terms, 4), wide_bits)

    term = sat(rshr(d * P - ((m * S) << k), -(e + scale)), wide_bits + 5), for each block and plane,
    LSB 2**-16; y is Wide, LSB 2**-12.

    Latency: ``latency`` = multiplier.block_latency + 6 cycles from the last ``word`` of the row to ``result``.  Rate: a
    free-running pipeline, one word a cycle.  The values of a block are valid once a block, in the cycle that the table names.
    With p = ``multiplier.block_latency``, counted from the block's last ``word``::

        0        codes, and a slice of d and m
        p        P (the sum over the block's words), d, m; ``total``, ``scale``, ``row``
        p + 1    d * P, m * S, shift = e + scale
        p + 2    T
        p + 3    T << (shift mod 8)
        p + 4    the rest of the shift, by multiples of eight; whether it leaves the term
        p + 5    the term, saturated; ``add``, ``first``
        p + 6    ``result``, if that was the row's last term

    The shift has two steps, so that it needs neither the negative of the shift nor an adder for the rounding.  The fine step
    always goes to the left, the coarse step selects one of eleven shifts, and half an LSB enters at the accumulator's carry.

    Parameters
    ----------
    multiplier : one of ``code_dot.MULTIPLIERS``; it also gives the number of elements of a word, ``block_lanes``
    wide_bits : bits of a result, 24 or 32
    max_terms : the largest number of terms of a row, blocks * planes; it makes the accumulator
        wide_bits + 6 + ceil(log2(max_terms)) bits wide

    Members
    -------
    word : In(word_bits)      element j's code at bit 4j; above the codes the word's slice of d | m << 8
    prepared : In             the values of the multiplier's broadcast side, for ``word``
    start : In(1)             at p - 1: the block's first word (with block_lanes = 32 every word is)
    total : In                at p: S of the block
    scale : In(SCALE_SHAPE)   at p: exponent of the block + 16, + 4 in the high plane
    row : In(10)              at p: e (7 bits signed) | k << 7
    add, first : In(1)        at p + 5: add the term; it is the row's first
    result : Out(wide)        at p + 6
    """

    AFTER_PRODUCT = 6
    """Cycles from P to ``result``."""

    def __init__(self, *, multiplier: CodeDot, wide_bits: int, max_terms: int) -> None:
        self.multiplier, self.wide_bits, self.max_terms = multiplier, wide_bits, max_terms
        self.block_lanes = multiplier.block_lanes
        self.latency = multiplier.block_latency + self.AFTER_PRODUCT
        super().__init__(
            {
                "word": In(word_bits(self.block_lanes)),
                "prepared": In(multiplier.signature),
                "start": In(1),
                "total": In(total_shape(BLOCK)),
                "scale": In(SCALE_SHAPE),
                "row": In(10),
                "add": In(1),
                "first": In(1),
                "result": Out(signed(wide_bits)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        term_bits = self.wide_bits + 5
        codes = [self.word[4 * j : 4 * j + 4] for j in range(self.block_lanes)]
        part = self.multiplier.dot(m, self.prepared, codes)
        scales = self.word[4 * self.block_lanes :]
        scales = delayed(m, scales, self.multiplier.latency, name="scales", first=0)[-1]
        product = Signal(product_shape(BLOCK), reset_less=True)
        if self.block_lanes < BLOCK:
            whole = Signal(16, reset_less=True)
            m.d.sync += [
                product.eq(Mux(self.start, 0, product) + part),
                whole.eq(Cat(whole, scales)[slice_bits(self.block_lanes) :]),
            ]
            scales = whole
        else:
            m.d.comb += product.eq(part)
        d, minimum = scales[:8], scales[8:]

        # |d * P| <= 255 * 32 * 15 * 127 < 2**24; |m * S| <= 255 * 32 * 127 < 2**20, and 2**24 after k <= 4.
        scaled = Signal(signed(25), reset_less=True)
        offset = Signal(signed(21), reset_less=True)
        k = Signal(3, reset_less=True)
        shift = Signal(SCALE_SHAPE, reset_less=True)
        m.d.sync += [
            scaled.eq(product * d),
            offset.eq(minimum * self.total),
            k.eq(self.row[7:]),
            shift.eq(self.row[:7].as_signed() + self.scale),
        ]

        t = Signal(signed(26), reset_less=True)
        t_shift = Signal(SCALE_SHAPE, reset_less=True)
        m.d.sync += [t.eq(scaled - (offset << k)), t_shift.eq(shift)]

        # A shift by more than five bytes to the right leaves nothing of T; to the left, every T except zero saturates.
        fine = Signal(signed(26 + 7), reset_less=True)
        step = Signal(range(11), reset_less=True)
        m.d.sync += fine.eq(t << t_shift[:3])
        coarse = t_shift[3:].as_signed()
        with m.If(coarse < -5):
            m.d.sync += step.eq(0)
        with m.Elif(coarse > 5):
            m.d.sync += step.eq(10)
        with m.Else():
            m.d.sync += step.eq(coarse + 5)

        # The term has a guard bit below its LSB.  Only shifts to the left saturate; they leave the guard bit zero.
        shifted = Signal(signed(term_bits + 1), reset_less=True)
        sign, negative, saturates = fine[-1], Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += negative.eq(sign)
        with m.Switch(step):
            for index in range(11):
                octets = index - 5
                # The bits of ``fine`` that are shifted out of the term, and its sign.
                outside = fine[max(0, term_bits - 1 - 8 * octets) :]
                fits = ~(outside ^ sign.replicate(len(outside))).any()
                if term_bits <= 8 * octets:  # the lowest bit is shifted out too: -1 does not fit either
                    fits = fine == 0
                moved = fine << 8 * octets + 1 if octets >= 0 else fine >> -8 * octets - 1
                with m.Case(index):
                    if index == 0:
                        m.d.sync += [shifted.eq(0), saturates.eq(0)]
                    else:
                        m.d.sync += [shifted.eq(moved), saturates.eq(~fits if len(outside) > 1 else 0)]
        term = Signal(signed(term_bits + 1), reset_less=True)
        limit = Cat(Const(0, 1), (~negative).replicate(term_bits - 1), negative)
        m.d.sync += term.eq(Mux(saturates, limit, shifted))

        # Terms and ROUND_RESULT are at most 2**(wide_bits + 4) in magnitude: max_terms + 1 of them fit.
        acc = Signal(signed(term_bits + 1 + ceil_log2(self.max_terms)), reset_less=True)
        base = Mux(self.first, Const(ROUND_RESULT, acc.shape()), acc)
        with m.If(self.add):
            m.d.sync += acc.eq((Cat(Const(ROUND_TERM, 1), base).as_signed() + term)[1:])
        m.d.comb += self.result.eq(saturate(acc[RESULT_SHIFT:].as_signed(), self.wide_bits))
        return m
