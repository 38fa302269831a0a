"""MX conversion: a block of integers becomes mantissas and an exponent (docs/arithmetic.md, section 2)."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.lib.bits import bitlen, magnitude, rshr, shift_right
from hdl.lib.streams import EXP_BITS, mx_beat, scaled_beat


class Mx(wiring.Component):
    """mant[j] = clip(rshr(i[j], s), -127, 127), exp = base + s, s = max(0, bitlen(OR of magnitudes) - 7).

        i -> OR of magnitudes -> s --.
          -> two banks of a block -> coarse shift -> fine shift, round, clip -> o

    One block is written to one bank while the previous block is read from the other.  The exponent is therefore known with the
    first beat of the block at ``o``.  The shifters keep the 8 bits of a mantissa and one bit below them, because that bit alone
    decides the rounding.

    A ``last`` beat that does not fill its block ends the block.  The missing elements are zeros and take time only at ``o``.
    ``o.last`` is on the final beat of that block.  base + s wraps to ``EXP_BITS`` bits.

    Latency: ``latency`` = 4 cycles from a block's last beat at ``i`` to its first beat at ``o``.  Rate: ``lanes`` elements a cycle
    in and ``o_lanes`` elements a cycle out, without a pause between blocks.

    Parameters
    ----------
    lanes : elements of a beat of ``i``
    block : elements of a block, a multiple of ``lanes`` and of ``o_lanes``
    width : bits of an element of ``i``, 9 to 64
    o_lanes : elements of a beat of ``o``: ``lanes`` (the default) times 1, 2, 4, 8, 16 or 32

    Members
    -------
    i : In(stream scaled_beat)    LSB 2**base; base is that of the block's last beat
    o : Out(stream mx_beat)       LSB 2**exp

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    latency = 4

    def __init__(self, *, lanes: int, block: int, width: int, o_lanes: int | None = None):
        if not isinstance(lanes, int) or lanes < 1:
            raise ValueError(f"lanes must be a positive integer, not {lanes!r}")
        if not isinstance(block, int) or block < lanes or block % lanes:
            raise ValueError(f"block must be a multiple of lanes ({lanes}), not {block!r}")
        if not isinstance(width, int) or not 9 <= width <= 64:
            raise ValueError(f"width must be 9 to 64, not {width!r}")
        if o_lanes is None:
            o_lanes = lanes
        if not isinstance(o_lanes, int) or o_lanes not in (lanes << k for k in range(6)) or block % o_lanes:
            raise ValueError(f"o_lanes must be lanes ({lanes}) times a power of two, and divide block ({block}), not {o_lanes!r}")
        self.lanes, self.o_lanes, self.block, self.width = lanes, o_lanes, block, width
        super().__init__({"i": In(stream.Signature(scaled_beat(lanes, width))), "o": Out(stream.Signature(mx_beat(o_lanes)))})

    def elaborate(self, platform):
        m = Module()
        lanes, width = self.lanes, self.width
        beats, o_beats = self.block // lanes, self.block // self.o_lanes
        beat_bits, o_beat_bits = max(1, ceil_log2(beats)), max(1, ceil_log2(o_beats))
        turns = self.o_lanes // lanes  # beats of ``i`` in a beat of ``o``: each has its memory
        turn_bits = ceil_log2(turns)
        shift_bits = ceil_log2(width - 7)  # bitlen(magnitude) - 7 <= width - 1 - 7

        writes, reads = [], []
        for turn in range(turns):
            m.submodules[f"banks_{turn}"] = banks = Memory(shape=lanes * width, depth=2 << o_beat_bits, init=[])
            writes.append(banks.write_port())
            reads.append(banks.read_port())

        # Facts of the block in each bank, stored when the block is complete; ``shift`` follows one cycle later.
        block_info = data.StructLayout({"base": signed(EXP_BITS), "final_beat": beat_bits, "last": 1})
        full = [Signal(name=f"full_{k}") for k in range(2)]
        info = [Signal(block_info, name=f"info_{k}") for k in range(2)]
        shift = [Signal(shift_bits, name=f"shift_{k}") for k in range(2)]

        # In: fill a bank.
        bank_in, beat_in, row_in = Signal(), Signal(beat_bits), Signal(o_beat_bits)
        magnitudes = Signal(width - 1)
        open_ = Signal(init=1)  # bank_in is not full
        closing, freeing = Signal(), Signal()
        closed = Signal()  # ``magnitudes`` is that of the block that was completed in the previous cycle
        beat_magnitude = reduce(or_, map(magnitude, self.i.payload.data))
        m.d.comb += [
            self.i.ready.eq(open_),
            row_in.eq(beat_in >> turn_bits),
            *(write.addr.eq(Cat(row_in, bank_in)) for write in writes),
            *(write.data.eq(self.i.payload.data) for write in writes),
            *(write.en.eq(self.i.valid & self.i.ready & (beat_in[:turn_bits] == turn)) for turn, write in enumerate(writes)),
        ]
        m.d.sync += closed.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                magnitudes.eq(beat_magnitude | Mux(beat_in.any(), magnitudes, 0)),
                beat_in.eq(beat_in + 1),
            ]
            m.d.comb += closing.eq((beat_in == beats - 1) | self.i.payload.last)
            with m.If(closing):
                m.d.sync += [beat_in.eq(0), bank_in.eq(~bank_in), closed.eq(1)]
                for k in range(2):
                    with m.If(bank_in == k):
                        m.d.sync += [
                            full[k].eq(1),
                            info[k].base.eq(self.i.payload.base),
                            info[k].final_beat.eq(beat_in),
                            info[k].last.eq(self.i.payload.last),
                        ]

        found = Signal(shift_bits)
        m.d.comb += found.eq(bitlen(magnitudes[7:]))
        for k in range(2):
            with m.If(closed & (bank_in != k)):
                m.d.sync += shift[k].eq(found)

        # Out: read a bank, shift, round; ``advance`` moves the whole pipe.
        advance = Signal()
        bank_out, beat_out = Signal(), Signal(o_beat_bits)
        reading, block, block_shift = Signal(), Signal(block_info), Signal(shift_bits)
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            reading.eq(Mux(bank_out, *reversed(full))),
            block.eq(Mux(bank_out, *reversed(info))),
            # A block's first read may come before its shift has been stored.
            block_shift.eq(Mux(closed & (bank_out != bank_in), found, Mux(bank_out, *reversed(shift)))),
            *(read.addr.eq(Cat(beat_out, bank_out)) for read in reads),
            *(read.en.eq(advance) for read in reads),
        ]
        next_in = bank_in ^ closing
        m.d.sync += open_.eq(~Mux(next_in, *reversed(full)) | (freeing & (bank_out == next_in)))
        with m.If(advance & reading):
            m.d.sync += beat_out.eq(beat_out + 1)
            m.d.comb += freeing.eq(beat_out == o_beats - 1)
            with m.If(freeing):
                m.d.sync += [beat_out.eq(0), bank_out.eq(~bank_out)]
                for k in range(2):
                    with m.If(bank_out == k):
                        m.d.sync += full[k].eq(0)

        read_valid, read_zero, read_last = Signal(), Signal(turns), Signal()
        read_shift, read_base = Signal(shift_bits), Signal(signed(EXP_BITS))
        coarse_valid, coarse_last = Signal(), Signal()
        coarse = [Signal(9 + 7, name=f"coarse_{k}", reset_less=True) for k in range(self.o_lanes)]
        coarse_shift, coarse_exp = Signal(3), Signal(signed(EXP_BITS))
        with m.If(advance):
            m.d.sync += [
                read_valid.eq(reading),
                read_last.eq(block.last & (beat_out == o_beats - 1)),
                read_zero.eq(Cat((beat_out << turn_bits | turn) > block.final_beat for turn in range(turns))),
                read_shift.eq(block_shift),
                read_base.eq(block.base),
                coarse_valid.eq(read_valid),
                coarse_last.eq(read_last),
                coarse_shift.eq(read_shift[:3]),
                coarse_exp.eq(read_base + read_shift),
                self.o.valid.eq(coarse_valid),
                self.o.payload.last.eq(coarse_last),
                self.o.payload.exp.eq(coarse_exp),
            ]
            for k in range(self.o_lanes):
                turn = k // lanes
                v = reads[turn].data.word_select(k % lanes, width)
                # The value is doubled, so that a shift of zero has the bit that rounds as well.
                doubled = Cat(Const(0, 1), Mux(read_zero[turn], 0, v)).as_signed()
                m.d.sync += [
                    coarse[k].eq(shift_right(doubled, read_shift[3:], 9 + 7, unit=8)),
                    self.o.payload.mant[k].eq(_round_and_clip(shift_right(coarse[k], coarse_shift, 9))),
                ]
        return m


def _round_and_clip(doubled):
    """A value of nine bits with LSB 1/2, rounded half up and clipped to -127..127."""
    doubled = doubled.as_signed()
    rounded = rshr(doubled, 1)  # -128..128: doubled is a floor, -256..255
    return Mux(rounded == 128, 127, Mux(rounded == -128, -127, rounded))
