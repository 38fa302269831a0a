"""A bench for a LiteX system with a chip: the host's program runs, and its reads and writes go to the AXI-Lite port.

cocotb runs it in a folder that holds ``plan.pickle`` and ``csr.csv``.
"""

import pickle
from pathlib import Path

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiLiteBus, AxiLiteMaster
from litex.tools.remote.csr_builder import CSRBuilder

from examples.litex.host import LitexSession
from sim.session import SessionError, generate

MAX_CYCLES = 4_000_000


class Bus:
    """Reads and writes of words, as LiteX's ``RemoteClient`` has them.  They block their thread while the simulation runs."""

    def __init__(self, master: AxiLiteMaster):
        self._master = master

    @resume
    async def read(self, address: int, length: int = 1) -> list[int]:
        return [await self._master.read_dword(address + 4 * word) for word in range(length)]

    @resume
    async def write(self, address: int, words: list[int]) -> None:
        for number, word in enumerate(words):
            await self._master.write_dword(address + 4 * number, word)


@cocotb.test(timeout_time=2 * MAX_CYCLES, timeout_unit="step")
async def a_host_gets_goldens_tokens_through_registers(dut):
    plan = pickle.loads(Path("plan.pickle").read_bytes())
    Clock(dut.clk, 2, "step").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    bus = Bus(AxiLiteMaster(AxiLiteBus.from_prefix(dut, "host"), dut.clk, dut.rst))

    def host() -> None:
        registers = CSRBuilder(bus, "csr.csv").regs
        session = LitexSession(registers, plan["vocab_size"], plan["max_context"])

        def check(name: str) -> None:
            session.reset()
            prompt, sampling, expected = plan[name]
            tokens = [reply.token for reply in generate(session, prompt, len(expected), sampling)]
            assert tokens == expected, f"{name}: {tokens}, not {expected}"

        check("likeliest")
        check("random")
        session.adapter = 1
        with pytest.raises(SessionError, match="NO_ADAPTER"):
            check("adapter")
        damaged = plan["image"].copy()
        damaged[5] ^= 1
        with pytest.raises(SessionError, match="the chip refused adapter 1: BAD_CHECKSUM"):
            session.load(damaged)
        session.load(plan["image"])
        check("adapter")
        session.adapter = 0
        check("likeliest")

    await bridge(host)()
