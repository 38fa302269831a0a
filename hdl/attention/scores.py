"""Scores of attention: q times k in MX blocks, in units of a logarithm to base two."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.attention.kv_cache import kv_beat
from hdl.lib.bits import rshr, saturate, shift_right
from hdl.lib.pipeline import adder_tree
from hdl.lib.rom import address_bits
from hdl.lib.streams import EXP_BITS, mx_beat

SCORE_BITS = 16
"""A score: signed, LSB 2**-6."""

MARKS = data.StructLayout({"valid": 1, "block_end": 1, "position_end": 1, "first": 1, "last": 1})
"""Marks are flags that travel through the pipeline with a word of k.

``valid``: the stage holds a word.  ``block_end``, ``position_end``: it is the last word of its MX block, of its position.
``first``, ``last``: its position is the first, the last one of the pass.
"""


def score_beat(heads: int) -> data.StructLayout:
    """The scores of ``heads`` query heads against one position; is it the first, the last one of the pass."""
    return data.StructLayout({"score": data.ArrayLayout(signed(SCORE_BITS), heads), "first": 1, "last": 1})


class AttentionScores(wiring.Component):
    """score = sat(sum over blocks c of sat(rshr(P[c], -(qe[c] + ke[c] + 6)), 20), 16), P[c] = sum of q * k in block c.

    ``heads`` query heads against the same positions; heads / banks of them meet the kv head of each bank:

        q -> waiting -> current -> word --.
        k -----------------------> word -- * -> sum of a word [-> block] -> shift -> round [-> blocks] -> o

    A pass is one set of queries against all positions.  The registers ``current`` hold the q of this pass; ``waiting``
    takes in that of the next pass meanwhile, and moves to ``current`` with the last word of k.  With ``n_sinks`` each head
    has two q: the first ``n_sinks`` positions of a pass meet the second one.  Stages in brackets exist where a block has
    several words, a head several blocks.

    Latency: ``latency`` cycles from a position's last word of k to its score: 5, and 1 for each stage in brackets.  Rate:
    one word a cycle.  If no pass is under way, the first word of k moves 2 cycles after q's last beat at the earliest.

    Parameters
    ----------
    heads : query heads of a pass
    banks : kv heads of a word of k; divides ``heads``
    head_dim : elements of a head
    block : elements of an MX block, a power of two up to 32; divides ``head_dim``
    lanes : elements of one kv head in a word of k; divides ``block``
    vector_lanes : elements of a beat of q; divides ``block``
    n_sinks : positions that meet the second q; 0 if there is only one

    Members
    -------
    q : In(stream mx_beat(vector_lanes))      heads * head_dim values (twice with sinks); exponents -12 .. 13
    k : In(stream kv_beat(banks, lanes))      positions in order; exponents -12 .. 13
    o : Out(stream score_beat(heads))         LSB 2**-6, one beat a position
    """

    def __init__(self, *, heads: int, banks: int, head_dim: int, block: int, lanes: int, vector_lanes: int, n_sinks: int = 0):
        self.n_sinks = n_sinks
        self.heads, self.banks, self.head_dim, self.block = heads, banks, head_dim, block
        self.lanes, self.vector_lanes = lanes, vector_lanes
        self.blocks, self.block_words = head_dim // block, block // lanes
        self.head_words = head_dim // lanes
        self.latency = 5 + (self.block_words > 1) + (self.blocks > 1)
        super().__init__(
            {
                "q": In(stream.Signature(mx_beat(vector_lanes))),
                "k": In(stream.Signature(kv_beat(banks, lanes))),
                "o": Out(stream.Signature(score_beat(heads))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        heads = range(self.heads)
        advance = Signal()  # moves every stage of the pipeline
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)

        # The operands of every head's products are registered: k comes from a memory with a long access time, and a product
        # without a DSP is an array of adders.
        have_q, release_q = Signal(), Signal()
        sub = Signal(address_bits(self.head_words))
        sink = Signal()
        q_mant, q_exp = self._queries(m, have_q, release_q, sub, sink)
        word = Signal(MARKS)
        first = Signal(init=1)
        m.d.comb += [
            self.k.ready.eq(advance & have_q),
            word.valid.eq(self.k.valid & have_q),
            word.block_end.eq(block_ends(sub, self.block_words)),
            word.position_end.eq(sub == self.head_words - 1),
            word.first.eq(first),
            word.last.eq(self.k.payload.last),
        ]
        with m.If(advance & word.valid):
            m.d.sync += sub.eq(Mux(word.position_end, 0, sub + 1))
            with m.If(word.position_end):
                m.d.sync += first.eq(word.last)
            if self.n_sinks:
                sinks_left = Signal(range(self.n_sinks + 1), init=self.n_sinks)
                m.d.comb += sink.eq(sinks_left != 0)
                with m.If(word.last):
                    m.d.sync += sinks_left.eq(self.n_sinks)
                with m.Elif(word.position_end & sink):
                    m.d.sync += sinks_left.eq(sinks_left - 1)
            m.d.comb += release_q.eq(word.last)

        # |q * k| <= 127**2 < 2**14: 15 bits signed.  A term is its block's dot product shifted left by qe + ke + 6, -18 .. 32.
        # The shifter places the dot product 20 to the left, where every value but 0 saturates, and shifts right from there.
        product = [[Signal(signed(15), name=f"product_{h}_{j}", reset_less=True) for j in range(self.lanes)] for h in heads]
        exp = [Signal(signed(EXP_BITS + 1), name=f"exp_{h}", reset_less=True) for h in heads]
        at_word = delayed_marks(m, advance, word, "word")
        k_word = Signal(self.k.payload.bank.shape(), reset_less=True)
        q_word = [Signal(8 * self.lanes, name=f"q_word_{h}", reset_less=True) for h in heads]
        q_word_exp = [Signal(signed(EXP_BITS), name=f"q_word_exp_{h}", reset_less=True) for h in heads]
        # Operands are not gated by ``valid``: their value does not matter where no word is.  ``advance`` alone enables them,
        # because the enable fans out to every lane.
        with m.If(advance):
            m.d.sync += k_word.eq(self.k.payload.bank)
            m.d.sync += [to.eq(fro) for to, fro in zip(q_word + q_word_exp, q_mant + q_exp, strict=True)]
        at_product = delayed_marks(m, advance, at_word, "product")
        with m.If(advance):
            for h in heads:
                k = k_word[h * self.banks // self.heads]
                m.d.sync += exp[h].eq(q_word_exp[h] + k.exp)
                m.d.sync += [p.eq(q_word[h].word_select(j, 8).as_signed() * k.mant[j]) for j, p in enumerate(product[h])]

        dot = [Signal(signed(15 + ceil_log2(self.lanes)), name=f"dot_{h}", reset_less=True) for h in heads]
        right = [Signal(6, name=f"right_{h}", reset_less=True) for h in heads]
        marks = delayed_marks(m, advance, at_product, "dot")
        with m.If(advance):
            for h in heads:
                shift = 20 - 6 - exp[h]
                m.d.sync += [dot[h].eq(adder_tree(product[h])), right[h].eq(Mux(shift < 0, 0, shift))]

        if self.block_words > 1:
            at_dot, word_right = marks, right
            right = [Signal(6, name=f"block_right_{h}", reset_less=True) for h in heads]
            with m.If(advance & at_dot.valid):
                m.d.sync += [b.eq(w) for b, w in zip(right, word_right, strict=True)]
            # The dot product of a block is at most 32 * 127**2 < 2**19: 20 bits signed.
            _, dot = _sums(m, advance & at_dot.valid, at_dot.block_end, dot, 20, "block")
            marks = delayed_marks(m, advance, at_dot, "block", at_dot.block_end)

        # 20 to the left and one bit below the LSB, which decides the rounding: 21 bits more than the 20 of a dot product.
        aligned = [Signal(signed(41), name=f"aligned_{h}", reset_less=True) for h in heads]
        at_aligned = delayed_marks(m, advance, marks, "aligned")
        with m.If(advance):
            for h in heads:
                m.d.sync += aligned[h].eq(shift_right(Cat(Const(0, 21), dot[h]).as_signed(), right[h], 41))

        rounded = [rshr(a, 1) for a in aligned]
        limited = [_limited(a) for a in aligned]
        marks = at_aligned
        if self.blocks > 1:
            term = [Signal(signed(20), name=f"term_{h}", reset_less=True) for h in heads]
            at_term = delayed_marks(m, advance, at_aligned, "term")
            with m.If(advance & at_aligned.valid):
                m.d.sync += [t.eq(saturate(r, 20)) for t, r in zip(term, rounded, strict=True)]
            width = 20 + ceil_log2(self.blocks)
            rounded, _ = _sums(m, advance & at_term.valid, at_term.position_end, term, width, "score")
            limited = [saturate(r, SCORE_BITS) for r in rounded]
            marks = at_term
        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(marks.valid & marks.position_end),
                self.o.payload.first.eq(marks.first),
                self.o.payload.last.eq(marks.last),
            ]
            m.d.sync += [self.o.payload.score[h].eq(limited[h]) for h in heads]
        return m

    def _queries(self, m, have_q, release_q, sub, sink):
        """(mantissas, exponents) of word ``sub`` of q, one for each head; takes in the next pass's q meanwhile.

        ``have_q`` is high while ``current`` holds a pass's q; ``release_q`` says that the pass's last word of k moves.
        ``sink`` chooses the q of the sinks.
        """
        turns = 2 if self.n_sinks else 1  # q of a head
        beats = self.heads * turns * self.head_dim // self.vector_lanes
        waiting, current = (
            [Signal(8 * self.vector_lanes, name=f"{name}_{b}", reset_less=True) for b in range(beats)]
            for name in ("waiting", "current")
        )
        waiting_exp, current_exp = (
            [Signal(signed(EXP_BITS), name=f"{name}_exp_{c}", reset_less=True) for c in range(self.heads * turns * self.blocks)]
            for name in ("waiting", "current")
        )
        full = Signal()
        beat = Signal(address_bits(beats))
        with m.If(~have_q | release_q):
            m.d.sync += have_q.eq(full)
            with m.If(full):
                m.d.sync += full.eq(0)
                m.d.sync += [c.eq(w) for c, w in zip(current + current_exp, waiting + waiting_exp, strict=True)]
        m.d.comb += self.q.ready.eq(~full | ~have_q)
        with m.If(self.q.valid & self.q.ready):
            m.d.sync += beat.eq(beat + 1)
            with m.Switch(beat):
                for b in range(beats):
                    with m.Case(b):
                        m.d.sync += [
                            waiting[b].eq(self.q.payload.mant),
                            waiting_exp[b * self.vector_lanes // self.block].eq(self.q.payload.exp),
                        ]
            with m.If(beat == beats - 1):
                m.d.sync += [beat.eq(0), full.eq(1)]

        flat = Cat(current)
        mant, exp = [], []
        for h in range(self.heads):
            words = [
                [flat.word_select((h * turns + turn) * self.head_words + s, 8 * self.lanes) for s in range(self.head_words)]
                for turn in range(turns)
            ]
            exps = [
                [current_exp[(h * turns + turn) * self.blocks + s // self.block_words] for s in range(self.head_words)]
                for turn in range(turns)
            ]
            mant.append(Signal(8 * self.lanes, name=f"q_mant_{h}"))
            exp.append(Signal(signed(EXP_BITS), name=f"q_exp_{h}"))
            for to, of_turns in ((mant[h], words), (exp[h], exps)):
                if self.n_sinks:
                    m.d.comb += to.eq(Mux(sink, Array(of_turns[1])[sub], Array(of_turns[0])[sub]))
                else:
                    m.d.comb += to.eq(Array(of_turns[0])[sub])
        return mant, exp


def delayed_marks(m, advance, marks, name: str, passes=1):
    """The marks of a word in the next stage, called ``name``.  A word for which ``passes`` is low does not go there."""
    after = Signal(marks.shape(), name=f"at_{name}")
    with m.If(advance):
        m.d.sync += [after.eq(marks), after.valid.eq(marks.valid & passes)]
    return after


def block_ends(sub, block_words: int):
    """Whether word ``sub`` of a head is the last of its block, which has ``block_words``, a power of two."""
    return (sub & (block_words - 1)) == block_words - 1


def _limited(doubled):
    """saturate(rshr(doubled, 1), SCORE_BITS); the bits far above a score are compared in parallel with the addition."""
    near, sign = doubled[: SCORE_BITS + 2].as_signed(), doubled[-1]
    far = (doubled[SCORE_BITS + 1 : -1] ^ sign.replicate(len(doubled) - SCORE_BITS - 2)).any()
    limit = Cat((~sign).replicate(SCORE_BITS - 1), sign).as_signed()
    return Mux(far, limit, saturate(rshr(near, 1), SCORE_BITS))


def _sums(m, en, end, values, width: int, name: str):
    """Running sums of ``values``, ``width`` bits each, that begin anew after each word with ``end``.

    Returns the sums with this cycle's values in them, and the registers that hold them a cycle later.  ``fresh`` says that
    the next word begins a sum.
    """
    fresh = Signal(init=1, name=f"{name}_fresh")
    totals, registers = (
        [Signal(signed(width), name=f"{name}_{kind}_{h}", reset_less=True) for h in range(len(values))] for kind in ("total", "sum")
    )
    for value, total, register in zip(values, totals, registers, strict=True):
        m.d.comb += total.eq(Mux(fresh, 0, register) + value)
    with m.If(en):
        m.d.sync += [fresh.eq(end), *(r.eq(t) for r, t in zip(registers, totals, strict=True))]
    return totals, registers
