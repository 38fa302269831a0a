"""The chip's test bench.  cocotb runs it inside the simulation, in a folder that holds ``plan.pickle``.

The plan is a conversation of ``tests.chip.plan``.  Every reply and every logit must equal golden's.
"""

import pickle
from pathlib import Path
from types import SimpleNamespace

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, Event, RisingEdge

from hdl.interface import COMMAND, LOAD_REPLY, REPLY, LoadStatus, Status
from sim.cocotb.bfm import StreamDriver, StreamMonitor
from tests.chip.plan import Load

MAX_CYCLES = 4_000_000


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
    """Split beats into signed integers of ``bits`` bits; lane 0 has the low bits."""
    values = np.array([beat >> (bits * lane) & ((1 << bits) - 1) for beat in beats for lane in range(lanes)], np.int64)
    return values - ((values >> (bits - 1)) << bits)


def groups(exchanges):
    """Yield each load with the exchanges up to the next one; the first group has None instead of a load."""
    load, group = None, []
    for exchange in exchanges:
        if isinstance(exchange, Load):
            yield load, group
            load, group = exchange, []
        else:
            group.append(exchange)
    yield load, group


async def send_words(driver: StreamDriver, load: Load) -> None:
    for k, word in enumerate(load.words):
        await driver.send(word | (load.starts and k == 0) << 32)


@cocotb.test(timeout_time=2 * MAX_CYCLES, timeout_unit="step")
async def every_token_and_every_logit(dut):
    plan = pickle.loads(Path("plan.pickle").read_bytes())
    i = StreamDriver(dut, "i", stall=plan.stall_in, seed=plan.seed)
    o = StreamMonitor(dut, "o", stall=plan.stall_out, seed=plan.seed)
    Clock(dut.clk, 2, "step").start()
    load_port = loaded = None
    if plan.config.lora_rank:
        load_port = StreamDriver(dut, "load", stall=plan.stall_in / 4, seed=plan.seed)
        loaded = StreamMonitor(dut, "loaded", stall=plan.stall_out, seed=plan.seed)

    # A reset during a token and during a load image must put the chip into its first state.
    tokens = [exchange[0] for exchange in plan.exchanges if not isinstance(exchange, Load)]
    await reset(dut)
    await i.send(COMMAND.pack(**vars(tokens[0])))
    if load_port is not None:
        words = plan.first_frame
        await send_words(load_port, Load(words[: len(words) // 2], True, ()))
    await ClockCycles(dut.clk, 100 + plan.seed % 1000)
    await reset(dut)

    beats: list[int] = []
    cocotb.start_soon(watch_logits(dut, beats))
    lanes, bits, vocab_size = plan.config.vector_lanes, plan.format.wide_bits, plan.format.vocab_size
    taken = Event()

    async def send_all(commands):
        for command in commands:
            await i.send(COMMAND.pack(**vars(command)))
            taken.set()

    async def load_all(load: Load, number: int):
        if load.late:
            await taken.wait()
            await ClockCycles(dut.clk, 4)  # the chip has checked by then that the adapter is loaded
        sending = cocotb.start_soon(send_words(load_port, load))
        for expected in load.replies:
            reply = SimpleNamespace(**LOAD_REPLY.unpack(await loaded.receive()))
            got = reply.adapter, LoadStatus(reply.status)
            assert got == expected, f"exchange {number}, load: replied {got}, not {expected}"
        await sending

    number = 0
    for load, group in groups(plan.exchanges):
        taken.clear()
        loading = None
        if load is not None:
            loading = cocotb.start_soon(load_all(load, number))
            number += 1
            if load.waits:
                await loading
        sender = cocotb.start_soon(send_all([command for command, _ in group]))
        for command, expected in group:
            reply = SimpleNamespace(**REPLY.unpack(await o.receive()))
            where = f"exchange {number}, {command}"
            number += 1
            if expected.logits is None:
                assert not beats, f"{where}: logits came unasked"
            else:
                assert len(beats) == -(-vocab_size // lanes), f"{where}: {len(beats)} beats of logits"
                logits = unpacked(beats, lanes, bits)[:vocab_size]
                wrong = np.flatnonzero(logits != expected.logits)
                assert not len(wrong), (
                    f"{where}: {len(wrong)} of {vocab_size} logits are wrong, the first, of token {wrong[0]}, "
                    f"is {logits[wrong[0]]}, not {expected.logits[wrong[0]]}"
                )
                beats.clear()
            got = (Status(reply.status), reply.token, reply.sequence, bool(reply.end))
            ends = expected.logits is not None and expected.token == plan.end_token
            assert got == (expected.status, expected.token, command.sequence, ends), f"{where}: replied {got}"
            assert expected.position in (None, reply.position), f"{where}: replied position {reply.position}"
        await sender
        if loading is not None:
            await loading
    await ClockCycles(dut.clk, 50)
    assert not dut.o__valid.value and not beats, "something came after the last reply"
    assert dut.i__ready.value
