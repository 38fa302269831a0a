"""Everything between a token and its logits on one multiplier: for devices where the pipelined units do not fit."""

from collections.abc import Mapping, Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from hdl.config import ChipConfig
from hdl.engine.isa import (
    LAYOUT,
    LIMITS,
    PROGRAM_WORDS,
    WRITE_DISTANCE,
    A,
    B,
    Base,
    Bits,
    Event,
    Read,
    Seq,
    Shift,
    Write,
    limits,
)
from hdl.engine.mac16 import Multiply, MultiplyBytes
from hdl.engine.program import program
from hdl.engine.spram import Spram
from hdl.fabric.matvec import ROW_BITS
from hdl.fabric.row_lane import slice_bits, word_bits
from hdl.lib.bits import bitlen, magnitude, shift_right
from hdl.lib.divider import Reciprocal
from hdl.lib.rom import Rom
from hdl.lib.shared_module import add_part
from hdl.lib.streams import EXP_BITS, vector_beat
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.schedule import Step, all_matrices, head_matrix, layer_matrices
from weights_to_rom.tables import exp2_table, rsqrt_table, silu_tables, sine_table

ACC_BITS = 56
"""The widest are a term of the fabric before its shift, 26 + 30 bits, v * r * g of a norm, 24 + 31 bits, and its sum of
squares, below 2**(30 + 9) with a dim of 512, times 2**15."""

LEFT = 30
"""What can move left is 26 bits at most and stands this far up: any value but 0 that would have to go further saturates."""

SHIFT_BITS = 6
RESULT_STAGE = 6
RESULT_BITS = 32
SCORE_BITS = 16

RSQRT_AT, EXP2_AT = 320, 448
"""In the table of 512 words: SiLU from 0 to 256."""


def function_table() -> list[int]:
    values, steps = silu_tables()
    table = [v & 0xFFFF for v in [*values, values[-1] + steps[-1]]]
    table += [0] * (RSQRT_AT - len(table)) + rsqrt_table()
    return table + [0] * (EXP2_AT - len(table)) + exp2_table()


class _AddressBits:
    """Fields of an address: kind | sequence | layer | key-value head | place for the cache, region | index for all else."""

    def __init__(self, model: ModelFormat, config: ChipConfig):
        self.place = ceil_log2(max(2, config.max_context))
        self.kv_head = ceil_log2(model.n_kv_heads)
        self.layer = ceil_log2(model.n_layers)
        self.sequence = ceil_log2(config.n_sequences)
        rows = max(m.rows for m in layer_matrices(model))
        self.index = ceil_log2(max(rows, model.dim_padded, model.attn_dim))
        self.total = 1 + max(2 + self.sequence + self.layer + self.kv_head + self.place, 2 + self.index)


class SharedEngine(wiring.Component):
    """All units of a chip as one pipeline, and a microprogram (``hdl.engine.program``) that leads it.

    ::

        0  MEM and the ROMs are read                          <- counters
        1  A, B chosen; eight products of bytes
        2  A * B;  P = sum of the products, over a block
        3  ACC = base + A * B
        4  ACC >> n, by eights; bits of ACC collected
        5  by ones
        6  rounded, saturated: R
        7  R into MEM

    The fabric is the eight products, with codes for one operand, and P, d * P - ((m * S) << k), the shift and a sum
    of terms, five cycles a term; scores are the same products with a query, in four cycles a place; the sums of
    attention have a multiplier, a shifter and an adder for each of two elements, a cycle a place.

    MEM (``Spram``) holds the KV cache, the residual vector, results of the fabric and its input.

    From ``start`` to ``done`` a token takes the cycles that ``hdl.engine.cycles.engine_cycles`` follows: they depend on
    its place and on ``sample`` alone.

    Members
    -------
    start : In(1), sequence, token, place, sample : In
        a token at that place of the sequence, which is its position; they stay until ``done``
    residual_shift : In(signed(6))               of the embedding
    logits : Out(stream vector_beat(1))          Wide, LSB 2**-12; each must be taken before the next, five or more cycles later
    done : Out(1)
    busy : Out(1), step : Out(3)                 the fabric reads a weight word in this cycle, of this matrix
    """

    def __init__(self, *, model: ModelFormat, config: ChipConfig, roms: Mapping[str, Sequence[int]] | None = None):
        self.model, self.config, self._contents = model, config, roms or {}
        super().__init__(
            {
                "start": In(1),
                "sequence": In(range(max(2, config.n_sequences))),
                "token": In(bits_for(model.vocab_size - 1)),
                "place": In(range(max(2, config.max_context))),
                "sample": In(1),
                "residual_shift": In(signed(6)),
                "logits": Out(stream.Signature(vector_beat(1, model.wide_bits))),
                "done": Out(1),
                "busy": Out(1),
                "step": Out(3),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._platform, model = platform, self.model
        self.bits = _AddressBits(model, self.config)
        m.submodules.program = rom = Memory(
            shape=LAYOUT,
            depth=PROGRAM_WORDS,
            init=[LAYOUT.from_bits(word) for word in program(model)],
            attrs={"ram_style": "block"},
        )
        fetch = rom.read_port()
        self.word = word = Signal(LAYOUT)
        m.d.comb += word.eq(fetch.data)
        self.imm = word.imm

        # What a word wants in later cycles.
        def later(value, cycles: int, name: str):
            for k in range(1, cycles + 1):
                delayed = Signal(value.shape(), name=f"{name}_{k}")
                m.d.sync += delayed.eq(value)
                value = delayed
            return value

        self.later = later
        self.collected = Signal(SHIFT_BITS)  # how many magnitude bits
        self.event = later(word.event, 1, "event")
        self.b1 = later(word.b, 1, "b")

        self._sequence(m, fetch)
        self._terms(m)
        self._roms(m)
        self._dot(m)
        self._softmax(m)
        self._sums(m)
        self._operands(m)
        self._accumulate(m)
        self._shift(m)
        self._rows(m)
        self._memory(m)
        return m

    def _is(self, event: Event):
        return self.event == event

    def _sequence(self, m, fetch):
        """The word after this one, and the counters of loops."""
        model, word, config = self.model, self.word, self.config
        values = limits(model)
        bound = [values[name] for name in LIMITS]
        self.i = i = Signal(range(max(*bound, model.qkv_rows) + 1))
        self.h = h = Signal(range(max(2, model.n_heads)))
        self.layer = layer = Signal(range(max(2, model.n_layers)))
        self.p = p = Signal(range(config.max_context + 3))
        self.norm = norm = Signal(range(2 * model.n_layers + 1))
        self.i_1, self.i_write = self.later(i, 1, "i"), self.later(i, WRITE_DISTANCE, "i_write")
        last = Signal.like(i)
        m.d.comb += last.eq(Array(Const(b - 1, len(i)) for b in bound)[word.limit])
        self.pc = pc = Signal(8)
        back = Signal(8)
        jump, paused = Signal(), Signal(3)
        begun = Signal()  # in the first cycle after a reset no word has been read; what it does is undone when a token comes
        m.d.comb += [fetch.addr.eq(Mux(jump, word.imm, pc)), fetch.en.eq(1)]
        m.d.sync += pc.eq(fetch.addr + 1)
        beyond = Signal.like(p)
        m.d.sync += [begun.eq(1), beyond.eq(self.place + 3)]
        following = Signal.like(i)
        m.d.comb += following.eq(i + 1)
        self.term_next, self.matrix_ends = Signal(), Signal()
        self.divided = Signal()
        with m.Switch(Mux(begun, word.seq, Seq.NEXT)):
            with m.Case(Seq.JUMP):
                m.d.comb += jump.eq(1)
            with m.Case(Seq.CALL):
                m.d.comb += jump.eq(1)
                m.d.sync += back.eq(pc)
            with m.Case(Seq.RETURN):
                m.d.comb += fetch.addr.eq(back)
                m.d.sync += pc.eq(back + 1)
            with m.Case(Seq.LOOP_I):
                m.d.comb += jump.eq(i != last)
                m.d.sync += i.eq(Mux(jump, following, 0))
            for loop, rewind, n in ((Seq.LOOP_32, Seq.REWIND_32, 5), (Seq.LOOP_8, Seq.REWIND_8, 3)):
                with m.Case(loop):
                    m.d.comb += jump.eq(~i[:n].all())
                    m.d.sync += i.eq(following)
                with m.Case(rewind):
                    m.d.comb += jump.eq(~i[:n].all())
                    m.d.sync += i[:n].eq(following[:n])
            with m.Case(Seq.UNLESS_I):
                m.d.comb += jump.eq(i != last + 1)
                with m.If(~jump):
                    m.d.sync += i.eq(0)
            with m.Case(Seq.LOOP_SCORE):
                m.d.comb += jump.eq(p != beyond)
                m.d.sync += p.eq(Mux(jump, p + 1, 0))
            with m.Case(Seq.LOOP_SUM):
                m.d.comb += jump.eq(p != self.place)
                m.d.sync += p.eq(Mux(jump, p + 1, 0))
            with m.Case(Seq.LOOP_H):
                m.d.comb += jump.eq(h != last)
                m.d.sync += h.eq(Mux(jump, h + 1, 0))
            with m.Case(Seq.LOOP_TERM):
                m.d.comb += [jump.eq(~self.matrix_ends), self.term_next.eq(1)]
            with m.Case(Seq.LOOP_LAYER):
                m.d.comb += jump.eq(layer != model.n_layers - 1)
                m.d.sync += layer.eq(layer + 1)
            with m.Case(Seq.WAIT):
                m.d.comb += jump.eq(~self.divided)
            with m.Case(Seq.PAUSE):
                m.d.comb += jump.eq(paused != word.limit)
                m.d.sync += paused.eq(Mux(jump, paused + 1, 0))
            with m.Case(Seq.IDLE):
                m.d.comb += jump.eq(~self.start)
                m.d.sync += [i.eq(0), h.eq(0), p.eq(0)]
            with m.Case(Seq.UNLESS_SAMPLE):
                m.d.comb += jump.eq(~self.sample)
        with m.If(word.event == Event.SET_I):
            m.d.sync += i.eq(word.imm)
        with m.If(self._is(Event.REWIND)):
            m.d.sync += [layer.eq(0), norm.eq(0)]
        with m.If(self._is(Event.NORM)):
            m.d.sync += norm.eq(norm + 1)
        m.d.comb += self.done.eq(self._is(Event.DONE))

    def _terms(self, m):
        """The fabric's counters: rows, input blocks, planes; what the term that ends here will want."""
        model, word = self.model, self.word
        shapes = {s.step: s for s in (*layer_matrices(model), head_matrix(model))}
        max_blocks = max(s.blocks for s in shapes.values())
        step, active = Signal(3), Signal()
        m.d.comb += [self.step.eq(step), self.busy.eq(active & (word.read == Read.X))]
        row, block, low = Signal(range(max(s.rows for s in shapes.values()))), Signal(range(max(2, max_blocks))), Signal()
        two = Signal()
        last_row, last_block = Signal.like(row), Signal.like(block)
        with m.Switch(step):
            for s in shapes.values():
                with m.Case(s.step):
                    m.d.comb += [last_row.eq(s.rows - 1), last_block.eq(s.blocks - 1), two.eq(s.planes == 2)]
        self.block = block

        # The input's blocks: exponents and (negative) sums of mantissas.
        self.total = total = Signal(signed(13))  # 32 * 127 < 2**12
        self.base_exp = Signal(signed(EXP_BITS))
        self.exp = Signal(signed(EXP_BITS))  # of the block whose bits were collected
        kept = Signal.like(block)
        self.blocks = blocks = [
            Signal(data.StructLayout({"exp": signed(EXP_BITS), "total": signed(13)}), name=f"block_{k}") for k in range(max_blocks)
        ]
        with m.If(self._is(Event.BLOCK)):
            m.d.sync += kept.eq(kept + 1)
            for k, kept_block in enumerate(blocks):
                with m.If(kept == k):
                    m.d.sync += [kept_block.exp.eq(self.exp), kept_block.total.eq(total)]

        self.term = term = Signal(
            data.StructLayout({"valid": 1, "first": 1, "last": 1, "scale": signed(EXP_BITS + 1), "total": signed(13)})
        )
        plane_ends = low | ~two
        row_ends = Signal()
        m.d.comb += [row_ends.eq(plane_ends & (block == last_block)), self.matrix_ends.eq(row_ends & (row == last_row))]
        here = Array(blocks)[block] if max_blocks > 1 else blocks[0]
        self.row_next = Signal()
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
        named = self.later(self.imm, 1, "imm")
        with m.If(self._is(Event.STEP)):
            m.d.sync += [step.eq(named), active.eq(1), row.eq(0), block.eq(0), low.eq(0), kept.eq(0), term.valid.eq(0)]
        with m.If(self._is(Event.EMBED)):
            m.d.sync += [term.scale.eq(self.residual_shift - 4), active.eq(0)]

    def _roms(self, m):
        """Weights, rows, gains: each is read from end to end; and the small tables."""
        model, word = self.model, self.word
        matrices, head = all_matrices(model), head_matrix(model)
        b = self.config.block_lanes
        n_words, n_rows = sum(s.words(1, b) for s in matrices), sum(s.rows for s in matrices)
        n_norms = 2 * model.n_layers + 1
        sizes = {
            "weights_00": (word_bits(b), n_words),
            "rows": (ROW_BITS, n_rows),
            "gain": (16, n_norms * model.dim_padded),
            "norm": (40, n_norms),
            "freq": (16, model.head_dim),
        }
        roms = {
            name: Rom(width=width, depth=depth, name=name, init=self._contents.get(name)) for name, (width, depth) in sizes.items()
        }
        for name, rom in roms.items():
            m.submodules[name] = rom
        weights, rows, gain, norm, freq = roms.values()
        m.submodules.table = table = Memory(shape=16, depth=512, init=function_table(), attrs={"ram_style": "block"})
        self.table = table = table.read_port()
        m.submodules.sine = sine = Memory(
            shape=15, depth=1 << model.sine_bits, init=sine_table(model.sine_bits), attrs={"ram_style": "block"}
        )
        self.sine = sine = sine.read_port()

        at = Signal.like(weights.addr)
        self.code = Signal(b * 4)
        m.d.comb += [
            weights.addr.eq(at),
            weights.en.eq((word.read == Read.X) | (word.a == A.CODE)),
            self.code.eq(weights.data[: 4 * b]),
        ]
        self.part = at[:2]
        self.scale_slice = weights.data[4 * b :]
        row_at = Signal.like(rows.addr)
        self.row = rows.data
        m.d.comb += [rows.addr.eq(row_at), rows.en.eq(self.term_next | self._is(Event.ROW))]
        with m.If(word.read == Read.X):
            m.d.sync += at.eq(at + 1)
        with m.Elif(word.a == A.CODE):  # a row of two planes is aligned to eight words
            m.d.comb += weights.addr.eq(Cat(self.i[3:5], ~word.b, at[3:]))
        with m.If(self.row_next):
            m.d.sync += row_at.eq(row_at + 1)
        row_words = head.words(1, b) // head.rows
        with m.If(self._is(Event.EMBED)):
            m.d.sync += [
                at.eq(n_words - head.words(1, b) + (self.token << ceil_log2(row_words))),
                row_at.eq(n_rows - head.rows + self.token),
            ]
        with m.If(self._is(Event.REWIND)):
            m.d.sync += [at.eq(0), row_at.eq(0)]

        gain_at = Signal.like(gain.addr)
        self.gain, self.eps, self.gain_exp, self.freq = gain.data, norm.data[:32], norm.data[32:].as_signed(), freq.data
        m.d.comb += [
            gain.addr.eq(gain_at),
            gain.en.eq(1),
            norm.addr.eq(self.norm),
            norm.en.eq(1),
            freq.addr.eq(Cat(word.b, self.i)),
            freq.en.eq(1),
        ]
        with m.If(word.a == A.GAIN):
            m.d.sync += gain_at.eq(gain_at + 1)
        with m.If(self._is(Event.REWIND)):
            m.d.sync += gain_at.eq(0)

    def _dot(self, m):
        """P = sum over a block of codes, or a query's mantissas, times the mantissas of MEM."""
        word = self.word
        self.mem = mem = Signal(64)
        self.query = query = Signal(64)
        with m.If(self._is(Event.QUERY)):
            m.d.sync += query.eq(mem)
        scores = self.later(word.read == Read.K, 1, "scores")
        other = Signal(64)
        m.d.comb += other.eq(Mux(scores, query, Cat(Cat(self.code.word_select(j, 4), Const(0, 4)) for j in range(8))))
        products = []
        for k in range(4):
            pair = add_part(m, f"bytes_{k}", MultiplyBytes, "multiply_bytes", self._platform)
            m.d.comb += [pair.a.eq(mem.word_select(k, 16)), pair.b.eq(other.word_select(k, 16))]
            products += [pair.o.word_select(j, 16).as_signed() for j in range(2)]
        while len(products) > 1:
            products = [a + b for a, b in zip(products[::2], products[1::2], strict=True)]
        here = self.later((word.read == Read.X) | (word.read == Read.K), 2, "here")
        first = self.later((self.part == 0) | (word.read == Read.K), 2, "first")
        ends = self.later((self.part == 3) | (word.read == Read.K), 2, "ends")
        # A score's: 8 * 127**2 < 2**17; a block's: 32 * 15 * 127 < 2**16.
        so_far, p = Signal(signed(18)), Signal(signed(18))
        m.d.comb += p.eq(Mux(first, 0, so_far) + products[0])
        self.product, self.d, self.m = Signal(signed(18)), Signal(8), Signal(8)
        # A slice is a quarter of d | m << 8.
        scales = Signal(16)
        bits = slice_bits(self.config.block_lanes)
        with m.If(self.later(word.read == Read.X, 1, "fabric")):
            m.d.sync += scales.eq(Cat(scales, self.scale_slice)[bits:])
        with m.If(here):
            m.d.sync += so_far.eq(p)
            with m.If(ends):
                m.d.sync += [self.product.eq(p), Cat(self.d, self.m).eq(scales)]

    def _softmax(self, m):
        """Running maxima, denominator and each place's weight, from a score in R."""
        word, config = self.word, self.config
        is_score = (word.shift == Shift.SCORE) & (self.p <= self.place)
        scored = self.later(is_score, RESULT_STAGE + 1, "scored")
        first = self.later(self.p == 0, RESULT_STAGE + 1, "first_place")
        weighs, weighed_first = self.later(scored, 1, "weighs"), self.later(first, 1, "weighs_first")
        self.query_exp, self.key_exp = Signal(signed(EXP_BITS)), Signal(signed(EXP_BITS))
        value_exp, score_value_exp = Signal(signed(EXP_BITS)), Signal(signed(EXP_BITS))
        with m.If(self._is(Event.QUERY_EXP)):
            m.d.sync += self.query_exp.eq(self.mem[:8])
        with m.If(self._is(Event.KEY_EXP)):
            m.d.sync += [self.key_exp.eq(self.mem[:8]), value_exp.eq(self.mem[8:16])]
        with m.If(self.later(is_score, 4, "shifts")):  # before the next place's exponent comes
            m.d.sync += score_value_exp.eq(value_exp)

        self.result = Signal(signed(RESULT_BITS))
        whole = self.result[6:SCORE_BITS].as_signed()
        raised = Signal(signed(11))
        self.top, self.value_top = top, value_top = Signal(signed(10)), Signal(signed(11))
        m.d.comb += raised.eq(whole + score_value_exp)
        self.exp2_at = Cat(self.result[:6], Const(EXP2_AT >> 6, 3))
        self.looks_up = scored

        grows, by = [Signal(name=f"grows_{k}") for k in range(2)], [Signal(5, name=f"by_{k}") for k in range(2)]
        for value, maximum, grown, shift in zip((whole, raised), (top, value_top), grows, by, strict=True):
            difference = Signal(signed(12), name=f"above_{shift.name}")
            m.d.comb += difference.eq(value - maximum)
            with m.If(scored):
                # Nothing is left beyond 31.
                distance = Mux(difference < 0, -difference, difference)
                m.d.sync += [grown.eq(~first & (difference > 0)), shift.eq(Mux(first, 0, Mux(distance > 31, 31, distance)))]
                with m.If(first | (difference > 0)):
                    m.d.sync += maximum.eq(value)

        # den < 2**16 * max_context
        self.den = den = Signal(16 + bits_for(config.max_context))
        weight, rescale = Signal(16), Signal(5)
        self.record = self.later(Cat(weight, rescale), 1, "record")
        e = self.table.data
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
            reciprocal.i.valid.eq(self._is(Event.DIVIDE)),
            reciprocal.i.payload.eq(self.result[:16]),
            reciprocal.o.ready.eq(self._is(Event.QUERY)),
            self.divided.eq(reciprocal.o.valid),
        ]
        self.reciprocal = reciprocal.o.payload

    def _sums(self, m):
        """num = (num >> rescale) + weight * v, for two elements."""
        weight, rescale, values = self.mem[:16], self.mem[16:21], self.mem[32:]
        here = self.later(self._is(Event.SUMS), 1, "sums")
        first = self.later(self.p == 0, 2, "sums_first")
        by = self.later(rescale, 1, "rescale")
        self.num = []
        for k in range(2):
            unit = add_part(m, f"weigh_{k}", lambda: Multiply(a_signed=False), "multiply_unsigned", self._platform)
            # Elements 2i, 2i + 1 of the four that MEM gives.
            v = Mux(self.i_1[0], values.word_select(2 + k, 8), values.word_select(k, 8)).as_signed()
            num = Signal(signed(32), name=f"num_{k}")  # |num| < 2**23 * max_context, which is 256 at most
            m.d.comb += [unit.a.eq(weight), unit.b.eq(v)]
            with m.If(here):
                m.d.sync += num.eq(Mux(first, 0, num >> by) + unit.o)
            self.num.append(num)

    def _operands(self, m):
        """A and B, and the tables."""
        mem, event, result = self.mem, self.event, self.result
        sine_bits = self.model.sine_bits
        lower, upper = mem[:32].as_signed(), mem[32:].as_signed()
        asel, bsel = self.later(self.word.a, 1, "a"), self.later(self.word.bsel, 1, "bsel")

        # Tables: an address in this cycle, the entry in the next, until there is another.
        index, quadrant = result[:sine_bits], Signal(2)
        m.d.comb += [
            self.sine.en.eq(self._is(Event.SINE)),
            self.sine.addr.eq(index ^ (result[sine_bits] ^ self.b1).replicate(sine_bits)),
            quadrant.eq(result[sine_bits:]),
        ]
        norm_bits = self.collected
        gate = mem[: self.model.wide_bits].as_signed()
        step, large, small = Signal(9), Signal(), Signal()
        m.d.comb += [
            self.table.en.eq(self.looks_up | (event == Event.NORM) | (event == Event.GATE) | (event == Event.GATE_NEXT)),
            self.table.addr.eq(self.exp2_at),
        ]
        entry = Cat(gate[8:15], ~gate[15])
        with m.If(event == Event.NORM):
            m.d.comb += self.table.addr.eq(RSQRT_AT + Cat(result[:6], norm_bits[0]))
        with m.Elif(event == Event.GATE):
            m.d.comb += self.table.addr.eq(entry)
        with m.Elif(event == Event.GATE_NEXT):
            m.d.comb += self.table.addr.eq(entry + 1)
        with m.If(event == Event.GATE):
            m.d.sync += [step.eq(gate[:8]), large.eq(gate >= 8 << 12), small.eq(gate < -(8 << 12))]

        code = self.code.word_select(self.i_1[:3], 4)
        a, b = Signal(signed(32)), Signal(signed(16))
        self.exponent(m)
        for field, values, to in (
            (
                asel,
                {
                    A.LO: lower,
                    A.HI: upper,
                    A.P: self.product,
                    A.S: self.term.total,
                    A.R: result,
                    A.EPS: self.eps,
                    A.GAIN: self.gain.as_signed(),
                    A.FREQ: Mux(self.b1, self.freq << 16, self.freq),
                    A.CODE: Mux(self.b1, code << 4, code),
                    A.MINUS_128: Const(-128, 8),
                    A.SILU: Mux(large, lower, self.table.data.as_signed()),
                    A.SIN: self.sine.data,
                    A.DEN: self.den,
                    A.NUM: Mux(self.b1, self.num[1], self.num[0]),
                    A.EXP: self.exp,
                },
                a,
            ),
            (
                bsel,
                {
                    B.ONE: 1,
                    B.D: self.d,
                    B.M: self.m << self.row[7:],
                    B.LO_15: lower[15:],
                    B.LO_0: lower[:15],
                    B.HI: upper[:16],
                    B.TABLE: self.table.data,
                    B.POS: self.place,
                    B.COS: lower[:16],
                    B.SIN: lower[16:],
                    B.KEEP: b,
                    B.SIGN: self._sign(quadrant),
                    B.MINUS_SIGN: Mux(quadrant[1], 1, -1),
                    B.F: Mux(large, Mux(self.b1, 0, 256), Mux(small, 0, Mux(self.b1, step, 256 - step))),
                    B.R_15: self.reciprocal[15:],
                    B.R_0: self.reciprocal[:15],
                },
                b,
            ),
        ):
            with m.Switch(field):
                for choice, value in values.items():
                    with m.Case(choice):
                        m.d.sync += to.eq(value)
                with m.Default():
                    m.d.sync += to.eq(0)
        self.a, self.b = a, b

    def _sign(self, quadrant):
        """Sign of the sine, or of the cosine."""
        return Mux(quadrant[1] ^ (self.b1 & quadrant[0]), -1, 1)

    def _accumulate(self, m):
        """ACC, and the magnitude bits that were in it."""
        high = add_part(m, "high", lambda: Multiply(a_signed=True), "multiply_signed", self._platform)
        low = add_part(m, "low", lambda: Multiply(a_signed=False), "multiply_unsigned", self._platform)
        m.d.comb += [high.a.eq(self.a[16:]), low.a.eq(self.a[:16]), high.b.eq(self.b), low.b.eq(self.b)]
        self.acc = acc = Signal(signed(ACC_BITS))
        product = Signal(signed(48))
        m.d.comb += product.eq((high.o << 16) + low.o)
        base = self.later(self.word.base, 3, "base")
        with m.Switch(base):
            for kind, value in ((Base.ZERO, 0), (Base.ACC, acc), (Base.ACC_15, acc << 15)):
                with m.Case(kind):
                    m.d.sync += acc.eq(value + product)

        seen = Signal(ACC_BITS - 1)
        bits = self.later(self.word.bits, 4, "bits")
        with m.If(bits == Bits.CLEAR):
            m.d.sync += seen.eq(0)
        with m.Elif(bits == Bits.COLLECT):
            m.d.sync += seen.eq(seen | magnitude(acc))
        m.d.sync += self.collected.eq(bitlen(seen))

    def exponent(self, m):
        """SH and the exponents of blocks."""
        above = self.above(7)
        self.norm_shift = norm_shift = Signal(5)  # wide_bits - 1 - 15 at most
        with m.If(self._is(Event.SH)):
            m.d.sync += norm_shift.eq(self.above(15))
        m.d.comb += self.exp.eq(self.base_exp + above)
        with m.If(self._is(Event.NORM)):
            # n is the bit length of t << 15, less 16.
            m.d.sync += self.base_exp.eq(self.gain_exp - 7 - (self.collected >> 1) - norm_shift)
        with m.If(self.word.event == Event.BASE):
            m.d.sync += self.base_exp.eq(self.imm.as_signed())

    def above(self, n: int):
        """max(0, bits - n)"""
        return Mux(self.collected >= n, self.collected - n, 0)[:SHIFT_BITS]

    def _shift(self, m):
        """R = ACC >> n, rounded, saturated."""
        wide = self.model.wide_bits
        most = (1 << SHIFT_BITS) - 1

        def clamped(value, name: str):
            """0 .. 63, a cycle later: beyond 55 nothing is left, below 0 what is not zero saturates."""
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
            Shift.SH: (self.norm_shift, 0, 0, None),
            Shift.SH_2: (self.norm_shift << 1, 0, 0, None),
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
        kind = self.later(self.word.shift, 3, "shift")
        wanted, left = Signal(SHIFT_BITS), Signal()
        with m.Switch(kind):
            for name, (shift, _, from_left, _) in kinds.items():
                with m.Case(name):
                    m.d.comb += [wanted.eq(shift), left.eq(from_left)]
        n, left = self.later(wanted, 1, "n"), self.later(left, 1, "left")
        # The lowest bit decides the rounding.
        kept = 1 + RESULT_BITS + 7
        coarse, fine = Signal(signed(ACC_BITS + 1)), Signal(signed(kept))
        sign, much = Signal(), Signal()  # ``much``: it saturates, however far it still moves
        doubled = Cat(Const(0, 1), Mux(left, self.acc << LEFT, self.acc)[:ACC_BITS]).as_signed()
        m.d.sync += [
            coarse.eq(shift_right(doubled, n[3:], ACC_BITS + 1, unit=8)),
            fine.eq(shift_right(coarse[:kept].as_signed(), self.later(n[:3], 1, "n_fine"), kept)),
            sign.eq(coarse[-1]),
            much.eq((coarse[kept - 1 : -1] ^ coarse[-1].replicate(ACC_BITS + 1 - kept)).any()),
        ]

        # What the last stage does, decided a cycle before.
        kind = self.later(kind, 2, "rounds")
        widths = sorted({bits for *_, bits in kinds.values() if bits is not None})
        rounds, clips, narrow = Signal(), Signal(), Signal(len(widths))
        with m.Switch(kind):
            for name, (_, rounding, _, bits) in kinds.items():
                with m.Case(name):
                    m.d.comb += [rounds.eq(rounding), clips.eq(name == Shift.MX)]
                    if bits is not None:
                        m.d.comb += narrow.eq(1 << widths.index(bits))
        rounds, clips, narrow = (
            self.later(value, 1, name) for value, name in ((rounds, "rounding"), (clips, "clips"), (narrow, "narrow"))
        )
        kind = self.later(kind, 1, "results")

        up = fine[0] & rounds
        rounded = Signal(signed(RESULT_BITS))
        m.d.comb += rounded.eq(fine[1 : RESULT_BITS + 1] + up)
        # Whether it saturates is known without the sum: it is beyond already, or the largest value and rounds up.
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
        is_mantissa = self.later(clips, 1, "is_mantissa")
        with m.If(self._is(Event.SUM)):
            m.d.sync += self.total.eq(0)
        with m.Elif(is_mantissa):
            m.d.sync += self.total.eq(self.total - self.result[:8].as_signed())

    def _rows(self, m):
        """y = sat(rshr(sum of a row's terms, 4), wide_bits), and where it goes."""
        model, term = self.model, self.term
        flags = Signal(3)
        m.d.comb += flags.eq(Cat(term.valid, term.first, term.last))
        valid, first, last = self.later(flags, RESULT_STAGE, "flags")
        terms = max(s.blocks * s.planes for s in (*layer_matrices(model), head_matrix(model)))
        total = Signal(signed(model.wide_bits + 6 + ceil_log2(terms)))
        arrives = self.later(self.word.shift == Shift.TERM, RESULT_STAGE + 1, "term")
        self.pending = pending = Signal()
        self.at_row = row = Signal(range(max(model.vocab_size, *(s.rows for s in layer_matrices(model)))))
        self.y = y = Signal(signed(model.wide_bits))
        high = total[4 + model.wide_bits - 1 :]
        sign = total[-1]
        m.d.comb += y.eq(
            Mux((high ^ sign.replicate(len(high))).any(), Cat((~sign).replicate(model.wide_bits - 1), sign), total[4:])
        )
        head, leaves = self.step == Step.HEAD, Signal()
        self.row_leaves = Signal()
        m.d.comb += [leaves.eq(pending & (self.word.event == Event.Y)), self.row_leaves.eq(leaves & ~head)]
        with m.If(self.logits.ready):
            m.d.sync += self.logits.valid.eq(0)
        with m.If(leaves):
            m.d.sync += [pending.eq(0), row.eq(row + 1)]
            with m.If(head):
                m.d.sync += [
                    self.logits.valid.eq(1),
                    self.logits.payload.data[0].eq(y),
                    self.logits.payload.last.eq(row == model.vocab_size - 1),
                ]
        with m.If(arrives & valid):
            m.d.sync += total.eq(Mux(first, 8, total) + self.result)
            with m.If(last):
                m.d.sync += pending.eq(1)
        with m.If(self._is(Event.STEP)):
            m.d.sync += row.eq(0)

    def _memory(self, m):
        """One port: a result of five words ago, a row or a record to be written; else what this word reads."""
        model, word, bits = self.model, self.word, self.bits
        memory = add_part(m, "memory", lambda: Spram(depth=1 << bits.total), "spram", self._platform)
        m.d.comb += self.mem.eq(memory.o)
        to = self.later(word.write, WRITE_DISTANCE, "write")
        i, h = self.i_write, self.h
        rep_bits = ceil_log2(model.n_rep)

        def scratch(region: int, index):
            """Regions from 2 on have at most a word for four rows, and share one region: a quarter each."""
            wide = bits.index if region < 2 else bits.index - 2
            index = Cat(index, Const(0, wide))[:wide]
            if region >= 2:
                region, index = 2, Cat(index, Const(region - 2, 2))
            return Cat(index, Const(0, bits.total - 3 - bits.index), Const(region, 2), Const(1, 1))

        def cache(kind, head, place):
            fields = ((place, bits.place), (head, bits.kv_head), (self.layer, bits.layer), (self.sequence, bits.sequence))
            address = Cat(*(Cat(value, Const(0, width))[:width] for value, width in fields))
            return Cat(address, Const(0, bits.total - 3 - len(address)), kind, Const(0, 1))

        residual, results, trig, inputs, queries, exponents = range(6)
        kv_head = h >> rep_bits
        pair = Cat(Const(0, 1), i)
        # Address, width in bytes (8: byte enables say which), byte.
        writes = {
            Write.H: (scratch(residual, i), 4, 0),
            Write.H_HI: (scratch(residual, i), 4, 4),
            Write.PAIR_0: (scratch(results, pair), 4, 0),
            Write.PAIR_1: (scratch(results, pair | 1), 4, 0),
            Write.PAIR_HI: (scratch(results, pair | 1), 4, 4),
            Write.COS: (scratch(trig, i), 2, 0),
            Write.SIN: (scratch(trig, i), 2, 2),
            Write.MINUS_SIN: (scratch(trig, i), 2, 4),
            Write.X: (scratch(inputs, i[3:]), 1, i[:3]),
            Write.Q: (scratch(queries, h), 1, i[:3]),
            Write.QE: (scratch(exponents, h), 1, 0),
            Write.K: (cache(Const(0, 2), h, self.place), 1, i[:3]),
            Write.V: (cache(Cat(i[2], Const(1, 1)), h, self.place), 1, Cat(i[:2], Const(1, 1))),
            Write.KE: (cache(Const(1, 2), h, self.place), 1, 0),
            Write.VE: (cache(Const(1, 2), h, self.place), 1, 1),
            Write.OUT_0: (scratch(results, Cat(Const(0, 1), i[:2], h)), 4, 0),
            Write.OUT_1: (scratch(results, Cat(Const(1, 1), i[:2], h)), 4, 0),
        }
        i = self.i
        reads = {
            Read.H: scratch(residual, i),
            Read.Y: scratch(results, i),
            Read.PAIR: scratch(results, Cat(word.b, i)),
            Read.TRIG: scratch(trig, i[:2]),
            Read.X: scratch(inputs, Cat(self.part, self.block)),
            Read.Q: scratch(queries, h),
            Read.QE: scratch(exponents, h),
            Read.K: cache(Const(0, 2), kv_head, self.p),
            Read.E: cache(Const(1, 2), kv_head, self.p),
            Read.V: cache(Cat(i[1], Const(1, 1)), kv_head, self.p),
        }
        # No other write comes when a row or a record does.
        data_now, width = Signal(32), Signal(3)
        m.d.comb += data_now.eq(self.result)
        with m.If(word.event == Event.Y):
            m.d.comb += data_now.eq(self.y)
        with m.If(word.event == Event.RECORD):
            m.d.comb += data_now.eq(self.record)
        with m.If(to != Write.NONE), m.Switch(to):
            for kind, (address, n, byte) in writes.items():
                with m.Case(kind):
                    m.d.comb += [memory.addr.eq(address), width.eq(n), memory.write.eq(((1 << n) - 1) << byte)]
        with m.Elif(self.row_leaves):
            m.d.comb += [memory.addr.eq(scratch(results, self.at_row)), memory.write.eq(0x0F), width.eq(4)]
        with m.Elif(word.event == Event.RECORD):
            # Three iterations after its score.
            m.d.comb += [
                memory.addr.eq(cache(Cat(word.b, Const(1, 1)), kv_head, self.p - 3)),
                width.eq(4),
                memory.write.eq(Mux(self.p >= 3, 0x0F, 0)),
            ]
        with m.Else(), m.Switch(word.read):
            for kind, address in reads.items():
                with m.Case(kind):
                    m.d.comb += memory.addr.eq(address)
        # Narrow values stand at every byte that they may be written to.
        b0, b1, b2, b3 = (data_now.word_select(k, 8) for k in range(4))
        lanes = Cat(b0, Mux(width[0], b0, b1), Mux(width[2], b2, b0), Mux(width[2], b3, Mux(width[0], b0, b1)))
        m.d.comb += memory.data.eq(Cat(lanes, lanes))
