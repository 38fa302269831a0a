"""Frames of ``fpga.link.protocol`` in hardware."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from fpga.link.protocol import CRC, END, ESCAPE, FLIP, PAYLOAD

PAYLOAD_BITS = 8 * PAYLOAD
"""The payload of a frame is its ten bytes, without CRC and marks, byte 0 in the low bits."""


def crc16_step(crc: Value, byte: Value) -> Value:
    """Return ``protocol.crc16`` after one more byte, its bit 7 first: eight steps of exclusive ors, combinational."""
    bits = [crc[i] for i in range(16)]
    for bit in reversed(range(8)):
        feedback = bits[15] ^ byte[bit]
        bits = [feedback, *bits[:15]]
        for i in (5, 12):
            bits[i] = bits[i] ^ feedback
    return Cat(bits)


class FrameRx(wiring.Component):
    """o = the payload of each frame among the bytes of i.

    Takes a byte a cycle.  The payload is valid two cycles after the END of its frame.  Bytes between two ENDs that are not
    PAYLOAD + CRC bytes with the right CRC are dropped.

    Members
    -------
    i : In(stream 8)
    o : Out(stream PAYLOAD_BITS)
    """

    i: Any
    o: Any

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(PAYLOAD_BITS))})

    def elaborate(self, platform) -> Module:
        """Build a shift register that bytes enter, and the CRC of those in it."""
        m = Module()
        # The bytes of the frame, shifted in from the top.  PAYLOAD and CRC lie where they belong when the last byte is in.
        held = Signal(8 * (PAYLOAD + CRC))
        count = Signal(range(PAYLOAD + CRC + 2))  # PAYLOAD + CRC + 1 stands for any higher number
        crc = Signal(16, init=0xFFFF)
        escaped = Signal()
        taken, valid = Signal(8), Signal()  # a register, because the FIFO in front of it is a block RAM, and slow
        byte = Signal(8)
        m.d.comb += [
            self.i.ready.eq(~(valid & self.o.valid)),
            byte.eq(taken ^ Mux(escaped, FLIP, 0)),
            self.o.payload.eq(held[:PAYLOAD_BITS]),
        ]
        with m.If(self.i.ready):
            m.d.sync += [taken.eq(self.i.payload), valid.eq(self.i.valid)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(valid & ~self.o.valid):
            with m.If(taken == END):
                m.d.sync += [
                    self.o.valid.eq((count == PAYLOAD + CRC) & (crc == 0) & ~escaped),
                    count.eq(0),
                    crc.eq(0xFFFF),
                    escaped.eq(0),
                ]
            with m.Elif(taken == ESCAPE):
                m.d.sync += escaped.eq(1)
            with m.Else():
                m.d.sync += [escaped.eq(0), crc.eq(crc16_step(crc, byte))]
                with m.If(count <= PAYLOAD + CRC):
                    m.d.sync += count.eq(count + 1)
                m.d.sync += held.eq(Cat(held[8:], byte))
        return m


class FrameTx(wiring.Component):
    """o = the bytes of the payload i, its CRC, and END.

    A payload is PAYLOAD + CRC + 1 bytes, and one byte more for each byte that is escaped.  One byte leaves in a cycle.

    Members
    -------
    i : In(stream PAYLOAD_BITS)
    o : Out(stream 8)
    """

    i: Any
    o: Any

    def __init__(self):
        super().__init__({"i": In(stream.Signature(PAYLOAD_BITS)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform) -> Module:
        """Build a shift register that bytes leave, and the CRC of those that left."""
        m = Module()
        ends = PAYLOAD + CRC  # the number of END; at ``ends + 1`` nothing is to be sent
        left = Signal(PAYLOAD_BITS)
        crc = Signal(16)
        count = Signal(range(ends + 2), init=ends + 1)
        escaped, special = Signal(), Signal()
        byte = Signal(8)
        m.d.comb += [
            self.i.ready.eq(count == ends + 1),
            self.o.valid.eq(count != ends + 1),
            byte.eq(Mux(count < PAYLOAD, left[:8], crc[8:])),
            special.eq((byte == END) | (byte == ESCAPE)),
        ]
        with m.If(count == ends):
            m.d.comb += self.o.payload.eq(END)
        with m.Elif(special & ~escaped):
            m.d.comb += self.o.payload.eq(ESCAPE)
        with m.Else():
            m.d.comb += self.o.payload.eq(byte ^ Mux(escaped, FLIP, 0))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [left.eq(self.i.payload), count.eq(0), crc.eq(0xFFFF)]
        with m.If(self.o.valid & self.o.ready):
            with m.If(special & ~escaped & (count != ends)):
                m.d.sync += escaped.eq(1)
            with m.Else():
                m.d.sync += [escaped.eq(0), count.eq(count + 1), left.eq(left >> 8)]
                m.d.sync += crc.eq(Mux(count < PAYLOAD, crc16_step(crc, byte), Cat(Const(0, 8), crc[:8])))
        return m
