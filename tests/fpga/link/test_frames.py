"""Frames have the same bytes in Python and in hardware, and a receiver drops each frame that the line breaks."""

import binascii
import random

import pytest

from fpga.link.frames import FrameRx, FrameTx
from fpga.link.protocol import END, ESCAPE, PAYLOAD, Deframer, crc16, on_line
from tests.support.streams import collect, drive, simulate


def payloads(n, seed=0):
    """Return random payloads, and payloads whose bytes are all escaped."""
    rng = random.Random(seed)
    return [
        bytes([END] * PAYLOAD),
        bytes([ESCAPE] * PAYLOAD),
        bytes(PAYLOAD),
        *(bytes(rng.choice((END, ESCAPE, rng.randrange(256))) for _ in range(PAYLOAD)) for _ in range(n)),
    ]


def test_the_checksum_is_the_usual_one():
    assert crc16(b"123456789") == 0x29B1 == binascii.crc_hqx(b"123456789", 0xFFFF)
    assert crc16(b"12345678" + crc16(b"12345678").to_bytes(2, "big")) == 0


@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_hardware_sends_what_the_host_reads(stall):
    dut, sent = FrameTx(), payloads(30)
    lines = [on_line(payload)[1:] for payload in sent]
    times = []
    _, got = simulate(
        dut,
        lambda ctx: drive(ctx, dut.i, [int.from_bytes(p, "little") for p in sent], stall=stall, seed=1),
        lambda ctx: collect(ctx, dut.o, sum(map(len, lines)), stall=stall, seed=2, times=times),
    )
    assert bytes(got) == b"".join(lines)
    assert Deframer().push(bytes(got)) == sent
    if not stall:
        assert times[-1] - times[0] + 1 == sum(map(len, lines)) + len(lines) - 1  # one cycle between frames


@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_hardware_reads_what_the_host_sends(stall):
    dut, sent, ends, came = FrameRx(), payloads(30), [], []
    line = b"".join(map(on_line, sent))
    _, got = simulate(
        dut,
        lambda ctx: drive(ctx, dut.i, line, stall=stall, seed=1, times=ends),
        lambda ctx: collect(ctx, dut.o, len(sent), stall=stall, seed=2, times=came),
    )
    assert [value.to_bytes(PAYLOAD, "little") for value in got] == sent
    if not stall:
        last, count = [], -1
        for payload in sent:
            count += len(on_line(payload))
            last.append(ends[count])
        assert came == [cycle + 2 for cycle in last]


def spoilt(line: bytes, rng: random.Random) -> bytes:
    """Return the line with one byte lost, doubled, flipped or inserted."""
    i = rng.randrange(len(line))
    kind = rng.randrange(4)
    middle = [b"", line[i : i + 1] * 2, bytes([line[i] ^ 1 << rng.randrange(8)]), line[i : i + 1] + bytes([rng.randrange(256)])][
        kind
    ]
    return line[:i] + middle + line[i + 1 :]


def test_a_broken_byte_costs_its_frame_and_no_other():
    """Hardware and host drop the same frames, and return no payload that was not sent."""
    rng = random.Random(5)
    sent = payloads(150, seed=1)
    line = b"".join(spoilt(on_line(p), rng) if i % 2 else on_line(p) for i, p in enumerate(sent))
    reader = Deframer()
    got = reader.push(line)
    assert set(got) <= set(sent) and got.count(sent[-1]) <= 1
    whole = [p for i, p in enumerate(sent) if not i % 2]
    assert [p for p in got if p in whole] == whole and reader.broken > 40
    dut = FrameRx()
    _, hardware = simulate(dut, lambda ctx: drive(ctx, dut.i, line), lambda ctx: collect(ctx, dut.o, len(got)))
    assert [value.to_bytes(PAYLOAD, "little") for value in hardware] == got
