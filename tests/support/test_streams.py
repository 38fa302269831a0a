"""Tests of the test helpers: they see every beat, and fail a unit that breaks the rules of streams."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.lib.streams import vector_beat
from tests.support.streams import collect, drive, simulate


class Register(wiring.Component):
    """One pipeline register.  ``fault`` names a seeded bug."""

    def __init__(self, fault=None):
        self.fault = fault
        beats = stream.Signature(vector_beat(2, 9))
        super().__init__({"i": In(beats), "o": Out(beats)})

    def elaborate(self, platform):
        m = Module()
        advance = self.o.ready if self.fault == "waits" else ~self.o.valid | self.o.ready
        with m.If(advance):
            m.d.comb += self.i.ready.eq(self.fault != "deaf")
            m.d.sync += [self.o.valid.eq(self.i.valid & self.i.ready), self.o.payload.eq(self.i.payload)]
        if self.fault == "changes":
            m.d.sync += self.o.payload.data[0].eq(self.i.payload.data[0])
        if self.fault == "drops":
            m.d.sync += self.o.valid.eq(self.i.valid & self.i.ready)
        return m


BEATS = [{"data": [i, -i], "last": i % 5 == 0} for i in range(100)]


def run(fault=None, stall=0.4, limit=2000, **times):
    dut = Register(fault)
    _, got = simulate(
        dut,
        lambda ctx: drive(ctx, dut.i, BEATS, stall, times=times.get("sent")),
        lambda ctx: collect(ctx, dut.o, len(BEATS), stall, times=times.get("got")),
        limit=limit,
    )
    return got


@pytest.mark.parametrize("stall", (0.0, 0.4, 0.9))
def test_every_beat_arrives(stall):
    assert run(stall=stall) == BEATS


def test_transfer_times():
    sent, got = [], []
    run(stall=0.0, sent=sent, got=got)
    assert sent == list(range(100)) and got == list(range(1, 101))


@pytest.mark.parametrize(
    "fault, message", (("deaf", "hung: 2 of 2"), ("waits", "hung"), ("changes", "changed"), ("drops", "withdrawn"))
)
def test_broken_streams_are_noticed(fault, message):
    with pytest.raises(AssertionError, match=message):
        run(fault)
