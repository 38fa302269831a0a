"""The protocol between a host and a board: frames of ten bytes on a serial line.

The line has eight data bits, no parity and one stop bit.  A frame on the line is its ten bytes, their CRC-16 (CCITT, polynomial
0x1021, first value 0xFFFF, high byte first), and END.  If one of these twelve bytes equals END or ESCAPE, it is sent as two bytes:
ESCAPE, then the byte with bit 5 flipped (a byte stuffing like that of RFC 1055).  A receiver drops each piece between two ENDs that
is not twelve bytes with the right CRC.

Byte 0 of a frame is its kind.  The other bytes, in little-endian order, are:

=========  ======================================  =========================================================================
request    fields                                  action of the board, and its reply
=========  ======================================  =========================================================================
HELLO      none                                    IDENTITY
SAMPLING   inv_temperature u16, seed u32           uses them for all further samples; KEPT
PUT        position u32, token u32, flags u8       feeds the token if its position is the next one, or if it is 0 with RESTART;
                                                   RESULT
RUN        until u32, adapter u8                   feeds the sampled token, samples the next one, and so on, while the next
                                                   position is below ``until`` and no sampled token is the end of text; a
                                                   RESULT for each, then STANDING
GET        position u32                            none; the RESULT of the position, if it is one of the last HISTORY
BEGIN      none                                    the next LOAD has number 0 and begins a load image; LOADING
LOAD       number u8, two words u32                passes two words of the load image to the chip if the number is the next one,
                                                   which counts on from 255 to 0; LOADING
=========  ======================================  =========================================================================

=========  ======================================  =========================================================================
reply      fields                                  meaning
=========  ======================================  =========================================================================
IDENTITY   identity u64                            names the model and the chip in this board
RESULT     position u32, token u32, flags u8       the token sampled at the position, if SAMPLED; ``flags`` also hold the status
                                                   of the chip
KEPT       inv_temperature u16, seed u32           the values of the SAMPLING
STANDING   next u32                                the position of the next token; also the reply to a PUT of another position
                                                   than the next, and to a GET of a position that the board has forgotten
LOADING    next u8, over u8, status u8             the number of the next LOAD; if ``over``, the chip's answer to the load image
=========  ======================================  =========================================================================

Only a chip with LoRA adapters knows BEGIN, LOAD and the adapter of a token.  An image with an odd number of words is followed by
one more, which the chip drops.

A host may send every request again.  The board answers a PUT of a position that it has fed with the RESULT of that position, and a
RUN to a position that it has reached with STANDING.  So a host repeats a request if the line loses it or its reply, and no loss
changes a token.
"""

from enum import IntEnum, IntFlag

from weights_to_rom.errors import HardwireError

END, ESCAPE, FLIP = 0xC0, 0xDB, 0x20
"""The byte that ends a frame, the byte that announces a flipped byte, and the bit that is flipped."""

PAYLOAD, CRC = 10, 2
"""Bytes of a frame, and bytes of its checksum."""

HISTORY = 32
"""The number of results that the board remembers.  A host may send at most this number of tokens ahead of the replies."""

FTDI_BAUD = 3_000_000
"""Bits a second of the FTDI chips of many boards.  A RESULT takes about 130 bits, so the line carries 23,000 tokens a second."""

LEAST_DIVISOR = 4
"""The least number of cycles of a bit: with fewer, a receiver misses the middle of the bits."""


def divisor_for(clock_hz: float, baud: int) -> int:
    """Return the cycles of a bit on the line.

    Raises HardwireError if a bit takes fewer than LEAST_DIVISOR cycles, or if the rate is wrong by more than 2 %.  A receiver reads
    the stop bit 9.5 bits after the start, so an error of about 5 % would move it half a bit away.
    """
    divisor = round(clock_hz / baud)
    if divisor < LEAST_DIVISOR or abs(clock_hz / divisor / baud - 1) > 0.02:
        raise HardwireError(f"{baud} baud cannot be made of {clock_hz / 1e6:g} MHz: a bit would take {clock_hz / baud:.2f} cycles")
    return divisor


class Kind(IntEnum):
    """The kind of a frame, which is its byte 0."""

    HELLO = 0x01
    SAMPLING = 0x02
    PUT = 0x03
    RUN = 0x04
    GET = 0x05
    BEGIN = 0x06
    LOAD = 0x07
    IDENTITY = 0x81
    RESULT = 0x82
    KEPT = 0x83
    STANDING = 0x84
    LOADING = 0x85


class Flag(IntFlag):
    """Bits of ``flags``.

    PUT has RESTART (a sequence begins), SAMPLE (a token is sampled after this one) and, from bit ADAPTER_SHIFT on, the number of
    the token's adapter, 0 for none.  RESULT has SAMPLED (a token was sampled) and ENDS (it is the end of text) in the same two
    bits, and from bit STATUS_SHIFT on ``hdl.interface.Status``.
    """

    RESTART = 1
    SAMPLE = 2
    SAMPLED = 1
    ENDS = 2


ADAPTER_SHIFT = 4
"""The lowest bit of the adapter in the ``flags`` of a PUT."""

STATUS_SHIFT = 4
"""The lowest bit of the status in the ``flags`` of a RESULT."""


def crc16(data: bytes, crc: int = 0xFFFF) -> int:
    """Return the CRC-16/CCITT-FALSE of ``data``, continued from ``crc``.  It is 0 if the data end with their own CRC."""
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


def frame(kind: Kind, fields: bytes = b"") -> bytes:
    """Return the bytes on the line for a frame of the given kind.  Zeros fill the bytes after ``fields``."""
    return on_line(bytes([kind]) + fields.ljust(PAYLOAD - 1, b"\0"))


def on_line(payload: bytes) -> bytes:
    """Return the bytes on the line for the ten bytes of a frame.

    They also begin with END, which separates the frame from noise on the line: the noise is then a piece of its own, and dropped.
    """
    if len(payload) != PAYLOAD:
        raise ValueError(f"a frame has {PAYLOAD} bytes, not {len(payload)}")
    out = bytearray([END])
    for byte in payload + crc16(payload).to_bytes(CRC, "big"):
        out += bytes([ESCAPE, byte ^ FLIP]) if byte in (END, ESCAPE) else bytes([byte])
    return bytes(out + bytes([END]))


class Deframer:
    """Find the frames in the bytes of the line.

    Attributes
    ----------
    broken : int
        The number of dropped pieces between two ENDs.
    """

    def __init__(self):
        self.broken = 0
        self._bytes, self._escaped = bytearray(), False

    def push(self, data: bytes) -> list[bytes]:
        """Take further bytes of the line.  Return the ten bytes of each frame that they complete."""
        payloads = []
        for byte in data:
            if byte == END:
                piece = bytes(self._bytes)
                if len(piece) == PAYLOAD + CRC and crc16(piece) == 0 and not self._escaped:
                    payloads.append(piece[:PAYLOAD])
                elif piece:
                    self.broken += 1
                self._bytes, self._escaped = bytearray(), False
            elif byte == ESCAPE:
                self._escaped = True
            elif len(self._bytes) <= PAYLOAD + CRC:  # further bytes cannot make a frame of a piece that is too long
                self._bytes.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False
        return payloads
