"""Streams in Amaranth's simulator: sources and sinks with seeded stalls, and a runner that cannot hang.

_, got = simulate(dut, lambda ctx: drive(ctx, dut.i, beats, stall=0.3, seed=1),
                       lambda ctx: collect(ctx, dut.o, 100, stall=0.3, seed=2))
"""

import random

from amaranth.hdl import Value
from amaranth.lib import data
from amaranth.sim import Simulator


def plain(value):
    """Convert a sampled payload to dicts, lists and ints, so that ``==`` compares it with golden's values."""
    if not isinstance(value, data.Const):
        return value
    layout = value.shape()
    if isinstance(layout, data.ArrayLayout):
        return [plain(value[i]) for i in range(layout.length)]
    return {name: plain(value[name]) for name, _ in layout}


async def drive(ctx, stream, payloads, stall=0.0, seed=0, times=None):
    """Offer ``payloads``, which are values for ``ctx.set``, one after another.

    Until a beat is offered, each cycle is idle with the probability ``stall``; the payload is noise in idle cycles.
    The cycle in which each beat moves, counted from this call, is appended to the list ``times``.
    """
    rng = random.Random(f"drive {seed}")
    noise = Value.cast(stream.payload)
    cycle = 0
    for payload in payloads:
        while rng.random() < stall:
            ctx.set(noise, rng.getrandbits(len(noise)))
            await ctx.tick()
            cycle += 1
        ctx.set(stream.payload, payload)
        ctx.set(stream.valid, 1)
        moved = False
        while not moved:
            *_, moved = await ctx.tick().sample(stream.ready)
            cycle += 1
        if times is not None:
            times.append(cycle - 1)
        ctx.set(stream.valid, 0)
    ctx.set(noise, rng.getrandbits(len(noise)))


async def collect(ctx, stream, count, stall=0.0, seed=0, times=None):
    """Take the next ``count`` payloads, and return them as plain values.  Afterwards ready is low.

    In each cycle ready is low with the probability ``stall``.  If that is not 0, ready also waits for the first
    valid, so that a unit whose valid waits for ready hangs and the test fails.  Asserts that an offered payload
    does not change until it is taken.  ``times`` is a list as in ``drive``.
    """
    rng = random.Random(f"collect {seed}")
    got, offered = [], None
    cycle = 0
    while len(got) < count:
        waits = stall > 0 and not got and offered is None
        ready = not waits and rng.random() >= stall
        ctx.set(stream.ready, ready)
        *_, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
        cycle += 1
        if offered is not None:
            assert valid, f"valid was withdrawn in cycle {cycle - 1}, before beat {len(got)} moved"
            assert plain(payload) == offered, f"the payload of beat {len(got)} changed before it moved"
        offered = plain(payload) if valid and not ready else None
        if valid and ready:
            got.append(plain(payload))
            if times is not None:
                times.append(cycle - 1)
    ctx.set(stream.ready, 0)
    return got


def simulate(dut, *processes, background=(), limit=100_000):
    """Run async functions of ``ctx`` concurrently until all have returned.  Returns their results in order.

    Functions in ``background`` need not return.  After ``limit`` cycles an AssertionError names those that still run.
    """
    results = {}
    sim = Simulator(dut)
    sim.add_clock(1e-6)

    def testbench(index, process):
        async def run(ctx):
            results[index] = await process(ctx)

        return run

    async def watchdog(ctx):
        await ctx.delay(limit * 1e-6)
        hung = [i for i in range(len(processes)) if i not in results]
        raise AssertionError(
            f"hung: {len(hung)} of {len(processes)} processes (numbers {hung}) did not finish within {limit} cycles"
        )

    for index, process in enumerate(processes):
        sim.add_testbench(testbench(index, process))
    for process in background:
        sim.add_testbench(process, background=True)
    sim.add_testbench(watchdog, background=True)
    sim.run()
    return [results[i] for i in range(len(processes))]


def pass_on(dut, stall_in: float, stall_out: float, count: int = 200) -> tuple[list[int], list[int]]:
    """Send corner values and random words through a unit that passes words on unchanged.

    Asserts that each word comes out once, in order.  Returns the cycles in which the words entered and left.
    """
    width = len(dut.i.payload)
    rng = random.Random(f"{stall_in} {stall_out}")
    sent = [rng.choice((0, (1 << width) - 1, rng.randrange(1 << width))) for _ in range(count)]
    times_in, times_out = [], []
    _, got = simulate(
        dut,
        lambda ctx: drive(ctx, dut.i, sent, stall_in, times=times_in),
        lambda ctx: collect(ctx, dut.o, count, stall_out, times=times_out),
    )
    assert got == sent
    return times_in, times_out
