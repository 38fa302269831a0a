"""Multiply, accumulate, shift, round and saturate."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed

from hdl.engine.isa import Base, Bits, Event, Shift
from hdl.engine.mac16 import Multiply
from hdl.engine.unit import ACC_BITS, LEFT, RESULT_BITS, SCORE_BITS, SHIFT_BITS, Unit, later
from hdl.lib.bits import bitlen, magnitude, shift_right
from hdl.lib.shared_module import add_part
from hdl.lib.streams import EXP_BITS


class Accumulator(Unit):
    """ACC = base + a * b, and result = sat(rshr(ACC, n)).

    ``collected`` is the bit length of the OR of the magnitudes that were in ACC since the last CLEAR; ``exp`` is the exponent
    of an MX block whose largest magnitude has that many bits.
    ``total`` is the negative sum of a block's mantissas: 32 * 127 < 2**12.
    """

    INPUTS = ("word", "event", "a", "b", "gain_exp", "row", "term", "query_exp", "key_exp", "value_top", "top")
    OUTPUTS = ("result", "collected", "exp", "total")

    def elaborate(self, platform) -> Module:
        m = Module()
        high = add_part(m, "high", lambda: Multiply(a_signed=True), "multiply_signed", platform)
        low = add_part(m, "low", lambda: Multiply(a_signed=False), "multiply_unsigned", platform)
        m.d.comb += [high.a.eq(self.a[16:]), low.a.eq(self.a[:16]), high.b.eq(self.b), low.b.eq(self.b)]
        acc = Signal(signed(ACC_BITS))
        product = Signal(signed(48))
        m.d.comb += product.eq((high.o << 16) + low.o)
        base = later(m, self.word.base, 3, "base")
        with m.Switch(base):
            for kind, value in ((Base.ZERO, 0), (Base.ACC, acc), (Base.ACC_15, acc << 15)):
                with m.Case(kind):
                    m.d.sync += acc.eq(value + product)

        seen = Signal(ACC_BITS - 1)
        bits = later(m, self.word.bits, 4, "bits")
        with m.If(bits == Bits.CLEAR):
            m.d.sync += seen.eq(0)
        with m.Elif(bits == Bits.COLLECT):
            m.d.sync += seen.eq(seen | magnitude(acc))
        m.d.sync += self.collected.eq(bitlen(seen))
        above = self.above(7)
        norm_shift, base_exp = Signal(5), Signal(signed(EXP_BITS))  # wide_bits - 1 - 15 at most
        with m.If(self.event == Event.SH):
            m.d.sync += norm_shift.eq(self.above(15))
        m.d.comb += self.exp.eq(base_exp + above)
        with m.If(self.event == Event.NORM):
            # n is the bit length of t << 15, less 16.
            m.d.sync += base_exp.eq(self.gain_exp - 7 - (self.collected >> 1) - norm_shift)
        with m.If(self.word.event == Event.BASE):
            m.d.sync += base_exp.eq(self.word.imm.as_signed())

        wide = self.model.wide_bits
        most = (1 << SHIFT_BITS) - 1

        def clamped(value, name: str):
            """``value`` limited to 0 .. 63, a cycle later: beyond 55 no bit is left, and below 0 any ACC but 0 saturates."""
            wanted, n = Signal(value.shape(), name=f"{name}_wanted"), Signal(SHIFT_BITS, name=name)
            m.d.comb += wanted.eq(value)
            m.d.sync += n.eq(Mux(wanted < 0, 0, Mux(wanted > most, most, wanted)))
            return n

        exp = self.row[:7].as_signed()
        term = clamped(LEFT - 16 - exp - self.term.scale, "term_shift")
        score = clamped(LEFT - 6 - self.query_exp - self.key_exp, "score_shift")
        out = clamped(self.collected - 1 - (self.value_top - self.top), "out_shift")
        kinds = {  # n, rounds, from the left, bits
            Shift.PASS: (0, 0, 0, None),
            Shift.SH: (norm_shift, 0, 0, None),
            Shift.SH_2: (norm_shift << 1, 0, 0, None),
            Shift.BITS_7: (self.above(7), 0, 0, None),
            Shift.BITS_16: (self.above(16), 0, 0, None),
            Shift.PHASE: (30 - self.model.sine_bits, 0, 0, None),
            Shift.MX: (self.above(7), 1, 0, 8),
            Shift.ROPE: (15, 1, 0, wide),
            Shift.SILU: (8, 1, 0, None),
            Shift.ADD: (0, 0, 0, wide),
            Shift.TERM: (term, 1, 1, wide + 5),
            Shift.EMBED: (term, 1, 1, wide),
            Shift.SCORE: (score, 1, 1, SCORE_BITS),
            Shift.OUT: (out, 1, 0, wide + 4),
        }
        kind = later(m, self.word.shift, 3, "shift")
        wanted, left = Signal(SHIFT_BITS), Signal()
        with m.Switch(kind):
            for name, (shift, _, from_left, _) in kinds.items():
                with m.Case(name):
                    m.d.comb += [wanted.eq(shift), left.eq(from_left)]
        n, left = later(m, wanted, 1, "n"), later(m, left, 1, "left")
        # The lowest bit decides the rounding.
        kept = 1 + RESULT_BITS + 7
        coarse, fine = Signal(signed(ACC_BITS + 1)), Signal(signed(kept))
        sign, much = Signal(), Signal()  # ``much``: the value is so large that the result saturates, whatever ``fine`` still shifts
        doubled = Cat(Const(0, 1), Mux(left, acc << LEFT, acc)[:ACC_BITS]).as_signed()
        m.d.sync += [
            coarse.eq(shift_right(doubled, n[3:], ACC_BITS + 1, unit=8)),
            fine.eq(shift_right(coarse[:kept].as_signed(), later(m, n[:3], 1, "n_fine"), kept)),
            sign.eq(coarse[-1]),
            much.eq((coarse[kept - 1 : -1] ^ coarse[-1].replicate(ACC_BITS + 1 - kept)).any()),
        ]

        # Whether the last stage rounds, clips or saturates is decided a cycle earlier, as it then needs no wide choice.
        kind = later(m, kind, 2, "rounds")
        widths = sorted({bits for *_, bits in kinds.values() if bits is not None})
        rounds, clips, narrow = Signal(), Signal(), Signal(len(widths))
        with m.Switch(kind):
            for name, (_, rounding, _, bits) in kinds.items():
                with m.Case(name):
                    m.d.comb += [rounds.eq(rounding), clips.eq(name == Shift.MX)]
                    if bits is not None:
                        m.d.comb += narrow.eq(1 << widths.index(bits))
        rounds, clips, narrow = (
            later(m, value, 1, name) for value, name in ((rounds, "rounding"), (clips, "clips"), (narrow, "narrow"))
        )
        kind = later(m, kind, 1, "results")

        up = fine[0] & rounds
        rounded = Signal(signed(RESULT_BITS))
        m.d.comb += rounded.eq(fine[1 : RESULT_BITS + 1] + up)
        # Saturation is known without the sum: the value exceeds the width already, or it is the largest value and rounds up.
        leaves = Signal(len(widths))
        for k, bits in enumerate(widths):
            beyond = much | (fine[bits:] ^ sign.replicate(kept - bits)).any()
            m.d.comb += leaves[k].eq(beyond | (~sign & up & fine[1:bits].all()))
        saturates, limit = Signal(), Signal(signed(RESULT_BITS))
        m.d.comb += saturates.eq((narrow & leaves).any())
        for k, bits in enumerate(widths):
            with m.If(narrow[k]):
                m.d.comb += limit.eq(Cat((~sign).replicate(bits - 1), sign).as_signed())
        out = Mux(saturates, limit, rounded)
        clipped = Signal(signed(RESULT_BITS))
        m.d.comb += clipped.eq(out)
        with m.If(clips & (out[:8] == 0x80)):
            m.d.comb += clipped[0].eq(1)
        with m.If(kind != Shift.NONE):
            m.d.sync += self.result.eq(clipped)
        is_mantissa = later(m, clips, 1, "is_mantissa")
        with m.If(self.event == Event.SUM):
            m.d.sync += self.total.eq(0)
        with m.Elif(is_mantissa):
            m.d.sync += self.total.eq(self.total - self.result[:8].as_signed())
        return m

    def above(self, n: int):
        """max(0, bits - n)"""
        return Mux(self.collected >= n, self.collected - n, 0)[:SHIFT_BITS]
