"""Receive and send the frames of ``fpga.link.protocol`` in hardware."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from fpga.link.protocol import CRC, END, ESCAPE, FLIP, PAYLOAD

PAYLOAD_BITS = 8 * PAYLOAD
"""Bits of a payload: the ten bytes of a frame without CRC, ESCAPEs and ENDs.  Byte 0 is in the low bits."""


def crc16_step(crc: Value, byte: Value) -> Value:
    """Return ``crc`` after one more byte, as ``protocol.crc16`` computes it.  It is combinational: eight steps, from bit 7."""
    bits = [crc[i] for i in range(16)]
    for bit in reversed(range(8)):
        feedback = bits[15] ^ byte[bit]
        bits = [feedback, *bits[:15]]
        for i in (5, 12):
            bits[i] = bits[i] ^ feedback
    return Cat(bits)


class FrameRx(wiring.Component):
    """o = the payload of each frame in the bytes of i.

    It takes one byte a cycle, and stops only while a payload waits at ``o``.  The payload is valid two cycles after the END of its
    frame was taken.  A piece between two ENDs that is not PAYLOAD + CRC bytes with the right CRC is dropped.

    Members
    -------
    i : In(stream 8)                bytes of the line
    o : Out(stream PAYLOAD_BITS)    payloads
    """

    i: Any
    o: Any

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(PAYLOAD_BITS))})

    def elaborate(self, platform) -> Module:
        """Build a shift register for the bytes of a frame, and their CRC."""
        m = Module()
        # Bytes enter at the top and move down.  After PAYLOAD + CRC bytes the payload is in the low bits, the CRC in the high.
        held = Signal(8 * (PAYLOAD + CRC))
        count = Signal(range(PAYLOAD + CRC + 2))  # PAYLOAD + CRC + 1 stands for any higher number
        crc = Signal(16, init=0xFFFF)
        escaped = Signal()
        taken, valid = Signal(8), Signal()  # registers, because the bytes come late in the cycle: from the block RAM of a FIFO
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

    A frame takes PAYLOAD + CRC + 1 cycles, and one more for each byte that is escaped.  The first byte is valid one cycle after the
    payload was taken, and the next payload is taken one cycle after END.

    Members
    -------
    i : In(stream PAYLOAD_BITS)     payloads
    o : Out(stream 8)               bytes of the line
    """

    i: Any
    o: Any

    def __init__(self):
        super().__init__({"i": In(stream.Signature(PAYLOAD_BITS)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform) -> Module:
        """Build a shift register with the bytes yet to be sent, and the CRC of those already sent."""
        m = Module()
        ends = (
            PAYLOAD + CRC
        )  # ``count`` is the number of the present byte: ``ends`` for END, ``ends + 1`` if there is nothing to send
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
