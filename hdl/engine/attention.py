"""Softmax over the places of a head's cache, and the weighted sums of values."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed

from hdl.engine.isa import Event, Shift
from hdl.engine.mac16 import Multiply
from hdl.engine.operands import EXP2_AT
from hdl.engine.unit import RESULT_STAGE, SCORE_BITS, Unit, later
from hdl.lib.divider import Reciprocal
from hdl.lib.shared_module import add_part
from hdl.lib.streams import EXP_BITS


class Softmax(Unit):
    """Running maxima, denominator, and each place's weight, from the scores in ``result``.

    den < 2**16 * max_context, as each place adds at most one 16-bit weight.
    """

    INPUTS = ("word", "event", "p", "place", "mem", "result", "table")
    OUTPUTS = ("divided", "exp2_at", "looks_up", "query_exp", "key_exp", "top", "value_top", "den", "record", "reciprocal")

    def elaborate(self, platform) -> Module:
        m = Module()
        word = self.word
        is_score = (word.shift == Shift.SCORE) & (self.p <= self.place)
        scored = later(m, is_score, RESULT_STAGE + 1, "scored")
        first = later(m, self.p == 0, RESULT_STAGE + 1, "first_place")
        weighs, weighed_first = later(m, scored, 1, "weighs"), later(m, first, 1, "weighs_first")
        value_exp, score_value_exp = Signal(signed(EXP_BITS)), Signal(signed(EXP_BITS))
        with m.If(self.event == Event.QUERY_EXP):
            m.d.sync += self.query_exp.eq(self.mem[:8])
        with m.If(self.event == Event.KEY_EXP):
            m.d.sync += [self.key_exp.eq(self.mem[:8]), value_exp.eq(self.mem[8:16])]
        # Kept four cycles later: in the fifth the exponent of the next place replaces value_exp.
        with m.If(later(m, is_score, 4, "shifts")):
            m.d.sync += score_value_exp.eq(value_exp)

        whole = self.result[6:SCORE_BITS].as_signed()
        raised = Signal(signed(11))
        top, value_top = self.top, self.value_top
        m.d.comb += raised.eq(whole + score_value_exp)
        m.d.comb += [self.exp2_at.eq(Cat(self.result[:6], Const(EXP2_AT >> 6, 3))), self.looks_up.eq(scored)]

        grows, by = [Signal(name=f"grows_{k}") for k in range(2)], [Signal(5, name=f"by_{k}") for k in range(2)]
        for value, maximum, grown, shift in zip((whole, raised), (top, value_top), grows, by, strict=True):
            difference = Signal(signed(12), name=f"above_{shift.name}")
            m.d.comb += difference.eq(value - maximum)
            with m.If(scored):
                # A shift by 31 or more leaves nothing of a weight.
                distance = Mux(difference < 0, -difference, difference)
                m.d.sync += [grown.eq(~first & (difference > 0)), shift.eq(Mux(first, 0, Mux(distance > 31, 31, distance)))]
                with m.If(first | (difference > 0)):
                    m.d.sync += maximum.eq(value)

        den = self.den
        weight, rescale = Signal(16), Signal(5)
        m.d.sync += self.record.eq(Cat(weight, rescale))
        e = self.table
        moved = Signal.like(den)
        m.d.comb += moved.eq(Mux(grows[0], den, e) >> by[0])
        with m.If(weighs):
            m.d.sync += [
                den.eq(moved + Mux(grows[0], e, Mux(weighed_first, 0, den))),
                weight.eq(Mux(grows[1], e, e >> by[1])),
                rescale.eq(Mux(grows[1], by[1], 0)),
            ]

        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.d.comb += [
            reciprocal.i.valid.eq(self.event == Event.DIVIDE),
            reciprocal.i.payload.eq(self.result[:16]),
            reciprocal.o.ready.eq(self.event == Event.QUERY),
            self.divided.eq(reciprocal.o.valid),
        ]
        m.d.comb += self.reciprocal.eq(reciprocal.o.payload)
        return m


class Sums(Unit):
    """num = (num >> rescale) + weight * v, for elements 2i and 2i + 1: a place a cycle.

    abs(num) < 2**23 * max_context, and max_context is at most 256: 32 bits hold it with sign.
    """

    INPUTS = ("event", "p", "i_1", "mem")
    OUTPUTS = ("num_0", "num_1")

    def elaborate(self, platform) -> Module:
        m = Module()
        weight, rescale, values = self.mem[:16], self.mem[16:21], self.mem[32:]
        summing = later(m, (self.event == Event.SUMS), 1, "sums")
        first_sum = later(m, self.p == 0, 2, "sums_first")
        shift_by = later(m, rescale, 1, "rescale")
        for k, num in enumerate((self.num_0, self.num_1)):
            unit = add_part(m, f"weigh_{k}", lambda: Multiply(a_signed=False), "multiply_unsigned", platform)
            # Elements 2i, 2i + 1 of the four that MEM gives.
            v = Mux(self.i_1[0], values.word_select(2 + k, 8), values.word_select(k, 8)).as_signed()
            m.d.comb += [unit.a.eq(weight), unit.b.eq(v)]
            with m.If(summing):
                m.d.sync += num.eq(Mux(first_sum, 0, num >> shift_by) + unit.o)
        return m
