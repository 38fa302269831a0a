"""What host and board say to each other: frames of ten bytes, a checksum behind them, bytes that mark where they end.

On the line a frame is its ten bytes and their CRC-16 (CCITT, polynomial 0x1021, first value 0xFFFF, high byte first), then END.
END and ESCAPE within are two bytes each (RFC 1055): ESCAPE, and the byte with bit 5 flipped.  The other side drops whatever is
not twelve bytes between two ENDs with a CRC that fits.

Byte 0 is the kind, the others, in little-endian order, are:

=========  ======================================  =========================================================================
request    fields                                  what the board does, and replies
=========  ======================================  =========================================================================
HELLO      none                                    IDENTITY
SAMPLING   inv_temperature u16, seed u32           keeps them; KEPT
PUT        position u32, token u32, flags u8       feeds the token if its position is the next one (or 0 with RESTART); RESULT
RUN        until u32                               feeds the sampled token, and what is sampled then, while the next position is
                                                   below ``until`` and no token is the end of text; a RESULT for each, and STANDING
GET        position u32                            RESULT again, if it is one of the last HISTORY
=========  ======================================  =========================================================================

=========  ======================================  =========================================================================
reply      fields                                  meaning
=========  ======================================  =========================================================================
IDENTITY   identity u64                            of the model and the chip in this board
RESULT     position u32, token u32, flags u8       what was sampled there, if SAMPLED; ``flags`` hold the chip's status, too
KEPT       inv_temperature u16, seed u32           what SAMPLING said
STANDING   next u32                                position of the next token; also to a PUT that is not its turn and
                                                   a GET of what is not there
=========  ======================================  =========================================================================

Every request may be said again: a PUT of a position that has been fed gives its RESULT again, a RUN to where the board has been
gives STANDING.  So what is lost on the line is asked for again, and never changes a token.
"""

from enum import IntEnum, IntFlag

END, ESCAPE, FLIP = 0xC0, 0xDB, 0x20
PAYLOAD, CRC = 10, 2
HISTORY = 32
"""Results that the board remembers; so many may be on their way."""


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
    """Of PUT: RESTART, SAMPLE.  Of RESULT: SAMPLED, ENDS (the end-of-text token); bits 4 .. 6 are ``hdl.chip.Status``."""

    RESTART = 1
    SAMPLE = 2
    SAMPLED = 1
    ENDS = 2


STATUS_SHIFT = 4


def crc16(data: bytes, crc: int = 0xFFFF) -> int:
    """CRC-16/CCITT-FALSE.  Of data with their own CRC behind them it is 0."""
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


def frame(kind: Kind, fields: bytes = b"") -> bytes:
    """A frame as it goes on the line."""
    return on_line(bytes([kind]) + fields.ljust(PAYLOAD - 1, b"\0"))


def on_line(payload: bytes) -> bytes:
    """A frame's ten bytes as they go on the line, an END before them, too, which ends whatever noise was there."""
    if len(payload) != PAYLOAD:
        raise ValueError(f"a frame has {PAYLOAD} bytes, not {len(payload)}")
    out = bytearray([END])
    for byte in payload + crc16(payload).to_bytes(CRC, "big"):
        out += bytes([ESCAPE, byte ^ FLIP]) if byte in (END, ESCAPE) else bytes([byte])
    return bytes(out + bytes([END]))


class Deframer:
    """Bytes of the line to payloads, whatever else comes; ``broken`` counts what was dropped."""

    def __init__(self):
        self.broken = 0
        self._bytes, self._escaped = bytearray(), False

    def push(self, data: bytes) -> list[bytes]:
        payloads = []
        for byte in data:
            if byte == END:
                whole = bytes(self._bytes)
                if len(whole) == PAYLOAD + CRC and crc16(whole) == 0 and not self._escaped:
                    payloads.append(whole[:PAYLOAD])
                elif whole:
                    self.broken += 1
                self._bytes, self._escaped = bytearray(), False
            elif byte == ESCAPE:
                self._escaped = True
            elif len(self._bytes) <= PAYLOAD + CRC:  # one too many is enough to know
                self._bytes.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False
        return payloads
