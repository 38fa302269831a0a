"""The end of attention: numerators divided by their denominator."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from hdl.attention.sums import sums_signature
from hdl.lib.bits import bitlen, saturate
from hdl.lib.divider import Reciprocal
from hdl.lib.rom import address_bits
from hdl.lib.skid import Skid
from hdl.lib.streams import scaled_beat
from hdl.lib.wide_product import WideProduct

BASE = -16
"""A result's LSB is 2**BASE."""


class AttentionOutput(wiring.Component):
    """o = sat(rshr(num * R, nb - 1 - lift), wide_bits + 4), R = 2**31 // (den >> (nb - 16)).

        den -> bitlen -> shift -> reciprocal of each head --.
        num -> select --------------------------------------- * -> shift -> round -> o

    One head a cycle enters the divisions; there is a divider for each.  From ``sums.valid`` to the first beat
    ``latency`` cycles, then a beat a cycle.  ``sums`` is free for other heads ``division`` cycles after it
    came, one for each beat, and one more.

    Members
    -------
    sums : In(sums_signature)
    o : Out(stream scaled_beat(vector_lanes, wide_bits + 4))    heads in order; ``last`` ends every
                                                                ``passes``-th of sums
    """

    division = 12  # two registers to the dividers, 10 cycles in them

    def __init__(self, *, heads: int, head_dim: int, block: int, vector_lanes: int, max_context: int, wide_bits: int, passes: int):
        self.heads, self.head_dim, self.block = heads, head_dim, block
        self.vector_lanes, self.passes = vector_lanes, passes
        self.wide_bits, self.max_context = wide_bits, max_context
        super().__init__(
            {
                "sums": In(sums_signature(heads, head_dim, block, max_context)),
                "o": Out(stream.Signature(scaled_beat(vector_lanes, wide_bits + 4))),
            }
        )
        # |num| < 2**(len(num) - 1) and R <= 2**16.
        self._products = [WideProduct(a_width=len(self.sums.num[0][0]), b_width=18) for _ in range(vector_lanes)]
        self.latency = self.division + 1 + self._products[0].latency + 2

    def elaborate(self, platform):
        m = Module()
        sums, o = self.sums, self.o
        head_beats = self.head_dim // self.vector_lanes
        beats = self.heads * head_beats

        # Into the dividers, a head a cycle.  den >= 2**15, the exponential of the maximum.
        fed = Signal(range(self.heads + 1))
        den, whole_den = (Signal.like(sums.den[0], name=name, reset_less=True) for name in ("den", "whole_den"))
        above = Signal(address_bits(len(den) - 15))  # nb - 16
        above_of = Array(Signal.like(above, name=f"above_{h}") for h in range(self.heads))
        at_den, at_above = Signal(), Signal()
        den_head, above_head = Signal(address_bits(self.heads)), Signal(address_bits(self.heads))
        m.d.sync += [at_den.eq(0), at_above.eq(at_den)]
        with m.If(sums.valid & (fed != self.heads)):
            m.d.sync += [den.eq(Array(sums.den)[fed]), den_head.eq(fed), at_den.eq(1), fed.eq(fed + 1)]
        with m.If(at_den):
            bits = bitlen(den[16:])
            m.d.sync += [whole_den.eq(den), above.eq(bits), above_of[den_head].eq(bits), above_head.eq(den_head)]
        dividers = []
        for h in range(self.heads):
            m.submodules[f"reciprocal_{h}"] = divider = Reciprocal(bits=2)
            # Always ready: its last result was taken before ``sums`` was.
            m.d.comb += [divider.i.payload.eq(whole_den >> above), divider.i.valid.eq(at_above & (above_head == h))]
            dividers.append(divider)

        # Out of them, head by head.  What moves all of the pipe is a register.
        m.submodules.skid = skid = Skid(o.payload.shape())
        connect(m, skid.o, flipped(o))
        advance, out = skid.i.ready, skid.i.payload
        head, beat = Signal(address_bits(self.heads)), Signal(address_bits(head_beats))
        flat = Signal(address_bits(beats))  # beat of all heads
        passed = Signal(address_bits(self.passes))
        go, head_end, end, ended = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            go.eq(Array(d.o.valid for d in dividers)[head]),
            head_end.eq(beat == head_beats - 1),
            end.eq(flat == beats - 1),
            sums.ready.eq(ended),
        ]
        # A register: whether the last head's division has ended is known far from the sums.
        m.d.sync += ended.eq(advance & go & end)
        with m.If(ended):
            m.d.sync += fed.eq(0)
        with m.If(advance & go):
            m.d.sync += [beat.eq(Mux(head_end, 0, beat + 1)), flat.eq(Mux(end, 0, flat + 1))]
            with m.If(head_end):
                m.d.sync += head.eq(Mux(end, 0, head + 1))
                m.d.comb += [divider.o.ready.eq(head == h) for h, divider in enumerate(dividers)]
            with m.If(end):
                m.d.sync += passed.eq(Mux(passed == self.passes - 1, 0, passed + 1))

        num = [Signal.like(sums.num[0][0], name=f"num_{j}", reset_less=True) for j in range(self.vector_lanes)]
        inverse = Signal(17, reset_less=True)
        # The shift but for its last bit, which rounds: 1 or more, as lift <= 13.
        right = Signal(range(len(den) - 16 + 14 + 12 + 1))
        at_num, last = Signal(), Signal()
        with m.If(advance):
            m.d.sync += at_num.eq(go)
            with m.If(go):
                block = flat >> ceil_log2(self.block // self.vector_lanes)
                lift = Array(lift for of_head in sums.lift for lift in of_head)[block]
                m.d.sync += [
                    inverse.eq(Array(d.o.payload for d in dividers)[head]),
                    right.eq(14 + above_of[head] - lift),
                    last.eq(end & (passed == self.passes - 1)),
                ]
                for j, n in enumerate(num):
                    every = [of_head[e] for of_head in sums.num for e in range(j, self.head_dim, self.vector_lanes)]
                    m.d.sync += n.eq(Array(every)[flat])

        for j, product in enumerate(self._products):
            m.submodules[f"product_{j}"] = product
            m.d.comb += [product.a.eq(num[j]), product.b.eq(inverse), product.en.eq(advance)]
        marks = Cat(at_num, last, right)
        for k in range(self._products[0].latency):
            after = Signal(len(marks), name=f"beside_product_{k}")
            with m.If(advance):
                m.d.sync += after.eq(marks)
            marks = after
        at_product, product_last, shift = marks[0], marks[1], marks[2:]

        # |num * R| < 2**(len(num) + 15).
        shifted = [Signal(signed(len(num[0]) + 16), name=f"shifted_{j}", reset_less=True) for j in range(self.vector_lanes)]
        at_shifted, shifted_last = Signal(), Signal()
        at_out, last_out = Signal(), Signal()
        data_out = [Signal(signed(self.wide_bits + 4), name=f"out_{j}", reset_less=True) for j in range(self.vector_lanes)]
        m.d.comb += [
            skid.i.valid.eq(at_out),
            out.base.eq(BASE),
            out.last.eq(last_out),
            *(to.eq(y) for to, y in zip(out.data, data_out, strict=True)),
        ]
        with m.If(advance):
            m.d.sync += [at_shifted.eq(at_product), at_out.eq(at_shifted)]
            with m.If(at_product):
                m.d.sync += [s.eq(product.p >> shift) for s, product in zip(shifted, self._products, strict=True)]
                m.d.sync += shifted_last.eq(product_last)
            with m.If(at_shifted):
                m.d.sync += last_out.eq(shifted_last)
                m.d.sync += [y.eq(saturate((s + 1) >> 1, self.wide_bits + 4)) for y, s in zip(data_out, shifted, strict=True)]
        return m
