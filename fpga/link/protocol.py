"""The protocol between a host and a board: frames of ten bytes on a serial line.

The line has eight data bits, no parity and one stop bit.  A frame on the line is its ten bytes, their CRC-16 (CCITT, polynomial
0x1021, first value 0xFFFF, high byte first), and END.  An END or an ESCAPE among these twelve bytes is sent as two bytes
(RFC 1055): ESCAPE, then the byte with bit 5 flipped.  A receiver drops everything between two ENDs that is not twelve bytes with
the right CRC.

Byte 0 of a frame is its kind.  The other bytes, in little-endian order, are:

=========  ======================================  =========================================================================
request    fields                                  action of the board, and its reply
=========  ======================================  =========================================================================
HELLO      none                                    IDENTITY
SAMPLING   inv_temperature u16, seed u32           keeps them; KEPT
PUT        position u32, token u32, flags u8       feeds the token if its position is the next one, or if it is 0 with RESTART;
                                                   RESULT
RUN        until u32                               feeds the sampled token, then the one sampled next, and so on, while the next
                                                   position is below ``until`` and no token is the end of text; a RESULT for
                                                   each, then STANDING
GET        position u32                            RESULT again, if the position is one of the last HISTORY
=========  ======================================  =========================================================================

=========  ======================================  =========================================================================
reply      fields                                  meaning
=========  ======================================  =========================================================================
IDENTITY   identity u64                            names the model and the chip in this board
RESULT     position u32, token u32, flags u8       the token sampled at the position, if SAMPLED; ``flags`` also hold the status
                                                   of the chip
KEPT       inv_temperature u16, seed u32           the values of the SAMPLING
STANDING   next u32                                the position of the next token; also the reply to a PUT of a position that is
                                                   not the next one, and to a GET of one that the board does not remember
=========  ======================================  =========================================================================

A host may send every request again: a PUT of a position that has been fed is answered by its RESULT, a RUN to a position that has
been reached by STANDING.  So the host asks again for whatever the line loses, and a loss never changes a token.
"""

from enum import IntEnum, IntFlag

from weights_to_rom.errors import HardwireError

END, ESCAPE, FLIP = 0xC0, 0xDB, 0x20
PAYLOAD, CRC = 10, 2
"""Bytes of a frame, and of its checksum."""

HISTORY = 32
"""How many results the board remembers.  A host may be so many tokens ahead of the replies."""

FTDI_BAUD = 3_000_000
"""Bits a second that the FTDI chips of many boards can do: enough for 23,000 tokens a second."""

LEAST_DIVISOR = 4
"""The fewest cycles of a bit with which a receiver finds the middle of bits."""


def divisor_for(clock_hz: float, baud: int) -> int:
    """Return the cycles of a bit on the line.

    Raises HardwireError if the rate would be wrong by more than 2 %, half of what a byte bears, or if a bit is too short.
    """
    divisor = round(clock_hz / baud)
    if divisor < LEAST_DIVISOR or abs(clock_hz / divisor / baud - 1) > 0.02:
        raise HardwireError(f"{baud} baud cannot be made of {clock_hz / 1e6:g} MHz: a bit would take {clock_hz / baud:.2f} cycles")
    return divisor


class Kind(IntEnum):
    """The first byte of a frame."""

    HELLO = 0x01
    SAMPLING = 0x02
    PUT = 0x03
    RUN = 0x04
    GET = 0x05
    IDENTITY = 0x81
    RESULT = 0x82
    KEPT = 0x83
    STANDING = 0x84


class Flag(IntFlag):
    """Bits of ``flags``.

    RESTART and SAMPLE belong to PUT.  SAMPLED and ENDS belong to RESULT, and use the same bits.  ENDS says that the token is the
    end of text.  From bit STATUS_SHIFT on, RESULT has the ``hdl.interface.Status`` of the chip.
    """

    RESTART = 1
    SAMPLE = 2
    SAMPLED = 1
    ENDS = 2


STATUS_SHIFT = 4


def crc16(data: bytes, crc: int = 0xFFFF) -> int:
    """Return the CRC-16/CCITT-FALSE of data.  It is 0 for data that end with their own CRC."""
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


def frame(kind: Kind, fields: bytes = b"") -> bytes:
    """Return a frame with ``fields`` as the bytes of the line."""
    return on_line(bytes([kind]) + fields.ljust(PAYLOAD - 1, b"\0"))


def on_line(payload: bytes) -> bytes:
    """Return the bytes of the line for the ten bytes of a frame.

    They begin with an END as well, so that noise on the line becomes a frame of its own, which is dropped.
    """
    if len(payload) != PAYLOAD:
        raise ValueError(f"a frame has {PAYLOAD} bytes, not {len(payload)}")
    out = bytearray([END])
    for byte in payload + crc16(payload).to_bytes(CRC, "big"):
        out += bytes([ESCAPE, byte ^ FLIP]) if byte in (END, ESCAPE) else bytes([byte])
    return bytes(out + bytes([END]))


class Deframer:
    """Turns bytes of the line into the ten bytes of frames.

    ``broken`` counts the pieces between two ENDs that were dropped.
    """

    def __init__(self):
        self.broken = 0
        self._bytes, self._escaped = bytearray(), False

    def push(self, data: bytes) -> list[bytes]:
        """Take further bytes of the line, and return the frames that they complete."""
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
            elif len(self._bytes) <= PAYLOAD + CRC:  # one byte too many is enough to know that the piece is no frame
                self._bytes.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False
        return payloads
