"""RMSNorm: a vector over its root mean square, times the gain (docs/arithmetic.md, rmsnorm)."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from hdl.lib.bits import bitlen, magnitude, shift_right
from hdl.lib.pipeline import add_pairs, delayed, registered
from hdl.lib.rom import Rom
from hdl.lib.skid import Skid
from hdl.lib.streams import EXP_BITS, scaled_beat, vector_beat
from hdl.lib.wide_product import WideProduct
from weights_to_rom.model_format import BLOCK, ceil_to
from weights_to_rom.rom_map import GAIN_WORD, NORM_WORD
from weights_to_rom.tables import rsqrt_table


class RMSNorm(wiring.Component):
    """o = v * r * gain with r = 1 / sqrt(sum of v**2 + eps), of LSB 2**base, for the MX conversion.

    There are three passes over a vector of n = dim_padded / lanes beats.  The first stores it and finds the OR of its
    magnitudes.  The second shifts the elements to 16 bits and squares them, two beats a cycle if n is even.  The third
    multiplies::

        memory -> shift -> u -> u * u -> tree of additions -> sum -> t -> n -> index of RSQRT
               `---------> v -> v * r -> (v * r) * gain -> o                     |
                                    ^--------------------------------------------'

    Latency: ``latency`` = n / 2 + 15 + log2(lanes) cycles from a vector's last beat in to its first beat out; n + 14 +
    log2(lanes) if n is odd.  Rate: then a beat of ``lanes`` elements a cycle.  The next vector can begin one cycle after the
    third pass has read the last beat, which is 6 cycles earlier than that beat leaves: 2 * n - 8 + latency cycles a vector.

    Widths: |u| <= 2**15, so the sum is at most 2**30 * dim and t is less than 2**30 * dim + 2**32.
    |v * r * gain| < 2**(wide_bits - 1) * 2**15 * 2**15: wide_bits + 30 bits with the sign, also for a gain of -2**15.

    ROMs: ``gain`` has ``lanes`` gains a word, 16 bits signed, the first in the low bits.  ``norm`` has a word of 40 bits for
    each norm, eps_q | ge << 32.  The norms are used in order, the first one after ``restart``.

    Parameters
    ----------
    dim : elements of a vector; beats fill it up with zeros to dim_padded, the next multiple of 32
    lanes : elements of a beat, a power of two from 2 to 32
    wide_bits : bits of an element of ``i``, 24 or 32
    n_norms : norms of the ROMs
    gain_init, const_init : words of ``gain`` and ``norm``; by default the ROMs read files (``hdl.lib.rom.Rom``)
    prefix : begins the names of the two ROMs

    Members
    -------
    restart : In(1)                the next vector meets the first norm; only while no vector is inside
    i : In(stream vector_beat)     Wide, dim_padded elements, zero from dim on
    o : Out(stream scaled_beat)    LSB 2**base; base = ge - 15 - p - sh wraps to ``EXP_BITS`` bits

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    def __init__(
        self,
        *,
        dim: int,
        lanes: int,
        wide_bits: int,
        n_norms: int,
        gain_init: Sequence[int] | None = None,
        const_init: Sequence[int] | None = None,
        prefix: str = "",
    ):
        if not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim must be a positive integer, not {dim!r}")
        if lanes not in (2, 4, 8, 16, 32):
            raise ValueError(f"lanes must be a power of two from 2 to 32, not {lanes!r}")
        if wide_bits not in (24, 32):
            raise ValueError(f"wide_bits must be 24 or 32, not {wide_bits!r}")
        if not isinstance(n_norms, int) or n_norms < 1:
            raise ValueError(f"n_norms must be a positive integer, not {n_norms!r}")
        self.dim, self.lanes, self.wide_bits = dim, lanes, wide_bits
        self.beats = ceil_to(dim, BLOCK) // lanes
        self.banks = 1 if self.beats % 2 else 2
        self.latency = self.beats // self.banks + 14 + ceil_log2(self.banks * lanes)
        self.gain = Rom(width=GAIN_WORD.times(lanes).width, depth=n_norms * self.beats, name=prefix + "gain", init=gain_init)
        self.norm = Rom(width=NORM_WORD.width, depth=n_norms, name=prefix + "norm", init=const_init)
        super().__init__(
            {
                "restart": In(1),
                "i": In(stream.Signature(vector_beat(lanes, wide_bits))),
                "o": Out(stream.Signature(scaled_beat(lanes, wide_bits + 31))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, width, beats, banks = self.lanes, self.wide_bits, self.beats, self.banks

        m.submodules.gain = self.gain
        m.submodules.norm = self.norm
        # Beat k is in bank k % banks.
        writes, reads = [], []
        for bank in range(banks):
            m.submodules[f"vector_{bank}"] = vector = Memory(shape=lanes * width, depth=max(2, beats // banks), init=[])
            writes.append(vector.write_port())
            # If each bank has one beat, the second pass reads the last beat in the cycle that writes it.
            reads.append(vector.read_port(transparent_for=writes[-1:] if beats == banks else []))
        m.submodules.rsqrt = rsqrt = Memory(shape=15, depth=128, init=rsqrt_table())
        root = rsqrt.read_port()

        # The stream and the passes.  ``advance`` moves all of the pipeline, so it comes from a register, the skid's ``i.ready``.
        m.submodules.skid = skid = Skid(self.o.payload.shape())
        connect(m, skid.o, flipped(self.o))
        advance, out, base = skid.i.ready, skid.i.payload, Signal(signed(EXP_BITS))
        index = Signal(range(max(2, beats)))
        magnitudes = Signal(width - 1)
        squaring, multiplying, found, forgets = Signal(), Signal(), Signal(), Signal()
        last_square, last_read = index == beats - banks, index == beats - 1
        # A beat is written from registers, a cycle after it moved; the second pass may already read the first beats.
        entered, place, beat = Signal(), Signal.like(index), Signal.like(self.i.payload.data, reset_less=True)
        beat_magnitudes = Signal(width - 1, reset_less=True)
        m.d.sync += [
            entered.eq(self.i.valid & self.i.ready),
            place.eq(index),
            beat.eq(self.i.payload.data),
            beat_magnitudes.eq(reduce(or_, map(magnitude, self.i.payload.data))),
        ]
        m.d.comb += [
            *(write.addr.eq(place >> (banks - 1)) for write in writes),
            *(write.data.eq(beat) for write in writes),
            *(write.en.eq(entered & (place[0] == bank if banks > 1 else 1)) for bank, write in enumerate(writes)),
            *(read.addr.eq(index >> (banks - 1)) for read in reads),
            *(read.en.eq(advance) for read in reads),
        ]
        every_magnitude = Signal(width - 1)
        m.d.comb += every_magnitude.eq(Mux(entered, beat_magnitudes, 0) | magnitudes)
        m.d.sync += magnitudes.eq(Mux(forgets, 0, every_magnitude))
        with m.FSM(name="pass"):
            with m.State("STORE"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += index.eq(index + 1)
                    with m.If(self.i.payload.last):
                        m.d.sync += index.eq(0)
                        m.next = "SQUARE"
            with m.State("SQUARE"):
                m.d.comb += squaring.eq(1)
                with m.If(advance):
                    m.d.sync += index.eq(index + banks)
                    with m.If(last_square):
                        m.d.sync += index.eq(0)
                        m.next = "ROOT"
            with m.State("ROOT"):
                with m.If(found):
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.comb += multiplying.eq(1)
                with m.If(advance):
                    m.d.sync += index.eq(index + 1)
                    with m.If(last_read):
                        m.d.comb += forgets.eq(1)
                        m.d.sync += [index.eq(0), self.norm.addr.eq(self.norm.addr + 1)]
                        m.next = "STORE"

        # The constants of this norm.  They are stable one cycle after ``shift``, many cycles earlier than the sum.  The ROM's word
        # has a register of its own, because block RAM is slow.
        constants = Signal(40, reset_less=True)
        shift = Signal(range(width - 15))  # bitlen(magnitudes) <= width - 1
        eps, least, exponent = Signal(32), Signal(signed(EXP_BITS)), Signal(signed(EXP_BITS))
        m.d.comb += self.norm.en.eq(1)
        m.d.sync += [
            shift.eq(bitlen(every_magnitude[15:])),
            constants.eq(self.norm.data),
            eps.eq(shift_right(constants[:32], shift, 32, unit=2)),
            least.eq(constants[32:].as_signed() - 15),
            exponent.eq(least - shift),
        ]

        # The pipelines of the second and of the third pass.
        is_square = delayed(m, squaring, 3, name="is_square", en=advance, reset_less=False)
        is_output = delayed(m, multiplying, 7, name="is_output", en=advance, reset_less=False)
        square_last = delayed(m, squaring & last_square, 3, name="square_last", en=advance, reset_less=False)
        output_last = delayed(m, multiplying & last_read, 7, name="output_last", en=advance, reset_less=False)
        squares = []
        gains = Signal(16 * lanes, reset_less=True)
        bank_read = Signal(range(banks))
        with m.If(advance):
            m.d.sync += bank_read.eq(index)
        for k in range(lanes):
            first = WideProduct(a_width=width, b_width=16)
            second = WideProduct(a_width=width + 15, b_width=16)
            assert (first.latency, second.latency) == (2, 3)
            m.submodules[f"scale_{k}"] = first
            m.submodules[f"gain_{k}"] = second
            v = [read.data.word_select(k, width).as_signed() for read in reads]
            chosen, factor = Signal(signed(width), name=f"v_{k}", reset_less=True), Signal(15, name=f"r_{k}", reset_less=True)
            m.d.comb += [
                first.en.eq(advance),
                first.a.eq(chosen),
                first.b.eq(factor),
                second.en.eq(advance),
                second.a.eq(first.p),
                second.b.eq(gains.word_select(k, 16)),
                out.data[k].eq(second.p),
            ]
            with m.If(advance):
                m.d.sync += [chosen.eq(Array(v)[bank_read]), factor.eq(root.data)]
            for bank in range(banks):
                square = WideProduct(a_width=16, b_width=16)
                assert square.latency == 1
                m.submodules[f"square_{k}_{bank}"] = square
                u = Signal(signed(16), name=f"u_{k}_{bank}", reset_less=True)
                m.d.comb += [square.a.eq(u), square.b.eq(u), square.en.eq(advance)]
                with m.If(advance):
                    m.d.sync += u.eq(shift_right(v[bank], shift, 16))
                squares.append(square.p[:31])  # |u| <= 2**15
        m.d.comb += [skid.i.valid.eq(is_output[7]), out.last.eq(output_last[7]), out.base.eq(base)]

        # Gains are read two cycles ahead of v * r.  The words of all norms are in the order in which they are used.
        m.d.comb += self.gain.en.eq(advance)
        with m.If(advance):
            m.d.sync += gains.eq(self.gain.data)
            with m.If(is_output[2]):
                m.d.sync += self.gain.addr.eq(self.gain.addr + 1)

        # The sum of squares: each level of additions ends in a register.
        level = 0
        while len(squares) > 1:
            level += 1
            squares = [registered(m, pair, name=f"sum_{level}_{k}", en=advance) for k, pair in enumerate(add_pairs(squares))]
        adds = delayed(m, is_square[3], level, name="adds", en=advance, reset_less=False)[level]
        adds_last = delayed(m, square_last[3], level, name="adds_last", en=advance, reset_less=False)[level]
        total = Signal((self.dim << 30).bit_length())
        starts = Signal(init=1)
        t = Signal(((self.dim << 30) + (1 << 32)).bit_length())
        n = Signal(range(len(t)))
        with m.If(advance & adds):
            m.d.sync += [total.eq(squares[0] + Mux(starts, 0, total)), starts.eq(adds_last)]
        has = delayed(m, adds & adds_last, 3, name="has", en=advance, reset_less=False)  # 1: the total, 2: t, 3: n
        below = shift_right(Cat(Const(0, 6), t), n, 6)
        with m.If(advance):
            m.d.sync += [t.eq(total + eps), n.eq(bitlen(t[1:])), root.addr.eq(Cat(below, n[0]))]
            with m.If(has[3]):
                m.d.sync += base.eq(exponent - (n >> 1))
        m.d.comb += [found.eq(advance & has[3]), root.en.eq(1)]

        with m.If(self.restart):
            m.d.sync += [self.norm.addr.eq(0), self.gain.addr.eq(0)]
        return m
