"""The memory map of the shared engine, and its one port."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.utils import ceil_log2

from hdl.config import ChipConfig
from hdl.engine.isa import WRITE_DISTANCE, Event, Read, Write
from hdl.engine.spram import Spram
from hdl.engine.unit import Unit, later
from hdl.lib.shared_module import add_part
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.schedule import layer_matrices


class AddressBits:
    """Fields of an address: kind | sequence | layer | key-value head | place for the cache, region | index for all else."""

    def __init__(self, model: ModelFormat, config: ChipConfig):
        self.place = ceil_log2(max(2, config.max_context))
        self.kv_head = ceil_log2(model.n_kv_heads)
        self.layer = ceil_log2(model.n_layers)
        self.sequence = ceil_log2(config.n_sequences)
        rows = max(m.rows for m in layer_matrices(model))
        self.index = ceil_log2(max(rows, model.dim_padded, model.attn_dim))
        self.total = 1 + max(2 + self.sequence + self.layer + self.kv_head + self.place, 2 + self.index)


class MemoryPort(Unit):
    """MEM, whose port takes in this order: a result of WRITE_DISTANCE words ago, a row's result, a record, or a read."""

    INPUTS = (
        "word",
        "i",
        "i_write",
        "h",
        "layer",
        "sequence",
        "place",
        "p",
        "part",
        "block",
        "result",
        "y",
        "record",
        "row_leaves",
        "at_row",
    )
    OUTPUTS = ("mem",)

    def elaborate(self, platform) -> Module:
        m = Module()
        model, word, bits = self.model, self.word, AddressBits(self.model, self.config)
        memory = add_part(m, "memory", lambda: Spram(depth=1 << bits.total), "spram", platform)
        m.d.comb += self.mem.eq(memory.o)
        to = later(m, word.write, WRITE_DISTANCE, "write")
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
        # The program keeps the distances: when a row or a record is written, no other write is due.
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
            # The record of place p - 3: its weight is known three iterations after its score.
            m.d.comb += [
                memory.addr.eq(cache(Cat(word.b, Const(1, 1)), kv_head, self.p - 3)),
                width.eq(4),
                memory.write.eq(Mux(self.p >= 3, 0x0F, 0)),
            ]
        with m.Else(), m.Switch(word.read):
            for kind, address in reads.items():
                with m.Case(kind):
                    m.d.comb += memory.addr.eq(address)
        # A narrow value is repeated at every byte that it may be written to; the byte enables choose one.
        b0, b1, b2, b3 = (data_now.word_select(k, 8) for k in range(4))
        lanes = Cat(b0, Mux(width[0], b0, b1), Mux(width[2], b2, b0), Mux(width[2], b3, Mux(width[0], b0, b1)))
        m.d.comb += memory.data.eq(Cat(lanes, lanes))
        return m
