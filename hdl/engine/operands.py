"""Read ROMs and tables, and choose the two operands of the multiplier."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.utils import ceil_log2

from hdl.engine.isa import A, B, Event, Read
from hdl.engine.unit import Unit, later
from hdl.fabric.row_lane import word_bits
from hdl.lib.rom import Rom
from weights_to_rom.rom_map import ROW_WORD
from weights_to_rom.schedule import all_matrices, head_matrix
from weights_to_rom.tables import exp2_table, rsqrt_table, silu_tables, sine_table

RSQRT_AT, EXP2_AT = 320, 448
"""In the table of 512 words: SiLU from 0 to 256."""


def function_table() -> list[int]:
    """Return the 512 words of the table of SiLU, 1 / sqrt and 2**x."""
    values, steps = silu_tables()
    table = [v & 0xFFFF for v in [*values, values[-1] + steps[-1]]]
    table += [0] * (RSQRT_AT - len(table)) + rsqrt_table()
    return table + [0] * (EXP2_AT - len(table)) + exp2_table()


class Roms(Unit):
    """Weights, rows, gains, norms and frequencies: each ROM is read from end to end in the order of the program."""

    INPUTS = ("word", "event", "i", "norm", "token", "term_next", "row_next")
    OUTPUTS = ("code", "part", "scale_slice", "row", "gain", "eps", "gain_exp", "freq")

    def elaborate(self, platform) -> Module:
        m = Module()
        model, word = self.model, self.word
        matrices, head = all_matrices(model), head_matrix(model)
        b = self.config.block_lanes
        n_words, n_rows = sum(s.words(1, b) for s in matrices), sum(s.rows for s in matrices)
        n_norms = 2 * model.n_layers + 1
        sizes = {
            "weights_00": (word_bits(b), n_words),
            "rows": (ROW_WORD.width, n_rows),
            "gain": (16, n_norms * model.dim_padded),
            "norm": (40, n_norms),
            "freq": (16, model.head_dim),
        }
        roms = {
            name: Rom(width=width, depth=depth, name=name, init=self.contents.get(name)) for name, (width, depth) in sizes.items()
        }
        for name, rom in roms.items():
            m.submodules[f"{name}_rom"] = rom
        weights, rows, gain, norm, freq = roms.values()
        at = Signal.like(weights.addr)
        m.d.comb += [
            weights.addr.eq(at),
            weights.en.eq((word.read == Read.X) | (word.a == A.CODE)),
            self.code.eq(weights.data[: 4 * b]),
        ]
        m.d.comb += [self.part.eq(at[:2]), self.scale_slice.eq(weights.data[4 * b :])]
        row_at = Signal.like(rows.addr)
        m.d.comb += [self.row.eq(rows.data), rows.addr.eq(row_at), rows.en.eq(self.term_next | (self.event == Event.ROW))]
        with m.If(word.read == Read.X):
            m.d.sync += at.eq(at + 1)
        with m.Elif(word.a == A.CODE):  # a row of two planes is aligned to eight words
            m.d.comb += weights.addr.eq(Cat(self.i[3:5], ~word.b, at[3:]))
        with m.If(self.row_next):
            m.d.sync += row_at.eq(row_at + 1)
        row_words = head.words(1, b) // head.rows
        with m.If(self.event == Event.EMBED):
            m.d.sync += [
                at.eq(n_words - head.words(1, b) + (self.token << ceil_log2(row_words))),
                row_at.eq(n_rows - head.rows + self.token),
            ]
        with m.If(self.event == Event.REWIND):
            m.d.sync += [at.eq(0), row_at.eq(0)]

        gain_at = Signal.like(gain.addr)
        m.d.comb += [
            self.gain.eq(gain.data),
            Cat(self.eps, self.gain_exp).eq(norm.data),
            self.freq.eq(freq.data),
        ]
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
        with m.If(self.event == Event.REWIND):
            m.d.sync += gain_at.eq(0)
        return m


class Operands(Unit):
    """a (32 bits) and b (16 bits), registered; and the tables of functions and of the sine.

    A table takes its address in one cycle and keeps the entry from the next cycle until another is read.
    """

    INPUTS = (
        "word",
        "event",
        "b1",
        "mem",
        "result",
        "collected",
        "product",
        "term",
        "eps",
        "gain",
        "freq",
        "code",
        "i_1",
        "den",
        "num_0",
        "num_1",
        "exp",
        "d",
        "offset",
        "row",
        "place",
        "reciprocal",
        "exp2_at",
        "looks_up",
    )
    OUTPUTS = ("a", "b", "table")

    def elaborate(self, platform) -> Module:
        m = Module()
        model = self.model
        m.submodules.functions = table = Memory(shape=16, depth=512, init=function_table(), attrs={"ram_style": "block"})
        table = table.read_port()
        m.submodules.sine = sine = Memory(
            shape=15, depth=1 << model.sine_bits, init=sine_table(model.sine_bits), attrs={"ram_style": "block"}
        )
        sine = sine.read_port()
        m.d.comb += self.table.eq(table.data)
        mem, event, result = self.mem, self.event, self.result
        sine_bits = self.model.sine_bits
        lower, upper = mem[:32].as_signed(), mem[32:].as_signed()
        asel, bsel = later(m, self.word.a, 1, "a"), later(m, self.word.bsel, 1, "bsel")

        # Tables: an address in this cycle, the entry in the next, until there is another.
        index, quadrant = result[:sine_bits], Signal(2)
        m.d.comb += [
            sine.en.eq(self.event == Event.SINE),
            sine.addr.eq(index ^ (result[sine_bits] ^ self.b1).replicate(sine_bits)),
            quadrant.eq(result[sine_bits:]),
        ]
        norm_bits = self.collected
        gate = mem[: self.model.wide_bits].as_signed()
        step, large, small = Signal(9), Signal(), Signal()
        m.d.comb += [
            table.en.eq(self.looks_up | (event == Event.NORM) | (event == Event.GATE) | (event == Event.GATE_NEXT)),
            table.addr.eq(self.exp2_at),
        ]
        entry = Cat(gate[8:15], ~gate[15])
        with m.If(event == Event.NORM):
            m.d.comb += table.addr.eq(RSQRT_AT + Cat(result[:6], norm_bits[0]))
        with m.Elif(event == Event.GATE):
            m.d.comb += table.addr.eq(entry)
        with m.Elif(event == Event.GATE_NEXT):
            m.d.comb += table.addr.eq(entry + 1)
        with m.If(event == Event.GATE):
            m.d.sync += [step.eq(gate[:8]), large.eq(gate >= 8 << 12), small.eq(gate < -(8 << 12))]

        code = self.code.word_select(self.i_1[:3], 4)
        a, b = self.a, self.b
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
                    A.SILU: Mux(large, lower, table.data.as_signed()),
                    A.SIN: sine.data,
                    A.DEN: self.den,
                    A.NUM: Mux(self.b1, self.num_1, self.num_0),
                    A.EXP: self.exp,
                },
                a,
            ),
            (
                bsel,
                {
                    B.ONE: 1,
                    B.D: self.d,
                    B.M: self.offset << self.row[7:],
                    B.LO_15: lower[15:],
                    B.LO_0: lower[:15],
                    B.HI: upper[:16],
                    B.TABLE: table.data,
                    B.POS: self.place,
                    B.COS: lower[:16],
                    B.SIN: lower[16:],
                    B.KEEP: b,
                    B.SIGN: Mux(quadrant[1] ^ (self.b1 & quadrant[0]), -1, 1),
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
        return m
