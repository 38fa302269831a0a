# amaranth: UnusedElaboratable=no
"""Memories in Verilog: modules without contents; that they work is seen in every chip's test."""

import re

import pytest
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.lib.ram import NEVER_BOTH
from hdl.verilog import convert


class Holder(wiring.Component):
    """One memory behind ports."""

    def __init__(self, shape, depth, init=(), domain="sync", reads=1, attrs=None):
        self.memory = (shape, depth, list(init), domain, reads, attrs)
        super().__init__({"we": In(1), "addr": In(16), "wdata": In(24), "rdata": Out(24)})

    def elaborate(self, platform):
        m = Module()
        shape, depth, init, domain, reads, attrs = self.memory
        m.submodules.memory = memory = Memory(shape=shape, depth=depth, init=init, attrs=attrs)
        write = memory.write_port()
        m.d.comb += [write.en.eq(self.we), write.addr.eq(self.addr), write.data.eq(self.wdata)]
        for _ in range(reads):
            read = memory.read_port(domain=domain)
            m.d.comb += [read.addr.eq(self.addr + 1), self.rdata.eq(read.data)]
        return m


def rams(*memory) -> list[str]:
    return re.findall(r"^module (ram_\S+)", convert(Holder(*memory), "top"), flags=re.MULTILINE)


@pytest.mark.parametrize("shape", [24, data.StructLayout({"a": 20, "b": 4})])
def test_text_does_not_grow_with_the_depth(shape):
    small, large = (convert(Holder(shape, depth), "top") for depth in (1 << 10, 1 << 14))
    assert small.count("\n") == large.count("\n")
    assert rams(shape, 1 << 14) == ["ram_24x16384"] and "initial mem" not in large


def test_what_is_no_such_memory_stays():
    assert rams(24, 64, (), "comb") == ["ram_24x64_async"]
    assert rams(24, 64, [5]) == [] and "5" in convert(Holder(24, 64, [5]), "top")
    assert rams(24, 64, (), "sync", 2) == []


def test_a_memory_that_is_never_read_and_written_at_once_says_so():
    text = convert(Holder(24, 64, (), "sync", 1, NEVER_BOTH), "top")
    assert "module ram_24x64_apart (" in text and text.count("(* no_rw_check *) reg [23:0] mem") == 1
    assert "no_rw_check" not in convert(Holder(24, 64), "top")
