# amaranth: UnusedElaboratable=no
"""The loader of adapters: load images as they are packed, images broken in every way, tokens that use adapters meanwhile."""

import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.lib.crc.catalog import CRC32_BZIP2

import hdl.lora.loader
from hdl.interface import LoadStatus
from hdl.lora.loader import LoraLoader
from hdl.verilog import convert
from sim.rtl.verilator import verilator
from tests.support.adapters import random_adapter, random_format
from tests.support.streams import collect, drive, simulate
from weights_to_rom.adapters.lora import adapter_memory, adapter_words, frame, layout_word, word_bits

FMT = random_format(n_layers=1)
VECTOR_LANES = 4
WAIVERS = Path(hdl.__file__).with_name("lint.vlt")
SHAPES = [(2, 1), (8, 4), (16, 2), (32, 8)]  # rank, lora_lanes: words of 384, 288, 272 and 264 bits


def loader(rank, lanes, n_adapters=3, words=None) -> LoraLoader:
    return LoraLoader(
        n_adapters=n_adapters,
        words=words or adapter_words(FMT, rank, lanes),
        lora_lanes=lanes,
        word_bits=word_bits(rank),
        layout=layout_word(FMT, rank, lanes, VECTOR_LANES),
    )


def packed(rank, lanes, number, seed, steps=15):
    """An adapter's load image, and its writes: {(address, lane): word}."""
    adapter = random_adapter(np.random.default_rng(seed), FMT, rank, steps)
    memory = adapter_memory(adapter, FMT, lanes, VECTOR_LANES)
    writes = {
        ((number - 1) * len(memory) + address, lane): int.from_bytes(memory[address, lane].tobytes(), "little")
        for address in range(len(memory))
        for lane in range(lanes)
    }
    return [int(word) for word in frame(adapter, FMT, number, lanes, VECTOR_LANES)], writes


def checked(words):
    """The words with their checksum."""
    return [*words, zlib.crc32(b"".join(word.to_bytes(4, "little") for word in words))]


def beats(words, first=True):
    return [{"data": word, "first": int(first and k == 0)} for k, word in enumerate(words)]


def ok(number):
    return {"adapter": number, "status": LoadStatus.OK}


async def idle(ctx, cycles):
    """Wait; a loop, because ``tick().repeat()`` cannot be dropped when a simulation ends in the middle of it."""
    for _ in range(cycles):
        await ctx.tick()


class Bench:
    """A loader and a record of it: each write, and each change of ``ready`` with the number of beats that had moved."""

    def __init__(self, dut):
        self.dut, self.memory, self.moved, self.cycle = dut, {}, 0, 0
        self.write_times, self.ready_changes, self.in_use = [], [], 0

    async def watch(self, ctx):
        dut, ready = self.dut, 1
        ports = (dut.i.valid, dut.i.ready, dut.write.en, dut.write.addr, dut.write.lane, dut.write.data, dut.ready)
        async for *_, valid, takes, en, addr, lane, data, now in ctx.tick().sample(*ports):
            if now != ready:
                self.ready_changes.append((self.moved, now))
                ready = now
            if en:
                assert addr // dut.words + 1 != self.in_use, "the adapter in use is overwritten"
                assert not now >> addr // dut.words + 1 & 1, "an adapter that is ready is overwritten"
                self.memory[addr, lane] = data
                self.write_times.append(self.cycle)
            self.moved += valid and takes
            self.cycle += 1

    def run(self, words, replies, stall=0.0, seed=0, *others):
        """Offer the words and expect the replies, and neither a write nor a reply after them."""

        async def end(ctx):
            got = await collect(ctx, self.dut.o, len(replies), stall, seed)
            assert got == replies
            return got

        async def feed(ctx):
            times = []
            await drive(ctx, self.dut.i, words, stall, seed, times)
            ctx.set(self.dut.o.ready, 0)
            await idle(ctx, 4)
            return times

        times, *_ = simulate(self.dut, feed, end, *others, background=[self.watch], limit=1000 + 20 * len(words))
        return times


@pytest.mark.parametrize("rank, lanes, stall", [*((*shape, 0.0) for shape in SHAPES), (*SHAPES[1], 0.5), (*SHAPES[2], 0.5)])
def test_writes_the_load_image(rank, lanes, stall):
    """Adapters one after another, one of them twice: memory, replies, steps, and the cycles in which each is ready."""
    n = len(packed(rank, lanes, 1, 0)[0])
    plan = [(2, 15), (1, 5), (2, 8)] if not stall else [(3, 15), (1, 9)]
    bench, words, memory, changes, ready = Bench(loader(rank, lanes)), [], {}, [], 1
    for seed, (number, steps) in enumerate(plan):
        data, writes = packed(rank, lanes, number, seed, steps)
        if ready >> number & 1:
            ready ^= 1 << number
            changes.append((len(words) + 1, ready))
        words += beats(data)
        memory |= writes
        ready |= 1 << number
        changes.append((len(words), ready))
    steps = {}

    async def look(ctx):
        while bench.moved < len(words):
            await ctx.tick()
        await idle(ctx, 2)
        steps.update({number: ctx.get(mask) for number, mask in enumerate(bench.dut.steps)})

    times = bench.run(words, [ok(number) for number, _ in plan], stall, rank, look)
    assert bench.memory == memory
    # ``ready`` changes in the cycle after its word moved, in which the next word may move.
    assert bench.ready_changes == changes
    assert steps == dict.fromkeys(range(4), 0) | dict(plan)
    assert bench.dut.latency == 1
    if not stall:  # a word a cycle; each word of memory is written ``latency`` cycles after its last part moved
        parts = -(-word_bits(rank) // 32)
        assert times == list(range(len(words)))
        assert bench.write_times == [
            n * k + 1 + parts * (j + 1) + bench.dut.latency for k in range(len(plan)) for j in range(bench.dut.words * lanes)
        ]


RANK, LANES = 16, 2


def short():
    """A small loader, and a function that makes load images for it: three addresses of two words."""
    rng = random.Random(5)
    dut = loader(RANK, LANES, words=3)

    def words(number, steps=15, layout=dut.layout):
        return checked([number | steps << 8, layout, *(rng.getrandbits(32) for _ in range(3 * LANES * 9))])

    return dut, words


def writes_of(words, number):
    """The writes of a small load image."""
    return {
        ((number - 1) * 3 + k // LANES, k % LANES): sum(word << 32 * j for j, word in enumerate(words[2 + 9 * k : 11 + 9 * k]))
        % (1 << word_bits(RANK))
        for k in range(6)
    }


def status(number, what):
    return {"adapter": number, "status": what}


@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_refusals(stall):
    """Every kind of reply, one image after the other; only complete and right images make an adapter ready."""
    dut, words = short()
    good, other, third = words(1), words(2), words(3)
    flipped = words(1)
    flipped[20] ^= 1 << 17
    late = words(2)
    late[-1] ^= 1
    images = [  # words, replies, ready afterwards
        (beats(good), [ok(1)], 0b0011),
        (beats([1, 2, 3], first=False), [], 0b0011),  # between images
        (beats(words(0)), [status(0, LoadStatus.NO_ADAPTER)], 0b0011),
        (beats(words(4)), [status(4, LoadStatus.NO_ADAPTER)], 0b0011),
        (beats(words(255)), [status(255, LoadStatus.NO_ADAPTER)], 0b0011),
        (beats(other), [ok(2)], 0b0111),
        (beats(words(2, layout=dut.layout ^ 1 << 31)), [status(2, LoadStatus.BAD_LAYOUT)], 0b0011),
        (beats(other), [ok(2)], 0b0111),
        (beats(flipped), [status(1, LoadStatus.BAD_CHECKSUM)], 0b0101),
        (beats(late), [status(2, LoadStatus.BAD_CHECKSUM)], 0b0001),
        (beats(third[:1]), [status(3, LoadStatus.INCOMPLETE)], 0b0001),  # before its layout
        (beats(third[:2]), [status(3, LoadStatus.INCOMPLETE)], 0b0001),  # before its memory
        (beats(third[:30]), [status(3, LoadStatus.INCOMPLETE)], 0b0001),  # within
        (beats(third[:-1]), [status(3, LoadStatus.INCOMPLETE)], 0b0001),  # before its checksum
        (beats(words(9)), [status(9, LoadStatus.NO_ADAPTER)], 0b0001),  # two replies in a row
        (beats(third), [ok(3)], 0b1001),
        (beats(good[-1:], first=False), [], 0b1001),  # after an image
        (beats(good), [ok(1)], 0b1011),
    ]
    bench = Bench(dut)
    bench.run([beat for data, *_ in images for beat in data], [reply for _, replies, _ in images for reply in replies], stall, 1)
    after = [ready for *_, ready in images]
    assert [now for _, now in bench.ready_changes] == [now for last, now in zip([1, *after], after, strict=False) if now != last]
    assert bench.memory == writes_of(good, 1) | writes_of(late, 2) | writes_of(third, 3)


@pytest.mark.parametrize("seed", range(3))
def test_waits_for_tokens(seed):
    """Tokens that begin at any time, with any adapter that is ready: no word of the adapter in use is written."""
    rng = random.Random(seed)
    dut, words = short()
    bench = Bench(dut)
    numbers = [1, 2, 3] * 6
    rng.shuffle(numbers)
    images = [words(number) for number in numbers]
    used = set()

    async def tokens(ctx):
        while bench.moved < sum(map(len, images)):
            ready = ctx.get(dut.ready)
            number = rng.choice([n for n in range(4) if ready >> n & 1])
            await idle(ctx, 2)  # the latest that is allowed
            ctx.set(dut.in_use, number)
            bench.in_use = number
            used.add(number)
            await idle(ctx, rng.choice([1, 20, 200]))
            ctx.set(dut.in_use, 0)
            bench.in_use = 0
            await idle(ctx, rng.randint(1, 30))

    bench.run([beat for data in images for beat in beats(data)], [ok(number) for number in numbers], 0.1, seed, tokens)
    assert used == {0, 1, 2, 3}
    assert bench.memory == {
        at: word for number, data in zip(numbers, images, strict=True) for at, word in writes_of(data, number).items()
    }


def test_the_other_adapters_do_not_wait():
    dut, words = short()
    bench = Bench(dut)

    async def use(ctx):
        ctx.set(dut.in_use, 2)

    times = bench.run(beats(words(1)), [ok(1)], 0.0, 0, use)
    assert times == list(range(len(times)))


def test_words_of_the_adapter_in_use_wait():
    """Word 0 and the layout move, so that no token begins to use the adapter; the first word of memory waits."""
    dut, words = short()
    bench = Bench(dut)
    data = words(2)

    async def use(ctx):
        ctx.set(dut.in_use, 2)
        await idle(ctx, 50)
        assert bench.moved == 2 and not bench.memory
        ctx.set(dut.in_use, 0)

    times = bench.run(beats(data), [ok(2)], 0.0, 0, use)
    assert times == [0, 1, *range(50, 50 + len(data) - 2)]


def test_nothing_moves_while_a_reply_waits():
    dut, words = short()
    bench = Bench(dut)

    async def late(ctx):
        await idle(ctx, 100)
        assert bench.moved == 1
        return await collect(ctx, dut.o, 2)

    async def feed(ctx):
        await drive(ctx, dut.i, beats(words(7)) + beats(words(1)))

    _, got = simulate(dut, feed, late, background=[bench.watch])
    assert got == [status(7, LoadStatus.NO_ADAPTER), ok(1)]


def test_a_reset_forgets_all():
    """After a reset no adapter is ready, and the image that was under way is forgotten."""
    dut, words = short()
    reset = Signal()

    async def run(ctx):
        ctx.set(dut.o.ready, 1)
        await drive(ctx, dut.i, beats(words(1)) + beats(words(2)) + beats(words(3))[:-1])
        assert ctx.get(dut.ready) == 0b0111
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        assert ctx.get(dut.ready) == 1
        ctx.set(dut.o.ready, 0)
        await drive(ctx, dut.i, beats(words(3)[-1:], first=False) + beats(words(2)))
        assert await collect(ctx, dut.o, 1) == [ok(2)]
        assert ctx.get(dut.ready) == 0b0101

    simulate(ResetInserter(reset)(dut), run)


@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_the_checksum_is_zlibs(n):
    """The checksum is taken over the words as little-endian bytes."""
    rng = random.Random(n)
    dut, _ = short()
    images = []
    for _ in range(4):
        words = [1, dut.layout, *(rng.getrandbits(32) for _ in range(54))]
        words[2 : 2 + n] = [rng.choice([0, 2**32 - 1])] * min(n, 54)
        images += beats(checked(words))
    Bench(dut).run(images, [ok(1)] * 4)


BROKEN = {
    "another checksum": ("CRC32_ISO_HDLC", CRC32_BZIP2),
    "counters that do not begin anew": ("Mux", lambda ends, then, otherwise: otherwise),
    "a number of seven bits": ("NUMBER_BITS", 7),
    "words shifted in from below": ("Cat", lambda held, word: word << 32),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_check_catches(what, monkeypatch):
    monkeypatch.setattr(hdl.lora.loader, *BROKEN[what])
    with pytest.raises(AssertionError):
        test_refusals(0.0)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_verilog(tmp_path, shape):
    """Verilator's linter finds nothing but what hdl/lint.vlt waives for every unit."""
    (tmp_path / "loader.v").write_text(convert(loader(*shape), "loader"))
    verilator("--lint-only", "-Wall", "--top-module", "loader", str(WAIVERS), str(tmp_path / "loader.v"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_adapters": 0}, "n_adapters must be a positive integer, not 0"),
        ({"n_adapters": 256}, "n_adapters must be at most 255, not 256"),
        ({"words": 0}, "words must be a positive integer, not 0"),
        ({"lora_lanes": 1.5}, "lora_lanes must be a positive integer, not 1.5"),
        ({"word_bits": -1}, "word_bits must be a positive integer, not -1"),
        ({"layout": 1 << 32}, "layout must be an unsigned integer of 32 bits, not 4294967296"),
    ],
)
def test_arguments(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        LoraLoader(**{"n_adapters": 2, "words": 4, "lora_lanes": 1, "word_bits": 288, "layout": 7} | change)
