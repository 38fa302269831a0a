"""The matrix-vector product: the counters of its terms, the dot product of a block, and the sums of rows."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.utils import ceil_log2

from hdl.engine.isa import Event, Read, Shift
from hdl.engine.mac16 import MultiplyBytes
from hdl.engine.unit import RESULT_STAGE, Unit, later
from hdl.fabric.row_lane import slice_bits
from hdl.lib.pipeline import adder_tree
from hdl.lib.shared_module import add_part
from hdl.lib.streams import EXP_BITS
from weights_to_rom.schedule import Step, head_matrix, layer_matrices


class Terms(Unit):
    """Count rows, blocks and planes of a matrix, and tell the scale of the term that has ended.

    The exponents and sums of mantissas of the input's blocks are kept here, as ``Event.BLOCK`` brings them.
    """

    INPUTS = ("word", "event", "exp", "total", "residual_shift", "term_next")
    OUTPUTS = ("step", "busy", "block", "term", "row_next", "matrix_ends")

    def elaborate(self, platform) -> Module:
        m = Module()
        model, word = self.model, self.word
        shapes = {s.step: s for s in (*layer_matrices(model), head_matrix(model))}
        max_blocks = max(s.blocks for s in shapes.values())
        step, active = self.step, Signal()
        m.d.comb += self.busy.eq(active & (word.read == Read.X))
        row, block, low = Signal(range(max(s.rows for s in shapes.values()))), self.block, Signal()
        two = Signal()
        last_row, last_block = Signal.like(row), Signal.like(block)
        with m.Switch(step):
            for s in shapes.values():
                with m.Case(s.step):
                    m.d.comb += [last_row.eq(s.rows - 1), last_block.eq(s.blocks - 1), two.eq(s.planes == 2)]

        # The input's blocks: exponents and (negative) sums of mantissas.
        kept = Signal.like(block)
        blocks = [
            Signal(data.StructLayout({"exp": signed(EXP_BITS), "total": signed(13)}), name=f"block_{k}") for k in range(max_blocks)
        ]
        with m.If(self.event == Event.BLOCK):
            m.d.sync += kept.eq(kept + 1)
            for k, kept_block in enumerate(blocks):
                with m.If(kept == k):
                    m.d.sync += [kept_block.exp.eq(self.exp), kept_block.total.eq(self.total)]

        term = self.term
        plane_ends = low | ~two
        row_ends = Signal()
        m.d.comb += [row_ends.eq(plane_ends & (block == last_block)), self.matrix_ends.eq(row_ends & (row == last_row))]
        here = Array(blocks)[block] if max_blocks > 1 else blocks[0]
        with m.If(self.term_next):
            m.d.sync += [
                term.valid.eq(1),
                term.first.eq((block == 0) & ~low),
                term.last.eq(row_ends),
                term.total.eq(here.total),
                # The high plane counts 2**4 as much as the low one.
                term.scale.eq(here.exp + Mux(two & ~low, 4, 0)),
                low.eq(two & ~low),
            ]
            with m.If(plane_ends):
                m.d.sync += block.eq(Mux(row_ends, 0, block + 1))
            with m.If(row_ends):
                m.d.sync += row.eq(row + 1)
                m.d.comb += self.row_next.eq(1)
        named = later(m, self.word.imm, 1, "imm")
        with m.If(self.event == Event.STEP):
            m.d.sync += [step.eq(named), active.eq(1), row.eq(0), block.eq(0), low.eq(0), kept.eq(0), term.valid.eq(0)]
        with m.If(self.event == Event.EMBED):
            m.d.sync += [term.scale.eq(self.residual_shift - 4), active.eq(0)]
        return m


class Dot(Unit):
    """product = sum of eight codes, or mantissas of a query, times mantissas of MEM; of a block over four words.

    A score is at most 8 * 127**2 < 2**17, a block's product 32 * 15 * 127 < 2**16: 18 bits hold both with sign.
    """

    INPUTS = ("word", "event", "mem", "code", "part", "scale_slice")
    OUTPUTS = ("product", "d", "offset")

    def elaborate(self, platform) -> Module:
        m = Module()
        word = self.word
        mem, query = self.mem, Signal(64)
        with m.If(self.event == Event.QUERY):
            m.d.sync += query.eq(mem)
        scores = later(m, word.read == Read.K, 1, "scores")
        other = Signal(64)
        m.d.comb += other.eq(Mux(scores, query, Cat(Cat(self.code.word_select(j, 4), Const(0, 4)) for j in range(8))))
        products = []
        for k in range(4):
            pair = add_part(m, f"bytes_{k}", MultiplyBytes, "multiply_bytes", platform)
            m.d.comb += [pair.a.eq(mem.word_select(k, 16)), pair.b.eq(other.word_select(k, 16))]
            products += [pair.o.word_select(j, 16).as_signed() for j in range(2)]
        sum_of_products = adder_tree(products)
        here = later(m, (word.read == Read.X) | (word.read == Read.K), 2, "here")
        first = later(m, (self.part == 0) | (word.read == Read.K), 2, "first")
        ends = later(m, (self.part == 3) | (word.read == Read.K), 2, "ends")
        # A score's: 8 * 127**2 < 2**17; a block's: 32 * 15 * 127 < 2**16.
        so_far, p = Signal(signed(18)), Signal(signed(18))
        m.d.comb += p.eq(Mux(first, 0, so_far) + sum_of_products)
        # A slice is a quarter of d | m << 8.
        scales = Signal(16)
        bits = slice_bits(self.config.block_lanes)
        with m.If(later(m, word.read == Read.X, 1, "fabric")):
            m.d.sync += scales.eq(Cat(scales, self.scale_slice)[bits:])
        with m.If(here):
            m.d.sync += so_far.eq(p)
            with m.If(ends):
                m.d.sync += [self.product.eq(p), Cat(self.d, self.offset).eq(scales)]
        return m


class Rows(Unit):
    """y = sat(rshr(sum of a row's terms, 4), wide_bits), written to MEM, or given out as a logit.

    A row's sum has ``wide_bits + 6`` bits and one more for each doubling of its terms: no sum overflows.
    """

    INPUTS = ("word", "event", "term", "result", "step", "ready")
    OUTPUTS = ("row_leaves", "at_row", "y", "logit", "logit_valid", "logit_last")

    def elaborate(self, platform) -> Module:
        m = Module()
        model, term = self.model, self.term
        flags = Signal(3)
        m.d.comb += flags.eq(Cat(term.valid, term.first, term.last))
        valid, first, last = later(m, flags, RESULT_STAGE, "flags")
        terms = max(s.blocks * s.planes for s in (*layer_matrices(model), head_matrix(model)))
        total = Signal(signed(model.wide_bits + 6 + ceil_log2(terms)))
        arrives = later(m, self.word.shift == Shift.TERM, RESULT_STAGE + 1, "term")
        pending = Signal()
        row, y = self.at_row, self.y
        high = total[4 + model.wide_bits - 1 :]
        sign = total[-1]
        m.d.comb += y.eq(
            Mux((high ^ sign.replicate(len(high))).any(), Cat((~sign).replicate(model.wide_bits - 1), sign), total[4:])
        )
        head, leaves = self.step == Step.HEAD, Signal()
        m.d.comb += [leaves.eq(pending & (self.word.event == Event.Y)), self.row_leaves.eq(leaves & ~head)]
        with m.If(self.ready):
            m.d.sync += self.logit_valid.eq(0)
        with m.If(leaves):
            m.d.sync += [pending.eq(0), row.eq(row + 1)]
            with m.If(head):
                m.d.sync += [
                    self.logit_valid.eq(1),
                    self.logit.eq(y),
                    self.logit_last.eq(row == model.vocab_size - 1),
                ]
        with m.If(arrives & valid):
            m.d.sync += total.eq(Mux(first, 8, total) + self.result)
            with m.If(last):
                m.d.sync += pending.eq(1)
        with m.If(self.event == Event.STEP):
            m.d.sync += row.eq(0)
        return m
