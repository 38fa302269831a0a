"""SwiGLU: silu(gate) * up (docs/arithmetic.md, swiglu)."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.lib.skid import Skid
from hdl.lib.streams import scaled_beat, vector_beat
from hdl.lib.wide_product import WideProduct
from weights_to_rom.tables import silu_tables

LSB_EXPONENT = -24
"""Gate and up have LSB 2**-12 each."""


class SwiGLU(wiring.Component):
    """o = silu(gate) * up; silu is a table of 256 entries on -8 .. 8 with linear interpolation.

    ::

        gate -> table -> entry -> value, step * fraction -> silu --.
        up ----------------------------------------------------------> silu * up -> o

    Beats alternate: ``lanes`` elements of gate, then the elements of up with the same numbers.

    Latency: ``latency`` = 6 cycles from an up beat at ``i`` to its product at ``o``.  Rate: a beat a cycle in, and a beat out
    every ``interval`` = 2 cycles.

    Widths, signed: value 16 bits, step 10, fraction 9, so step * fraction 19;
    |silu * up| <= 2**(2 * wide_bits - 2).

    Parameters
    ----------
    lanes : elements of a beat
    wide_bits : bits of an element of ``i``, 24 or 32

    Members
    -------
    i : In(stream vector_beat)     Wide; ``last`` counts on an up beat
    o : Out(stream scaled_beat)    LSB 2**-24

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    latency = 6
    interval = 2

    def __init__(self, *, lanes: int, wide_bits: int):
        if not isinstance(lanes, int) or lanes < 1:
            raise ValueError(f"lanes must be a positive integer, not {lanes!r}")
        if wide_bits not in (24, 32):
            raise ValueError(f"wide_bits must be 24 or 32, not {wide_bits!r}")
        self.lanes, self.wide_bits = lanes, wide_bits
        super().__init__(
            {
                "i": In(stream.Signature(vector_beat(lanes, wide_bits))),
                "o": Out(stream.Signature(scaled_beat(lanes, 2 * wide_bits))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, width = self.lanes, self.wide_bits

        entry = data.StructLayout({"value": signed(16), "step": signed(10)})
        entries = [{"value": v, "step": d} for v, d in zip(*silu_tables(), strict=True)]
        # Without the attribute the table takes a few thousand LUTs; with it each read port, or each two, takes a block RAM.
        m.submodules.silu = silu = Memory(shape=entry, depth=256, init=entries, attrs={"ram_style": "block"})

        # ``advance`` moves the pipeline and is ``i.ready``; it comes from a register, the skid's ``i.ready``.
        m.submodules.skid = skid = Skid(self.o.payload.shape())
        connect(m, skid.o, flipped(self.o))
        advance, takes_up = skid.i.ready, Signal()
        m.d.comb += self.i.ready.eq(advance)
        with m.If(advance & self.i.valid):
            m.d.sync += takes_up.eq(~takes_up)

        # ``valid`` and ``last`` of each stage: 1 the table's entry, which is slow; 2 interpolation; 3 operands; 4 to 6 the product.
        valid, last = Signal(6), Signal(6)
        with m.If(advance):
            m.d.sync += [
                valid.eq(Cat(self.i.valid & takes_up, valid)),
                last.eq(Cat(self.i.payload.last, last)),
            ]
        m.d.comb += [skid.i.valid.eq(valid[-1]), skid.i.payload.last.eq(last[-1]), skid.i.payload.base.eq(LSB_EXPONENT)]

        for k in range(lanes):
            table = silu.read_port()
            product = WideProduct(a_width=width, b_width=width)
            assert product.latency == 3
            m.submodules[f"product_{k}"] = product

            # The gate and its entry of the table stay until the next gate; the up of this gate comes earlier.
            incoming = self.i.payload.data[k]
            gate, fits = Signal(signed(width), name=f"gate_{k}", reset_less=True), Signal(name=f"fits_{k}", reset_less=True)
            with m.If(advance & self.i.valid & ~takes_up):
                m.d.sync += [gate.eq(incoming), fits.eq(~incoming[15:].any() | incoming[15:].all())]
            m.d.comb += [
                # gate + 8 in steps of the table: the addition inverts the sign bit and changes no other bit.
                table.addr.eq(Cat(incoming[8:15], ~incoming[15])),
                table.en.eq(advance & self.i.valid & ~takes_up),
            ]
            # Entry and gate move on together with the up, because the next gate arrives while this one is used.
            of_gate = Signal(entry, name=f"entry_{k}", reset_less=True)
            kept, outside, activated = (
                Signal(signed(width), name=f"{name}_{k}", reset_less=True) for name in ("kept", "outside", "activated")
            )
            inside_table = Signal(2, name=f"inside_table_{k}", reset_less=True)
            up = Signal(data.ArrayLayout(signed(width), 3), name=f"up_{k}", reset_less=True)
            step = Signal(signed(19), name=f"step_{k}", reset_less=True)
            value = Signal(signed(16), name=f"value_{k}", reset_less=True)
            # LSB 2**-20: value and, below it, one half for the rounding.
            inside = (Cat(Const(128, 8), value).as_signed() + step) >> 8
            with m.If(advance):
                m.d.sync += [
                    of_gate.eq(table.data),
                    kept.eq(gate),
                    inside_table.eq(Cat(fits, inside_table)),
                    up[0].eq(incoming),
                    up[1].eq(up[0]),
                    up[2].eq(up[1]),
                    step.eq(of_gate.step * Cat(kept[:8], Const(0, 1)).as_signed()),
                    value.eq(of_gate.value),
                    outside.eq(Mux(kept[-1], 0, kept)),
                    activated.eq(Mux(inside_table[1], inside, outside)),
                ]
            m.d.comb += [product.en.eq(advance), product.a.eq(activated), product.b.eq(up[2]), skid.i.payload.data[k].eq(product.p)]
        return m
