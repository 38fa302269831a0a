"""The two running sums of attention: the weights 2**score, and the weights times v.

Every sum is kept relative to a running maximum, which is an integer exponent, so that rescaling is a shift.  A block's lift
is N - M: how many powers of two the maximum of its numerators exceeds that of the denominator.
"""

from amaranth.hdl import Const, Module, Mux, ResetSignal, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from hdl.attention.kv_cache import kv_beat
from hdl.attention.scores import SCORE_BITS, block_ends, delayed_marks, score_beat
from hdl.lib.rom import address_bits
from hdl.lib.streams import EXP_BITS
from weights_to_rom.tables import exp2_table

EXP2 = exp2_table()

MARKS = data.StructLayout({"valid": 1, "position_start": 1, "block_end": 1, "position_end": 1, "first": 1, "last": 1})
"""Flags that travel through the pipeline with a word of v.

``valid``: the stage holds a word.  ``position_start``, ``position_end``: it is the first, the last word of its position.
``block_end``: it is the last word of its MX block.  ``first``, ``last``: its position is the first, the last one of the pass.
"""


def sums_signature(heads: int, head_dim: int, block: int, max_context: int) -> wiring.Signature:
    """num[head][element], den[head] and lift[head][block] = N - M after the last position of a pass.

    Moves with ``valid`` and ``ready`` as a stream's payload does.  The numbers are members of their own because one payload
    of all of them would be a signal of thousands of bits.
    """
    growth = ceil_log2(max_context)
    return wiring.Signature(
        {
            "num": Out(signed(24 + growth)).array(heads, head_dim),  # |num| < 2**23 * max_context
            "den": Out(16 + growth).array(heads),  # den < 2**16 * max_context
            "lift": Out(signed(5)).array(heads, head_dim // block),  # -12 .. 13
            "valid": Out(1),
            "ready": In(1),
        }
    )


class AttentionSums(wiring.Component):
    """den = sum of 2**score, num = sum of 2**score * v, both against running maxima that are integers.

    With I = score >> 6 and E = EXP2[score & 63], at every position (M = I and N = r at the first):

        M' = max(M, I)              den = (den >> (M' - M)) + (E >> (M' - I))
        N' = max(N, r), r = I + ve  num = (num >> (N' - N)) + (E >> (N' - r)) * v      N for each block of v

    A rescaling is a shift, rounded down.  Six stages, the last one a loop of one cycle:

        score, v -> EXP2 -> r -> maxima -> shift of E -> product -> sums

    Latency: ``latency`` = 6 cycles from the last word of v to ``sums``.  Rate: a word of v a cycle; a score is taken with the
    first word of its position.  ``sums`` has registers of its own: while they wait to be taken, the next pass is summed up to
    its last position.

    Parameters
    ----------
    heads : query heads of a pass
    banks : kv heads of a word of v; divides ``heads``
    head_dim : elements of a head
    block : elements of an MX block of v, a power of two; divides ``head_dim``
    lanes : elements of one kv head in a word of v; divides ``block``
    max_context : positions of a pass, at most; a sum grows by ceil(log2(max_context)) bits

    Members
    -------
    score : In(stream score_beat(heads))     LSB 2**-6
    v : In(stream kv_beat(banks, lanes))     positions in order; exponents -12 .. 13
    sums : Out(sums_signature)               one pass
    """

    def __init__(self, *, heads: int, banks: int, head_dim: int, block: int, lanes: int, max_context: int):
        self.heads, self.banks, self.lanes = heads, banks, lanes
        self.blocks, self.block_words, self.head_words = head_dim // block, block // lanes, head_dim // lanes
        self.latency = 6
        super().__init__(
            {
                "score": In(stream.Signature(score_beat(heads))),
                "v": In(stream.Signature(kv_beat(banks, lanes))),
                "sums": Out(sums_signature(heads, head_dim, block, max_context)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # ``advance`` moves every stage of the pipeline.  It is registered because it enables every register here.  Data
        # registers use it alone as their enable, without ``valid``, since their value does not matter where no word is.
        advance = Signal(init=1)

        # A score is taken with the first word of its position, so that the next score can arrive during the other words.
        sub, sub_out = Signal(address_bits(self.head_words)), Signal(address_bits(self.head_words))
        first, last = Signal(), Signal()
        start, word = sub == 0, Signal(MARKS)
        m.d.comb += [
            word.valid.eq(self.v.valid & (self.score.valid | ~start)),
            word.position_start.eq(start),
            word.block_end.eq(block_ends(sub, self.block_words)),
            word.position_end.eq(sub == self.head_words - 1),
            word.first.eq(Mux(start, self.score.payload.first, first)),
            word.last.eq(Mux(start, self.score.payload.last, last)),
            self.v.ready.eq(advance & (self.score.valid | ~start)),
            self.score.ready.eq(advance & self.v.valid & start),
        ]
        with m.If(advance & word.valid):
            m.d.sync += [sub.eq(Mux(word.position_end, 0, sub + 1)), first.eq(word.first), last.eq(word.last)]

        at_word = delayed_marks(m, advance, word, "word")
        at_read = delayed_marks(m, advance, at_word, "read")
        at_maximum = delayed_marks(m, advance, at_read, "maximum")
        at_shifted = delayed_marks(m, advance, at_maximum, "shifted")
        at_product = delayed_marks(m, advance, at_shifted, "product")
        # Only the words of the last position go to the registers of ``sums``, so only they wait until those are free:
        # advance == ~(at_product.valid & at_product.last & sums.valid).  The lines below compute it a cycle ahead.
        leaves = Signal()  # at_product.valid & at_product.last
        with m.If(advance):
            m.d.sync += leaves.eq(at_shifted.valid & at_shifted.last)
        completes = leaves & at_product.position_end
        goes_on, leaves_next = Signal(), Signal()
        m.d.comb += [
            leaves_next.eq(Mux(advance, at_shifted.valid & at_shifted.last, leaves)),
            goes_on.eq(~Mux(advance, leaves_next & (completes | (self.sums.valid & ~self.sums.ready)), ~self.sums.ready)),
        ]
        takes = Signal()  # advance & leaves
        m.d.sync += [advance.eq(goes_on), takes.eq(goes_on & leaves_next)]

        # The last position's words clear the numerators for the next pass.  ``clears`` includes the reset, because a
        # flip-flop has only one synchronous reset.
        clears = Signal()
        m.d.comb += clears.eq(ResetSignal() | (advance & at_product.valid & at_product.last))

        # v is delayed by as many stages as the weights that it is multiplied with.
        v = [bank.mant for bank in self.v.payload.bank]
        for name in ("word", "read", "maximum", "shifted"):
            after = [Signal.like(mant, name=f"v_{name}_{u}", reset_less=True) for u, mant in enumerate(v)]
            with m.If(advance):
                m.d.sync += [a.eq(mant) for a, mant in zip(after, v, strict=True)]
            v = after

        m.submodules.exp2 = exp2 = Memory(shape=16, depth=64, init=EXP2)
        for h in range(self.heads):
            bank = h * self.banks // self.heads
            score = self.score.payload.score[h]

            # EXP2, and in the stage after it r = I + ve.  |r| <= 512 + 13: 11 bits signed.  The exponent of v is registered
            # first, because v comes from a memory with a long access time.  ``whole`` is I, the integer part of the score.
            read = exp2.read_port()
            score_word = Signal(signed(SCORE_BITS), name=f"score_word_{h}", reset_less=True)
            v_exp = Signal(signed(EXP_BITS), name=f"v_exp_{h}", reset_less=True)
            whole = Signal(signed(SCORE_BITS - 6), name=f"whole_{h}", reset_less=True)
            exponent = Signal(signed(SCORE_BITS - 5), name=f"exponent_{h}", reset_less=True)
            m.d.comb += [read.addr.eq(score_word[:6]), read.en.eq(advance & at_word.position_start)]
            with m.If(advance):
                m.d.sync += v_exp.eq(self.v.payload.bank[bank].exp)
            with m.If(advance & start):
                m.d.sync += score_word.eq(score)
            with m.If(advance):
                m.d.sync += [whole.eq(score_word >> 6), exponent.eq((score_word >> 6) + v_exp)]

            # Maxima, and the shifts that follow from them.  A shift has just enough bits for one that leaves nothing of den
            # and E, and only the sign of num.  ``num_max`` has a register for each block, the current block's first.
            den_max = Signal.like(whole, name=f"den_max_{h}", reset_less=True)
            num_max = [Signal.like(exponent, name=f"num_max_{h}_{c}", reset_less=True) for c in range(self.blocks)]
            block_max = Signal.like(exponent, name=f"block_max_{h}", reset_less=True)
            power = Signal(16, name=f"power_{h}", reset_less=True)
            den_rescale = Signal(bits_for(len(self.sums.den[h])), name=f"den_rescale_{h}", reset_less=True)
            num_rescale = Signal(bits_for(len(self.sums.num[h][0]) - 1), name=f"num_rescale_{h}", reset_less=True)
            den_lower, num_lower = (Signal(bits_for(16), name=f"{name}_lower_{h}", reset_less=True) for name in ("den", "num"))
            with m.If(advance & at_read.valid):
                maximum, rescale, lower = _maximum(at_read.first, whole, den_max)
                with m.If(at_read.position_start):
                    m.d.sync += [
                        den_max.eq(maximum),
                        den_rescale.eq(_at_most(rescale, den_rescale)),
                        den_lower.eq(_at_most(lower, den_lower)),
                    ]
                maximum, rescale, lower = _maximum(at_read.first, exponent, num_max[0])
                m.d.sync += [
                    block_max.eq(maximum),
                    num_rescale.eq(_at_most(rescale, num_rescale)),
                    num_lower.eq(_at_most(lower, num_lower)),
                    power.eq(read.data),
                ]
                with m.If(at_read.block_end):
                    m.d.sync += [to.eq(fro) for to, fro in zip(num_max, [*num_max[1:], maximum], strict=True)]

            # E relative to the maxima: the weight in the denominator, and in the numerators.
            den_term, num_term = (Signal(16, name=f"{name}_term_{h}", reset_less=True) for name in ("den", "num"))
            den_shift, num_shift = (
                Signal.like(x, name=f"{name}_shift_{h}", reset_less=True)
                for name, x in (("den", den_rescale), ("num", num_rescale))
            )
            lift = Signal.like(self.sums.lift[h][0], name=f"lift_{h}", reset_less=True)
            with m.If(advance):
                m.d.sync += [
                    den_term.eq(power >> den_lower),
                    num_term.eq(power >> num_lower),
                    den_shift.eq(den_rescale),
                    num_shift.eq(num_rescale),
                    lift.eq(block_max - den_max),
                ]

            # Products of the numerators: at most (2**16 - 1) * 127 < 2**23, so 24 bits signed.  The denominator needs no
            # product and is summed in this stage.
            product = [Signal(signed(24), name=f"product_{h}_{j}", reset_less=True) for j in range(self.lanes)]
            num_by = Signal.like(num_shift, name=f"num_by_{h}", reset_less=True)
            lift_by = Signal.like(lift, name=f"lift_by_{h}", reset_less=True)
            den = Signal.like(self.sums.den[h], name=f"den_{h}", reset_less=True)
            with m.If(advance):
                m.d.sync += [p.eq(num_term * v[bank][j]) for j, p in enumerate(product)]
                m.d.sync += [num_by.eq(num_shift), lift_by.eq(lift)]
            with m.If(advance & at_shifted.valid & at_shifted.position_start):
                m.d.sync += den.eq(Mux(at_shifted.first, 0, _rescale(den, den_shift)) + den_term)

            # The numerators are a ring of head_words words, the current one first: each word of v adds to it and moves it to
            # the end.  The words of the last position leave zeros instead.
            num = [
                [
                    Signal.like(self.sums.num[h][0], name=f"num_{h}_{s}_{j}", reset_less=s == self.head_words - 1)
                    for j in range(self.lanes)
                ]
                for s in range(self.head_words)
            ]
            new = [Signal.like(x, name=f"num_new_{h}_{j}") for j, x in enumerate(num[0])]
            for total, held, p in zip(new, num[0], product, strict=True):
                m.d.comb += total.eq(_rescale(held, num_by) + p)
            with m.If(advance & at_product.valid):
                for to, fro in zip(num, [*num[1:], new], strict=True):
                    m.d.sync += [t.eq(f) for t, f in zip(to, fro, strict=True)]
            with m.If(clears):
                m.d.sync += [x.eq(0) for x in num[-1]]
            with m.If(takes):
                m.d.sync += self.sums.den[h].eq(den)
                with m.Switch(sub_out):
                    for s in range(self.head_words):
                        with m.Case(s):
                            m.d.sync += self.sums.lift[h][s // self.block_words].eq(lift_by)
                            m.d.sync += [self.sums.num[h][s * self.lanes + j].eq(x) for j, x in enumerate(new)]

        with m.If(advance & at_product.valid):
            m.d.sync += sub_out.eq(Mux(at_product.position_end, 0, sub_out + 1))
        with m.If(self.sums.ready):
            m.d.sync += self.sums.valid.eq(0)
        with m.If(advance & completes):
            m.d.sync += self.sums.valid.eq(1)
        return m


def _maximum(first, new, held):
    """(max, max - held, max - new), where max = max(held, new).

    At the ``first`` position ``held`` is ignored: max = new, and max - held shifts sums that are 0.
    """
    rise, fall = new - held, held - new
    up = first | fall[-1]
    return Mux(up, new, held), Mux(up, rise, 0), Mux(up, 0, fall)


def _at_most(value, like):
    """A value >= 0, limited to the largest that ``like`` can hold."""
    value = Value.cast(value)
    return Mux(value[len(like) :].any(), ~Const(0, len(like)), value[: len(like)])


def _rescale(held, shift):
    """A sum relative to a maximum that has grown by ``shift``, rounded down."""
    return held >> shift
