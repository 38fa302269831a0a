"""The test bench of a chain of stages; cocotb runs it in a folder that holds ``beats.pickle``."""

import pickle
import random
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge

from sim.cocotb.bfm import StreamDriver, StreamMonitor

MAX_CYCLES = 100_000


async def hold_up(dut, probability: float, seed: int) -> None:
    """Stall the link between the stages in each cycle with a ``probability``."""
    rng = random.Random(f"link {seed}")
    while True:
        dut.link_open.value = int(rng.random() >= probability)
        await RisingEdge(dut.clk)


@cocotb.test(timeout_time=2 * MAX_CYCLES, timeout_unit="step")
async def every_beat_of_the_logits(dut):
    plan = pickle.loads(Path("beats.pickle").read_bytes())
    i = StreamDriver(dut, "i", stall=plan["stall"], seed=plan["seed"])
    logits = StreamMonitor(dut, "logits", stall=plan["stall"], seed=plan["seed"])
    Clock(dut.clk, 2, "step").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    cocotb.start_soon(hold_up(dut, plan["stall"], plan["seed"]))

    async def send_all():
        for beat in plan["vectors"]:
            await i.send(beat)

    cocotb.start_soon(send_all())
    for number, want in enumerate(plan["logits"]):
        assert await logits.receive() == want, f"beat {number} of the logits is wrong"
