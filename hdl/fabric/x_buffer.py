"""The input buffer of the fabric: two MX vectors, one read while the other is written."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.fabric.code_dot import total_shape
from hdl.lib.pipeline import adder_tree
from hdl.lib.rom import address_bits
from hdl.lib.streams import EXP_BITS, mx_beat
from weights_to_rom.model_format import BLOCK


class XBuffer(wiring.Component):
    """mant, total, exp = the mantissas of the word ``word`` of a vector, their sum, and the exponent of their block.

    A word is ``block_lanes`` mantissas; a block of 32 is 32 // block_lanes words, its parts.  The sums of a block's words add up
    to the S of docs/arithmetic.md: the buffer computes them once, for all rows.

    The memory has two halves.  One vector is read from one half while the next vector is written to the other.

    Latency: ``latency`` = 1 cycle from ``word`` to ``mant``.  A word can be read two cycles after its last beat moved.  Rate:
    ``x_lanes`` elements a cycle in, a word a cycle out.

    Parameters
    ----------
    block_lanes : elements of a word: 4, 8, 16 or 32
    x_lanes : elements of a beat of ``i``; divides ``block_lanes``
    max_blocks : blocks of the longest vector

    Members
    -------
    i : In(stream mx_beat(x_lanes))    whole blocks; ``last`` ends a vector
    complete : Out(1)         the vector in the half that is read is complete
    completes : Out(1)        it is, or it will be in the next cycle
    word : In                 word to read, in every cycle: block * (32 // block_lanes) + part
    release : In(1)           this is the vector's last read: the next read is from the other half
    mant : Out(signed(8)).array(block_lanes)
    total : Out               sum of ``mant``
    exp : Out(signed(8))
    """

    latency = 1

    def __init__(self, *, block_lanes: int, x_lanes: int, max_blocks: int) -> None:
        if block_lanes % x_lanes:
            raise ValueError(f"x_lanes must divide block_lanes ({block_lanes}), not {x_lanes!r}")
        self.block_lanes, self.x_lanes = block_lanes, x_lanes
        self.address_bits = address_bits(max_blocks * (BLOCK // block_lanes))
        super().__init__(
            {
                "i": In(stream.Signature(mx_beat(x_lanes))),
                "complete": Out(1),
                "completes": Out(1),
                "word": In(self.address_bits),
                "release": In(1),
                "mant": Out(signed(8)).array(block_lanes),
                "total": Out(total_shape(block_lanes)),
                "exp": Out(signed(EXP_BITS)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        # Each beat of a word has a memory, so that no beat waits for the others.  One more memory has the word's sum and exponent.
        beats = self.block_lanes // self.x_lanes
        common = data.StructLayout({"total": total_shape(self.block_lanes), "exp": signed(EXP_BITS)})
        memories = [Memory(shape=shape, depth=2 << self.address_bits, init=[]) for shape in (*[8 * self.x_lanes] * beats, common)]
        for name, memory in zip((*(f"beat_{k}" for k in range(beats)), "common"), memories, strict=True):
            m.submodules[name] = memory
        writes, reads = [memory.write_port() for memory in memories], [memory.read_port() for memory in memories]
        full = Array(Signal(name=f"full_{half}") for half in range(2))
        write_half, read_half = Signal(), Signal()

        beat = self.i.payload
        accept = Signal()
        open_ = Signal(init=1)  # ~full[write_half], except that it sees a release a cycle late
        count = Signal(range(max(2, beats)))
        word_ends = count == beats - 1
        m.d.comb += [self.i.ready.eq(open_), accept.eq(self.i.valid & self.i.ready)]

        # A beat is written one cycle after it moved, when its sum is there; the word's sum and exponent follow with its last beat.
        mantissas = Signal.like(beat.mant.as_value(), reset_less=True)
        beat_total = Signal(total_shape(self.x_lanes), reset_less=True)
        exp = Signal(signed(EXP_BITS), reset_less=True)
        # The write enables and ``last`` are registered: the memories are spread over the die.
        entered, first, last = Signal(), Signal(), Signal()
        ends = [Signal(name=f"ends_{k}") for k in range(beats)]
        m.d.sync += [
            entered.eq(accept),
            first.eq(count == 0),
            last.eq(accept & beat.last),
            *(end.eq(accept & (count == k)) for k, end in enumerate(ends)),
            mantissas.eq(beat.mant),
            beat_total.eq(adder_tree(list(beat.mant))),
            exp.eq(beat.exp),
        ]
        with m.If(accept):
            m.d.sync += count.eq(Mux(word_ends, 0, count + 1))
            with m.If(beat.last):
                m.d.sync += write_half.eq(~write_half)

        so_far = Signal(total_shape(self.block_lanes), reset_less=True)
        total = Signal(total_shape(self.block_lanes))
        address = Signal(self.address_bits)
        address_half = Signal()
        m.d.comb += [
            total.eq(Mux(first, 0, so_far) + beat_total),
            *(write.en.eq(end) for write, end in zip(writes, (*ends, ends[-1]), strict=True)),
            *(write.addr.eq(Cat(address, address_half)) for write in writes),
            *(write.data.eq(mantissas) for write in writes[:-1]),
            writes[-1].data.total.eq(total),
            writes[-1].data.exp.eq(exp),
        ]
        with m.If(entered):
            m.d.sync += so_far.eq(total)
        with m.If(ends[-1]):
            m.d.sync += address.eq(address + 1)
        with m.If(last):
            m.d.sync += [address.eq(0), address_half.eq(~address_half), full[address_half].eq(1)]

        m.d.comb += [
            self.complete.eq(full[read_half]),
            self.completes.eq(self.complete | (last & (address_half == read_half))),
            *(read.addr.eq(Cat(self.word, read_half)) for read in reads),
            self.total.eq(reads[-1].data.total),
            self.exp.eq(reads[-1].data.exp),
            Cat(*self.mant).eq(Cat(read.data for read in reads[:-1])),
        ]
        with m.If(self.release):
            m.d.sync += [full[read_half].eq(0), read_half.eq(~read_half)]
        filled = [is_full | (last & (address_half == half)) for half, is_full in enumerate(full)]
        m.d.sync += open_.eq(~Mux(write_half ^ (accept & beat.last), *reversed(filled)))
        return m
