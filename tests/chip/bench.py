"""The chip's test bench.

cocotb runs this module inside the simulation, in a folder that holds ``plan.pickle``.
"""

import pickle
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge

from hdl.chip import Status, command_layout, reply_layout
from sim.bfm import StreamDriver, StreamMonitor

MAX_CYCLES = 2_000_000


async def reset(dut) -> None:
    dut.rst.value = 1
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 1)  # the chip registers its reset


async def watch_logits(dut, beats: list[int]) -> None:
    while True:
        await RisingEdge(dut.clk)
        if dut.logits_valid.value:
            beats.append(int(dut.logits.value))
        else:
            await RisingEdge(dut.logits_valid)


def unpacked(beats: list[int], lanes: int, bits: int) -> np.ndarray:
    """Signed integers out of beats, lane 0 in the low bits."""
    values = np.array(
        [beat >> (bits * lane) & ((1 << bits) - 1) for beat in beats for lane in range(lanes)], np.int64
    )
    return values - ((values >> (bits - 1)) << bits)


@cocotb.test(timeout_time=2 * MAX_CYCLES, timeout_unit="step")
async def every_token_and_every_logit(dut):
    plan = pickle.loads(Path("plan.pickle").read_bytes())
    command_bits, reply_bits = command_layout(plan.config), reply_layout(plan.config)
    i = StreamDriver(dut, "i", stall=plan.stall_in, seed=plan.seed)
    o = StreamMonitor(dut, "o", stall=plan.stall_out, seed=plan.seed)
    commands = [command_bits.const(vars(command)).as_bits() for command, _ in plan.exchanges]
    Clock(dut.clk, 2, "step").start()

    # A reset in the midst of a token must leave nothing behind.
    await reset(dut)
    await i.send(commands[0])
    await ClockCycles(dut.clk, 100 + plan.seed % 1000)
    await reset(dut)

    beats: list[int] = []
    cocotb.start_soon(watch_logits(dut, beats))

    async def send_all():
        for command in commands:
            await i.send(command)

    sender = cocotb.start_soon(send_all())
    lanes, bits, vocab_size = plan.config.vector_lanes, plan.format.wide_bits, plan.format.vocab_size
    for number, (command, expected) in enumerate(plan.exchanges):
        reply = reply_bits.from_bits(await o.receive())
        what = f"exchange {number}, {command}"
        if expected.logits is None:
            assert not beats, f"{what}: logits came unasked"
        else:
            assert len(beats) == -(-vocab_size // lanes), f"{what}: {len(beats)} beats of logits"
            logits = unpacked(beats, lanes, bits)[:vocab_size]
            wrong = np.flatnonzero(logits != expected.logits)
            assert not len(wrong), (
                f"{what}: {len(wrong)} of {vocab_size} logits are wrong, the first, of token {wrong[0]}, "
                f"is {logits[wrong[0]]}, not {expected.logits[wrong[0]]}"
            )
            beats.clear()
        got = (Status(reply.status), reply.token, reply.sequence, bool(reply.end))
        ends = expected.logits is not None and expected.token == plan.end_token
        assert got == (expected.status, expected.token, command.sequence, ends), f"{what}: replied {got}"
        assert expected.position in (None, reply.position), f"{what}: replied position {reply.position}"
    await sender
    await ClockCycles(dut.clk, 50)
    assert not dut.o__valid.value and not beats, "something came after the last reply"
    assert dut.i__ready.value
