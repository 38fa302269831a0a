"""Rotary position embedding (docs/arithmetic.md, rope)."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.lib.bits import rshr, saturate
from hdl.lib.pipeline import delayed, registered
from hdl.lib.rom import Rom
from hdl.lib.skid import Skid
from hdl.lib.streams import scaled_beat, vector_beat
from hdl.lib.wide_product import WideProduct
from weights_to_rom.rom_map import FREQ_WORD
from weights_to_rom.tables import sine_table

LSB_EXPONENT = -12
"""Wide's LSB, 2**-12."""


class RoPE(wiring.Component):
    """(x, y) -> (x * cos - y * sin, x * sin + y * cos) for each pair, rounded and saturated to Wide.

    ::

        FREQ * position -> phase -> sine table -> cos, sin --> 4 products -> 2 sums -> round -> o
        i -----------------------------------------> x, y ---'

    The vector of a layer is n_kv_heads heads of k, n_kv_heads heads of v and n_heads heads of q.  The heads of v are multiplied
    by cos = 1 and sin = 0, which changes no bit.

    With ``sinks`` each head of q leaves twice: rotated by ``position``, then by ``sink_position``.  A memory keeps the head for
    the second time, and ``i`` waits while the head is repeated.

    Latency: ``latency`` = 8 + latency of the product FREQ * position, which is 10 cycles up to 2**17 positions.  Rate: a beat of
    ``lanes`` elements a cycle.

    Widths: |cos|, |sin| <= 2**15, so a product is at most 2**(wide_bits + 14), and a sum of two fits wide_bits + 17 bits signed.
    The phase keeps 32 bits, because a full circle is 2**32.

    ROM: ``freq`` has the lanes / 2 frequencies of a beat in a word, 32 bits each, the first in the low bits.

    Parameters
    ----------
    n_heads : heads of q
    n_kv_heads : heads of k, and of v
    head_dim : elements of a head, a multiple of ``lanes``
    lanes : elements of a beat, even
    wide_bits : bits of an element, 24 or 32
    sine_bits : the sine table of a quarter circle has 2**sine_bits entries; 4 to 14
    position_bits : bits of a position
    sinks : whether the chip has attention sinks
    freq_init : words of ``freq``; by default the ROM reads a file (``hdl.lib.rom.Rom``)
    prefix : begins the name of the ROM

    Members
    -------
    position : In(position_bits)         stable from a layer's first beat in to its last beat out
    sink_position : In(position_bits)    position for the sinks, as stable; used only with ``sinks``
    i : In(stream vector_beat)           Wide; ``last`` on the last beat of a layer's q
    o : Out(stream scaled_beat)          Wide, LSB 2**-12

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    def __init__(
        self,
        *,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        lanes: int,
        wide_bits: int,
        sine_bits: int,
        position_bits: int,
        sinks: bool = False,
        freq_init: Sequence[int] | None = None,
        prefix: str = "",
    ):
        for name, value in (("n_heads", n_heads), ("n_kv_heads", n_kv_heads), ("position_bits", position_bits)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(lanes, int) or lanes < 2 or lanes % 2:
            raise ValueError(f"lanes must be even and positive, not {lanes!r}")
        if not isinstance(head_dim, int) or head_dim < lanes or head_dim % lanes:
            raise ValueError(f"head_dim must be a multiple of lanes ({lanes}), not {head_dim!r}")
        if wide_bits not in (24, 32):
            raise ValueError(f"wide_bits must be 24 or 32, not {wide_bits!r}")
        if not isinstance(sine_bits, int) or not 4 <= sine_bits <= 14:
            raise ValueError(f"sine_bits must be 4 to 14, not {sine_bits!r}")
        self.n_heads, self.n_kv_heads, self.head_beats = n_heads, n_kv_heads, head_dim // lanes
        self.lanes, self.wide_bits, self.sine_bits, self.sinks = lanes, wide_bits, sine_bits, sinks
        self._phases = [WideProduct(a_width=33, b_width=position_bits + 1) for _ in range(lanes // 2)]
        # frequency, phase, table (a register after it: it is slow), sign
        self._operands = 1 + self._phases[0].latency + 2 + 1
        self.latency = self._operands + 2 + 2  # the products, sum, rounding
        self.freq = Rom(width=FREQ_WORD.times(lanes).width, depth=self.head_beats, name=prefix + "freq", init=freq_init)
        super().__init__(
            {
                "position": In(position_bits),
                "sink_position": In(position_bits),
                "i": In(stream.Signature(vector_beat(lanes, wide_bits))),
                "o": Out(stream.Signature(scaled_beat(lanes, wide_bits))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width, sine_bits = self.wide_bits, self.sine_bits
        m.submodules.freq = self.freq

        # ``advance`` moves all of the pipeline, so it comes from a register, the skid's ``i.ready``.
        m.submodules.skid = skid = Skid(self.o.payload.shape())
        connect(m, skid.o, flipped(self.o))
        advance, out = skid.i.ready, skid.i.payload

        # The place in the stream: the beat within the head, and the head within the layer.
        beat = Signal(range(max(2, self.head_beats)))
        head = Signal(range(2 * self.n_kv_heads + self.n_heads))
        is_v = (head >= self.n_kv_heads) & (head < 2 * self.n_kv_heads)
        i_valid, i_data, i_last, again = self._repeated(m, advance, beat, head >= 2 * self.n_kv_heads)
        with m.If(advance & i_valid):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == self.head_beats - 1):
                m.d.sync += beat.eq(0)
                if self.sinks:
                    with m.If((head >= 2 * self.n_kv_heads) & ~again):
                        m.d.sync += again.eq(1)
                    with m.Else():
                        m.d.sync += [again.eq(0), head.eq(Mux(i_last, 0, head + 1))]
                else:
                    m.d.sync += head.eq(Mux(i_last, 0, head + 1))
        m.d.comb += [self.freq.addr.eq(beat), self.freq.en.eq(advance)]
        # Positions are registered, because they come from far.  They are used with the frequency, a cycle after the beat.
        position, sink_position = Signal.like(self.position), Signal.like(self.sink_position)
        m.d.sync += [position.eq(self.position), sink_position.eq(self.sink_position)]
        if self.sinks:
            turn = registered(m, again, name="turn", en=advance, reset_less=False)
            position = Mux(turn, sink_position, position)

        operands = self._operands
        valid, last = Signal(self.latency), Signal(self.latency)
        passes = Signal(operands - 1)  # one stage less: the signs are chosen in the stage that uses it
        with m.If(advance):
            m.d.sync += [
                valid.eq(Cat(i_valid, valid)),
                last.eq(Cat(i_last, last)),
                passes.eq(Cat(is_v, passes)),
            ]
        m.d.comb += [skid.i.valid.eq(valid[-1]), out.last.eq(last[-1]), out.base.eq(LSB_EXPONENT)]

        for pair, phase in enumerate(self._phases):
            sine = Memory(shape=15, depth=1 << sine_bits, init=sine_table(sine_bits))
            m.submodules[f"phase_{pair}"] = phase
            m.submodules[f"sine_{pair}"] = sine
            sin_port, cos_port = sine.read_port(), sine.read_port()

            # The angle is the top of the phase: quadrant, then index.  In odd quadrants the table is read backwards.
            angle = phase.p[30 - sine_bits : 32]
            index, odd = angle[:sine_bits], angle[sine_bits]
            sin_index = index ^ odd.replicate(sine_bits)
            m.d.comb += [
                phase.a.eq(self.freq.data.word_select(pair, 32)),
                phase.b.eq(position),
                phase.en.eq(advance),
                sin_port.addr.eq(sin_index),
                cos_port.addr.eq(~sin_index),
                sin_port.en.eq(advance),
                cos_port.en.eq(advance),
            ]
            quadrant = Signal(2, name=f"quadrant_{pair}")
            quadrant_read = Signal(2, name=f"quadrant_read_{pair}")
            cos_read, sin_read = (Signal(15, name=f"{name}_read_{pair}", reset_less=True) for name in ("cos", "sin"))
            cos, sin = (Signal(signed(17), name=f"{name}_{pair}", reset_less=True) for name in ("cos", "sin"))
            with m.If(advance):
                m.d.sync += [
                    quadrant_read.eq(angle[sine_bits:]),
                    quadrant.eq(quadrant_read),
                    cos_read.eq(cos_port.data),
                    sin_read.eq(sin_port.data),
                    cos.eq(_signed(quadrant[0] ^ quadrant[1], cos_read)),
                    sin.eq(_signed(quadrant[1], sin_read)),
                ]
                with m.If(passes[-1]):
                    m.d.sync += [cos.eq(1 << 15), sin.eq(0)]

            x, y = (
                delayed(m, Value.cast(i_data[2 * pair + k]), operands, name=f"{'xy'[k]}_{pair}", en=advance)[-1] for k in range(2)
            )
            xc, ys, xs, yc = (
                self._product(m, advance, f"{name}_{pair}", a, b)
                for name, a, b in (("x_cos", x, cos), ("y_sin", y, sin), ("x_sin", x, sin), ("y_cos", y, cos))
            )
            for k, total in enumerate((xc - ys, xs + yc)):
                rotated = Signal(signed(width + 17), name=f"rotated_{2 * pair + k}", reset_less=True)
                rounded = Signal(signed(width), name=f"rounded_{2 * pair + k}", reset_less=True)
                m.d.comb += out.data[2 * pair + k].eq(rounded)
                with m.If(advance):
                    m.d.sync += [rotated.eq(total), rounded.eq(_round(rotated, width))]
        return m

    def _repeated(self, m, advance, beat, is_q):
        """(valid, data, last, again) of the beat to rotate: that of ``i``, or with sinks a beat of q ``again``."""
        i = self.i
        if not self.sinks:
            m.d.comb += i.ready.eq(advance)
            return i.valid, i.payload.data, i.payload.last, Const(0)
        again, ends = Signal(name="again"), Signal()
        m.submodules.head = head = Memory(shape=i.payload.data.shape(), depth=max(2, self.head_beats), init=[])
        write, read = head.write_port(), head.read_port(domain="comb")
        m.d.comb += [
            i.ready.eq(advance & ~again),
            write.addr.eq(beat),
            write.data.eq(i.payload.data),
            write.en.eq(i.valid & i.ready),
            read.addr.eq(beat),
        ]
        with m.If(i.valid & i.ready):
            m.d.sync += ends.eq(i.payload.last)
        last = Mux(again, ends & (beat == self.head_beats - 1), i.payload.last & ~is_q)
        values = [Mux(again, kept, new) for kept, new in zip(read.data, i.payload.data, strict=True)]
        return again | i.valid, values, last, again

    def _product(self, m, advance, name: str, a, b):
        product = WideProduct(a_width=self.wide_bits, b_width=17)
        assert product.latency == 2
        m.submodules[name] = product
        m.d.comb += [product.a.eq(a), product.b.eq(b), product.en.eq(advance)]
        return product.p


def _signed(negative, value):
    return Mux(negative, -value, value)


def _round(value, width: int):
    """sat(rshr(value, 15), width)"""
    return saturate(rshr(value, 15), width)
