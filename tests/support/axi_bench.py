"""A bench for chip_axis with cocotbext-axi; cocotb runs it in a folder that holds ``talk.pickle``.

Its "exchanges" are commands with golden's reply, and packets of loads with the replies that they get.  "alone" is a command
that is the first one after a reset, with golden's reply.
"""

import itertools
import pickle
import random
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, Event, ReadOnly, RisingEdge, Timer
from cocotbext.axi import AxiStreamBus, AxiStreamMonitor, AxiStreamSink, AxiStreamSource

from hdl.interface import COMMAND, LOAD_REPLY, REPLY, LoadStatus, Status

MAX_CYCLES = 400_000
HALF = 5
"""Steps of half a clock cycle."""


def pauses(rate: float, seed: object):
    """In each cycle a pause with the probability ``rate``."""
    rng = random.Random(f"pauses {seed}")
    return (rng.random() < rate for _ in itertools.count())


async def watch(dut, port: str) -> None:
    """Assert in each cycle that a master port keeps a beat until it is taken, and that none comes in a reset."""
    signals = [getattr(dut, f"{port}_{name}") for name in ("tdata", "tlast")]
    valid, ready = getattr(dut, f"{port}_tvalid"), getattr(dut, f"{port}_tready")
    waiting, was_reset = None, True
    while True:
        await RisingEdge(dut.aclk)  # the values from before the edge
        in_reset = not dut.aresetn.value
        if was_reset:
            assert not valid.value, f"{port}: tvalid is 1 while aresetn was 0 at the edge before"
        if waiting is not None and not was_reset:
            assert valid.value, f"{port}: tvalid fell before the beat was taken"
            assert waiting == [int(signal.value) for signal in signals], f"{port}: a beat changed before it was taken"
        waiting = [int(signal.value) for signal in signals] if valid.value and not ready.value else None
        was_reset = in_reset


class Bench:
    """The ports of ``dut``.  Pauses have the probability ``pause`` at every port, in both directions."""

    def __init__(self, dut, pause: float, seed: int):
        self.dut = dut
        reset = {"reset": dut.aresetn, "reset_active_level": False}

        def port(kind, name):
            port = kind(AxiStreamBus.from_prefix(dut, name), dut.aclk, **reset)
            if pause and kind is not AxiStreamMonitor:
                port.set_pause_generator(pauses(pause, (name, seed)))
            return port

        self.command, self.load = (port(AxiStreamSource, f"s_axis_{name}") for name in ("command", "load"))
        self.reply, self.loaded = (port(AxiStreamSink, f"m_axis_{name}") for name in ("reply", "load_reply"))
        self.logits = port(AxiStreamMonitor, "m_axis_logits")
        for name in ("reply", "load_reply"):
            cocotb.start_soon(watch(dut, f"m_axis_{name}"))

    @classmethod
    async def start(cls, dut, pause: float, seed: int) -> "Bench":
        dut.aresetn.value = 0
        bench = cls(dut, pause, seed)
        Clock(dut.aclk, 2 * HALF, "step").start()
        await ClockCycles(dut.aclk, 3)
        dut.aresetn.value = 1
        return bench

    async def send(self, command) -> None:
        width = len(self.dut.s_axis_command_tdata) // 8
        # The bits without a field are 1: the chip ignores them.
        word = COMMAND.pack(**vars(command)) | (-1 << COMMAND.size) & ((1 << 8 * width) - 1)
        await self.command.send(word.to_bytes(width, "little"))

    async def receive(self) -> dict[str, int]:
        return fields(REPLY, await self.reply.recv())


def fields(layout, frame) -> dict[str, int]:
    """The fields of a packet of one beat; the bits above them are 0."""
    word = int.from_bytes(frame.tdata, "little")
    assert not word >> layout.size, "bits without a field are not 0"
    return layout.unpack(word)


def talk() -> dict:
    return pickle.loads(Path("talk.pickle").read_bytes())


@cocotb.test(timeout_time=2 * HALF * MAX_CYCLES, timeout_unit="step")
@cocotb.parametrize(pause=[0.0, 0.5])
async def tokens_logits_and_loads_equal_golden(dut, pause):
    plan = talk()
    bench = await Bench.start(dut, pause, plan["seed"])

    async def send_all():
        for kind, sent, _ in plan["exchanges"]:
            if kind == "command":
                await bench.send(sent)
            else:
                await bench.command.wait()
                await loading_done[id(sent)].wait()

    loading_done = {id(sent): Event() for kind, sent, _ in plan["exchanges"] if kind == "load"}
    sender = cocotb.start_soon(send_all())
    for number, (kind, sent, expected) in enumerate(plan["exchanges"]):
        where = f"exchange {number}"
        if kind == "load":
            for packet in sent:
                await bench.load.send(packet)
            for want in expected:
                got = fields(LOAD_REPLY, await bench.loaded.recv())
                assert (got["adapter"], LoadStatus(got["status"])) == want, f"{where}: {got}, not {want}"
            loading_done[id(sent)].set()
            continue
        got = await bench.receive()
        assert (Status(got["status"]), got["token"], got["sequence"]) == (expected.status, expected.token, sent.sequence), (
            f"{where}, {sent}: replied {got}, not {expected}"
        )
        if expected.logits is None:
            assert bench.logits.empty(), f"{where}: logits came unasked"
        else:
            assert bench.logits.count() == 1, f"{where}: {bench.logits.count()} packets of logits"
            logits = bench.logits.recv_nowait()  # without the bytes whose TKEEP is 0
            assert bytes(logits.tdata) == expected.logits.astype("<i4").tobytes(), f"{where}: the logits are wrong"
    await sender
    await ClockCycles(dut.aclk, 50)
    assert all(port.empty() for port in (bench.reply, bench.loaded, bench.logits)), "something came after the last reply"


@cocotb.test(timeout_time=2 * HALF * MAX_CYCLES, timeout_unit="step")
async def a_reset_ends_tokens_and_images_and_takes_no_beat(dut):
    plan = talk()
    bench = await Bench.start(dut, 0, plan["seed"])
    command, expected = plan["alone"]
    (image,), replies = next((sent, replies) for kind, sent, replies in plan["exchanges"] if kind == "load")
    for cycles in (1, 2, 40, 200):
        # A token and an image are under way, and a reply waits.
        bench.reply.pause = True
        await bench.send(command)
        bench.load.send_nowait(image[: len(image) // 8 * 4])
        await RisingEdge(dut.m_axis_reply_tvalid)  # tvalid does not wait for tready
        await bench.load.wait()
        await ClockCycles(dut.aclk, cycles)
        dut.aresetn.value = 0
        for port in (bench.command, bench.load, bench.reply, bench.loaded, bench.logits):
            port.clear()
        await ClockCycles(dut.aclk, cycles % 3)
        # A beat is offered in the last cycle of the reset, and stays until it is taken.
        dut.s_axis_command_tdata.value = COMMAND.pack(**vars(command))
        dut.s_axis_command_tvalid.value = 1
        await ClockCycles(dut.aclk, 1)
        dut.aresetn.value = 1
        await RisingEdge(dut.aclk)
        assert not dut.s_axis_command_tready.value, "tready is 1 while the chip is still in reset"
        while not dut.s_axis_command_tready.value:
            await RisingEdge(dut.aclk)
        dut.s_axis_command_tvalid.value = 0
        bench.reply.pause = False
        got = await bench.receive()
        assert (got["token"], got["position"]) == (expected.token, 0)
        assert bytes((await bench.logits.recv()).tdata) == expected.logits.astype("<i4").tobytes()
        # The first word after the reset begins an image, although no tlast came before.
        await bench.load.send(image)
        got = fields(LOAD_REPLY, await bench.loaded.recv())
        assert [(got["adapter"], got["status"])] == replies
    assert bench.reply.empty() and bench.loaded.empty() and bench.logits.empty()


@cocotb.test(timeout_time=2 * HALF * MAX_CYCLES, timeout_unit="step")
async def no_output_depends_on_an_input_within_a_cycle(dut):
    plan = talk()
    rng = random.Random(plan["seed"])
    for name in ("aresetn", "s_axis_command_tvalid", "s_axis_load_tvalid", "m_axis_reply_tready", "m_axis_load_reply_tready"):
        getattr(dut, name).value = 0
    Clock(dut.aclk, 2 * HALF, "step").start()
    await ClockCycles(dut.aclk, 3)
    inputs = [
        getattr(dut, name)
        for name in ("aresetn", *(f"s_axis_{port}_{signal}" for port in ("command", "load") for signal in ("tdata", "tvalid")))
    ] + [dut.s_axis_load_tlast, dut.m_axis_reply_tready, dut.m_axis_load_reply_tready]
    outputs = [
        getattr(dut, f"{port}_{signal}")
        for port, signals in {
            "s_axis_command": ("tready",),
            "s_axis_load": ("tready",),
            "m_axis_reply": ("tvalid", "tdata"),
            "m_axis_load_reply": ("tvalid", "tdata"),
            "m_axis_logits": ("tvalid", "tlast"),
        }.items()
        for signal in signals
    ]
    command = COMMAND.pack(**vars(plan["alone"][0]))
    seen = {output._name: set() for output in outputs}
    for _ in range(4_000):
        await RisingEdge(dut.aclk)
        values = []
        for _ in range(2):
            await Timer(1, "step")
            for signal in inputs:
                signal.value = rng.getrandbits(len(signal))
            dut.aresetn.value = int(rng.random() < 0.9997)
            dut.s_axis_command_tdata.value = command
            await Timer(1, "step")
            await ReadOnly()
            values.append([int(output.value) for output in outputs])
        assert values[0] == values[1]
        for output, value in zip(outputs, values[0], strict=True):
            seen[output._name].add(value)
    assert [name for name, values in seen.items() if len(values) < 2] == []
