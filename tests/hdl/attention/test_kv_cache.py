# amaranth: UnusedElaboratable=no
"""The KV cache returns what was appended; its memories hold everything that was written, and nothing else."""

import random

import pytest
from amaranth.hdl import Cat

import hdl.attention.kv_cache
from hdl.attention.kv_cache import KvCache
from tests.support.streams import collect, drive, simulate

SHAPES = [  # kv_heads, head_dim, lanes, vector_lanes, banks, n_layers, max_context, n_sequences
    (2, 8, 8, 8, 1, 2, 8, 2),
    (2, 8, 8, 4, 2, 3, 5, 1),
    (4, 8, 4, 8, 4, 1, 6, 3),
    (4, 8, 8, 2, 2, 2, 7, 2),
    (1, 48, 16, 4, 1, 2, 5, 1),
    (3, 48, 16, 16, 1, 1, 3, 2),
    (2, 128, 32, 32, 2, 1, 4, 1),
    (2, 64, 8, 32, 1, 2, 3, 2),
    (6, 16, 4, 2, 3, 3, 4, 3),
]
NAMES = ("kv_heads", "head_dim", "lanes", "vector_lanes", "banks", "n_layers", "max_context", "n_sequences")


class Bench:
    """A cache, the words that it should hold, and the words that the requests so far should bring."""

    def __init__(self, shape, seed):
        self.shape = dict(zip(NAMES, shape, strict=True))
        self.dut = KvCache(**self.shape)
        self.rng = random.Random(seed)
        self.held = {}  # (v, sequence, layer, position, head) -> words
        self.expected = {"k": [], "v": []}

    def __getattr__(self, name):
        return self.shape[name]

    def append(self, sequence, layer, place, whole=0):
        """Beats that write random k and v to a place."""
        vl, block = self.vector_lanes, max(self.vector_lanes, self.lanes)
        beats = []
        for v in range(2):
            for head in range(self.kv_heads):
                words = []
                for _ in range(self.head_dim // block):
                    exp = self.rng.randint(-128, 127)
                    mant = [self.rng.randint(-127, 127) for _ in range(block)]
                    beats += [{"mant": mant[k : k + vl], "exp": exp, "last": self.rng.getrandbits(1)} for k in range(0, block, vl)]
                    words += [{"mant": mant[k : k + self.lanes], "exp": exp} for k in range(0, block, self.lanes)]
                self.held[v, sequence, layer, place, head] = words
        return beats

    def request(self, index, sequence, layer, place, whole=0):
        """Expect the words of a request on k and on v."""
        for v, name in enumerate("kv"):
            heads = [
                [
                    word
                    for p in range(self.max_context if whole else place + 1)
                    for word in self.held[v, sequence, layer, p, index * self.banks + u]
                ]
                for u in range(self.banks)
            ]
            words = [{"bank": list(banks), "last": 0} for banks in zip(*heads, strict=True)]
            words[-1]["last"] = 1
            self.expected[name] += words

    def script(self, tokens):
        """[(where, beats, requests)] for ``tokens`` tokens of random sequences, each through all layers.

        In a sequence that has filled its slot a token replaces any other.
        """
        position, steps = [0] * self.n_sequences, []
        for _ in range(tokens):
            s = self.rng.randrange(self.n_sequences)
            whole = position[s] >= self.max_context
            at = self.rng.randrange(self.max_context) if whole else position[s]
            for layer in range(self.n_layers):
                where = (s, layer, at, int(whole))
                beats = self.append(*where)
                requests = [self.rng.randrange(self.dut.indices) for _ in range(self.rng.randint(0, 4))]
                for index in requests:
                    self.request(index, *where)
                steps.append((where, beats, requests))
            position[s] += 1
        return steps

    def run(self, steps, stall):
        dut = self.dut

        async def host(ctx):
            ports = (dut.sequence, dut.layer, dut.place, dut.whole)
            for k, (where, beats, requests) in enumerate(steps):
                for port, value in zip(ports, where, strict=True):
                    ctx.set(port, value)
                await drive(ctx, dut.write, beats[:1], stall, f"first {k}")
                for port in ports:  # they were taken with the first beat: noise must not matter
                    ctx.set(port, self.rng.getrandbits(len(port)))
                await drive(ctx, dut.write, beats[1:], stall, f"rest {k}")
                await drive(ctx, dut.request, requests, stall, f"requests {k}")

        async def port(ctx, name):
            return await collect(ctx, getattr(dut, name), len(self.expected[name]), stall, name)

        async def contents(ctx):
            await host(ctx)
            await ctx.tick().repeat(2)
            # Compare every word of every memory; those that were never written are 0.
            for v, memories in enumerate((dut.k_data, dut.v_data)):
                for u, memory in enumerate(memories):
                    expected = [0] * dut.depth
                    for (which, s, layer, p, head), words in self.held.items():
                        if which == v and head % self.banks == u:
                            slot = (s * self.n_layers + layer) * dut.indices + head // self.banks
                            at = (slot * self.max_context + p) * dut.head_words
                            expected[at : at + dut.head_words] = map(packed, words)
                    got = [ctx.get(memory[k]).as_bits() for k in range(dut.depth)]
                    assert got == expected, f"contents of {'kv'[v]} memory {u}"

        k, v, _ = simulate(dut, lambda ctx: port(ctx, "k"), lambda ctx: port(ctx, "v"), contents)
        for name, got in (("k", k), ("v", v)):
            for n, (a, b) in enumerate(zip(got, self.expected[name], strict=True)):
                assert a == b, f"word {n} of {name}"


def packed(word):
    return int.from_bytes(bytes(x & 255 for x in [*word["mant"], word["exp"]]), "little")


def check(shape, stall, seed=0, tokens=12):
    bench = Bench(shape, seed)
    bench.run(bench.script(tokens), stall)


@pytest.mark.parametrize("shape", SHAPES)
def test_returns_what_was_appended_and_touches_nothing_else(shape):
    check(shape, 0.4, sum(shape))


def test_without_stalls():
    check(SHAPES[0], 0.0, tokens=24)


@pytest.mark.parametrize("shape", SHAPES)
def test_cycles(shape):
    bench = Bench(shape, 0)
    dut, position = bench.dut, bench.max_context - 1
    beats = [bench.append(0, 0, p) for p in range(position + 1)]
    times = {"write": [], "request": [], "k": [], "v": []}
    for index in (0, dut.indices - 1, 0):
        bench.request(index, 0, 0, position)

    async def host(ctx):
        for p, group in enumerate(beats):
            ctx.set(dut.place, p)
            write_times = []
            await drive(ctx, dut.write, group, times=write_times)
            times["write"].append(write_times)
        await drive(ctx, dut.request, [0, dut.indices - 1, 0], times=times["request"])

    async def port(ctx, name):
        cycles = []
        got = await collect(ctx, getattr(dut, name), len(bench.expected[name]), times=cycles)
        times[name] = cycles
        assert got == bench.expected[name]

    simulate(dut, host, lambda ctx: port(ctx, "k"), lambda ctx: port(ctx, "v"))
    period = max(1, bench.vector_lanes // bench.lanes)
    for write_times in times["write"]:
        assert write_times == [2 + period - 1 + period * k for k in range(len(beats[0]))]
    sent = sum(group[-1] + 1 for group in times["write"]) + times["request"][0]
    words = (position + 1) * dut.head_words
    assert times["request"][0] == 0
    assert dut.latency == 3
    assert times["k"] == times["v"] == [sent + dut.latency + k for k in range(3 * words)]


def test_appending_waits_for_readers():
    """While a reader stalls, the next layer's beats wait, which would overwrite the place that it reads."""
    bench = Bench(SHAPES[0], 3)
    dut = bench.dut
    place = (0, 0, 1)
    tokens = [bench.append(0, 0, 0), bench.append(*place)]
    bench.request(0, *place)
    again = bench.append(*place)
    words = len(bench.expected["k"])
    bench.request(0, *place)

    async def host(ctx):
        for position, beats in enumerate(tokens):
            ctx.set(dut.place, position)
            await drive(ctx, dut.write, beats)
        await drive(ctx, dut.request, [0])
        ctx.set(dut.write.payload, again[0])
        ctx.set(dut.write.valid, 1)
        for _ in range(40):
            *_, ready = await ctx.tick().sample(dut.write.ready)
            assert not ready
        for name in "kv":
            got = await collect(ctx, getattr(dut, name), words)
            assert got == bench.expected[name][:words]
        await drive(ctx, dut.write, again)
        await drive(ctx, dut.request, [0])
        for name in "kv":
            assert await collect(ctx, getattr(dut, name), words) == bench.expected[name][words:]

    simulate(dut, host)


BROKEN = {
    "addresses": ("_times", lambda value, constant: value * (constant - 1) if constant > 1 else value),
    "order of beats": ("Cat", lambda early, mant: Cat(mant, early)),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_copy_is_caught(fault, monkeypatch):
    monkeypatch.setattr(hdl.attention.kv_cache, *BROKEN[fault])
    with pytest.raises(AssertionError, match=r"^(word|contents)"):
        check(SHAPES[3], 0.0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"banks": 3}, r"banks must divide kv_heads \(2\), not 3"),
        ({"max_context": 0}, "max_context must be a positive integer, not 0"),
        ({"lanes": 16}, r"lanes must divide head_dim \(8\), not 16"),
        ({"head_dim": 48, "lanes": 12}, r"one of lanes \(12\) and vector_lanes \(8\) must divide the other"),
    ],
)
def test_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        KvCache(**(dict(zip(NAMES, SHAPES[0], strict=True)) | change))
