"""The link answers each request, and a repeated request changes nothing."""

import random
import struct

import pytest

from fpga.link.protocol import ADAPTER_SHIFT, HISTORY, PAYLOAD, STATUS_SHIFT, Flag, Kind
from fpga.link.requests import Link
from hdl.config import ChipConfig
from hdl.interface import LoadStatus, Status
from tests.support.adapters import random_format
from tests.support.streams import collect, drive, simulate

IDENTITY = 0xFEDCBA9876543210
CONTEXT = 50
MODEL = random_format(n_layers=1, max_seq_len=CONTEXT)
CONFIG = ChipConfig.for_model(MODEL, block_lanes=8, vector_lanes=4)
END_TOKEN = 3


def ask(kind, fields=b""):
    return int.from_bytes(bytes([kind]) + fields.ljust(PAYLOAD - 1, b"\0"), "little")


def put(position, token, flags=0):
    return ask(Kind.PUT, struct.pack("<IIB", position, token, flags))


def run(until):
    return ask(Kind.RUN, struct.pack("<I", until))


def get(position):
    return ask(Kind.GET, struct.pack("<I", position))


def load(number, *words):
    return ask(Kind.LOAD, struct.pack("<BII", number, *words))


def answer(value):
    payload = value.to_bytes(PAYLOAD, "little")
    kind = Kind(payload[0])
    fields = {Kind.IDENTITY: "<Q", Kind.RESULT: "<IIB", Kind.KEPT: "<HI", Kind.STANDING: "<I", Kind.LOADING: "<BBB"}[kind]
    return (kind, *struct.unpack_from(fields, payload, 1))


WITH_LORA = ChipConfig.for_model(MODEL, block_lanes=8, vector_lanes=4, lora_rank=4)


class FakeChip:
    """Answer tokens as a chip does.  A sampled token is a hash of position, token, temperature and seed."""

    def __init__(self, stall, seed):
        self.tokens, self.adapters, self.words, self._stall, self._random = [], [], [], stall, random.Random(seed)

    def sampled(self, position, token, inv_temperature, seed):
        value = (token * 31 + position * 7 + inv_temperature + seed) % MODEL.vocab_size
        return END_TOKEN if position % 11 == 10 else value

    def process(self, dut):
        async def serve(ctx):
            position = 0
            while True:
                ctx.set(dut.command.ready, 1)
                valid = False
                while not valid:
                    *_, valid, command = await ctx.tick().sample(dut.command.valid, dut.command.payload)
                ctx.set(dut.command.ready, 0)
                while self._random.random() < self._stall:
                    await ctx.tick()
                position = 0 if command.restart else position
                status = Status.OK
                if command.token >= MODEL.vocab_size:
                    status = Status.NO_TOKEN
                elif position >= CONTEXT:
                    status = Status.FULL
                reply = {"status": status, "sequence": 0, "token": 0, "end": 0, "position": position}
                if status == Status.OK:
                    self.tokens.append((position, command.token))
                    self.adapters.append(int(command.adapter))
                    if command.sample:
                        reply["token"] = self.sampled(position, command.token, command.inv_temperature, command.seed)
                        reply["end"] = int(reply["token"] == END_TOKEN)
                    position += 1
                ctx.set(dut.reply.payload, reply)
                ctx.set(dut.reply.valid, 1)
                taken = False
                while not taken:
                    *_, taken = await ctx.tick().sample(dut.reply.ready)
                ctx.set(dut.reply.valid, 0)

        return serve

    def loader(self, dut, replies):
        """Take words of load images.  ``replies`` are the statuses after the word of the given number."""

        async def serve(ctx):
            while True:
                ctx.set(dut.load.ready, self._random.random() >= self._stall)
                *_, ready, valid, word = await ctx.tick().sample(dut.load.ready, dut.load.valid, dut.load.payload)
                ctx.set(dut.loaded.valid, 0)
                if ready and valid:
                    self.words.append((int(word.data), int(word.first)))
                    if (status := replies.get(len(self.words))) is not None:
                        ctx.set(dut.loaded.payload, {"adapter": 1, "status": status})
                        ctx.set(dut.loaded.valid, 1)

        return serve


def talk(requests, n_answers, stall=0.0, times=None, moved=None, config=CONFIG, replies=None):
    """Return the answers to requests, and the tokens that the chip was fed."""
    dut, chip = Link(model=MODEL, config=config, identity=IDENTITY), FakeChip(stall, 1)
    _, got = simulate(
        dut,
        lambda ctx: drive(ctx, dut.i, requests, stall=stall, seed=2, times=moved),
        lambda ctx: collect(ctx, dut.o, n_answers, stall=stall, seed=3, times=times),
        background=[chip.process(dut), *([chip.loader(dut, replies or {})] if config.lora_rank else [])],
    )
    return [answer(value) for value in got], chip


SAMPLED, OK = int(Flag.SAMPLED), Status.OK.value << STATUS_SHIFT


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_conversation(stall):
    requests = [
        ask(Kind.SAMPLING, struct.pack("<HI", 300, 77)),
        ask(Kind.HELLO),
        put(0, 5, Flag.RESTART),
        put(1, 6),
        put(2, 7, Flag.SAMPLE),
        run(6),
        run(6),
        get(4),
    ]
    got, chip = talk(requests, 3 + 1 + 1 + 3 + 1 + 1 + 1, stall)
    tokens = [7]
    for position in range(2, 6):
        tokens.append(chip.sampled(position, tokens[-1], 300, 77))
    assert got == [
        (Kind.KEPT, 300, 77),
        (Kind.IDENTITY, IDENTITY),
        (Kind.RESULT, 0, 0, 0),
        (Kind.RESULT, 1, 0, 0),
        *((Kind.RESULT, position, tokens[position - 1], SAMPLED) for position in range(2, 6)),
        (Kind.STANDING, 6),
        (Kind.STANDING, 6),
        (Kind.RESULT, 4, tokens[3], SAMPLED),
    ]
    assert chip.tokens == [(0, 5), (1, 6), *((position, tokens[position - 2]) for position in range(2, 6))]


def test_what_is_requests_repeated_changes_nothing():
    first = [put(0, 5, Flag.RESTART), put(1, 6, Flag.SAMPLE)]
    got, chip = talk([*first, put(1, 6, Flag.SAMPLE), put(1, 9, Flag.SAMPLE), put(3, 8), put(2, 8), get(1), get(2), get(3)], 9)
    token = chip.sampled(1, 6, 0, 0)
    again = (Kind.RESULT, 1, token, SAMPLED)
    assert got == [
        (Kind.RESULT, 0, 0, 0),
        again,
        again,
        again,
        (Kind.STANDING, 2),
        (Kind.RESULT, 2, 0, 0),
        again,
        (Kind.RESULT, 2, 0, 0),
        (Kind.STANDING, 3),
    ]
    assert chip.tokens == [(0, 5), (1, 6), (2, 8)]


def test_the_last_results_are_remembered_and_no_others():
    n = HISTORY + 5
    feed = [put(i, i % 7, Flag.RESTART if i == 0 else 0) for i in range(n)]
    got, _ = talk([*feed, get(n - HISTORY - 1), get(n - HISTORY)], n + 2)
    assert got[-2:] == [(Kind.STANDING, n), (Kind.RESULT, n - HISTORY, 0, 0)]


def test_a_run_ends_with_the_text_and_needs_a_sample():
    got, chip = talk([put(0, 5, Flag.RESTART), run(9), put(1, 5, Flag.SAMPLE), run(40), run(40)], 1 + 1 + 1 + 9 + 1 + 1)
    assert got[1] == (Kind.STANDING, 1)
    assert got[11] == (Kind.RESULT, 10, END_TOKEN, SAMPLED | int(Flag.ENDS)) and got[12:] == [(Kind.STANDING, 11)] * 2
    assert len(chip.tokens) == 11


def test_what_the_chip_refuses_is_said_and_not_counted():
    bad = 1 << 20
    got, _ = talk([put(0, bad, Flag.RESTART | Flag.SAMPLE), put(0, 4, Flag.RESTART | Flag.SAMPLE), run(CONTEXT + 9)], 13)
    assert got[0] == (Kind.RESULT, 0, 0, SAMPLED | Status.NO_TOKEN.value << STATUS_SHIFT)
    assert got[1][:2] == (Kind.RESULT, 0) and got[-1][0] == Kind.STANDING
    feed = [put(i, 1, Flag.RESTART if i == 0 else 0) for i in range(CONTEXT)]
    got, _ = talk([*feed, put(CONTEXT, 1), get(CONTEXT - 1)], CONTEXT + 2)
    assert got[-2:] == [(Kind.RESULT, CONTEXT, 0, Status.FULL.value << STATUS_SHIFT), (Kind.RESULT, CONTEXT - 1, 0, 0)]


def test_answers_take_as_long_as_promised():
    moved, times = [], []
    talk([ask(Kind.HELLO), put(0, 5, Flag.RESTART), put(0, 5), get(0), put(9, 9)], 5, 0.0, times, moved)
    starts = [0, *(cycle + 1 for cycle in moved)]
    took = [end - start + 1 for start, end in zip(starts, times, strict=False)]
    assert took[0] == 2 and took[2:] == [4, 4, 2]


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_load_image_is_passed_on_once(stall):
    """A LOAD with another number than the next passes nothing on: it came before, or an earlier one was lost."""
    requests = [
        ask(Kind.BEGIN),
        load(0, 10, 11),
        load(0, 10, 11),
        load(2, 14, 15),
        load(1, 12, 13),
        load(2, 14, 15),
        load(2, 14, 15),
    ]
    got, chip = talk(requests, 7, stall, config=WITH_LORA, replies={6: LoadStatus.OK})
    assert got == [(Kind.LOADING, *of) for of in ((0, 0, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0), (2, 0, 0), (3, 1, 0), (3, 1, 0))]
    assert chip.words == [(10, 1), (11, 0), (12, 0), (13, 0), (14, 0), (15, 0)]


def test_the_numbers_of_a_load_begin_again_after_255():
    requests = [ask(Kind.BEGIN), *(load(i % 256, i, i) for i in range(258))]
    got, chip = talk(requests, 259, config=WITH_LORA)
    assert got[-1] == (Kind.LOADING, 2, 0, 0)
    assert chip.words == [(i // 2, int(i == 0)) for i in range(516)]


def test_the_chips_answer_to_an_image_is_said_until_the_next_begins():
    requests = [ask(Kind.BEGIN), load(0, 1, 2), load(1, 3, 4), ask(Kind.BEGIN), load(0, 5, 6), load(1, 7, 8), load(2, 9, 0)]
    said = {2: LoadStatus.BAD_LAYOUT, 5: LoadStatus.INCOMPLETE, 9: LoadStatus.BAD_CHECKSUM}
    got, chip = talk(requests, 7, config=WITH_LORA, replies=said)
    bad, wrong = LoadStatus.BAD_LAYOUT.value, LoadStatus.BAD_CHECKSUM.value
    assert [of[:3] for of in got] == [(Kind.LOADING, *of) for of in ((0, 0), (1, 1), (2, 1), (0, 0), (1, 0), (2, 0), (3, 1))]
    assert (got[1][3], got[2][3], got[6][3]) == (bad, bad, wrong)
    assert [first for _, first in chip.words] == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_every_token_names_its_adapter():
    requests = [put(0, 5, Flag.RESTART | 3 << ADAPTER_SHIFT), put(1, 6, Flag.SAMPLE | 2 << ADAPTER_SHIFT)]
    requests += [ask(Kind.RUN, struct.pack("<IB", 4, 1)), put(4, 6)]
    _, chip = talk(requests, 2 + 3 + 1, config=WITH_LORA)
    assert chip.adapters == [3, 2, 1, 1, 0]
    _, chip = talk(requests, 2 + 3 + 1)
    assert chip.adapters == [0] * 5


def test_a_link_without_lora_knows_no_load():
    got, _ = talk([ask(Kind.BEGIN), load(0, 1, 2)], 2)
    assert got == [(Kind.STANDING, 0)] * 2


def test_loads_take_as_long_as_promised():
    moved, times = [], []
    talk([ask(Kind.BEGIN), load(0, 1, 2), load(1, 3, 4)], 3, 0.0, times, moved, WITH_LORA)
    starts = [0, *(cycle + 1 for cycle in moved)]
    assert [end - start + 1 for start, end in zip(starts, times, strict=False)] == [3, 6, 6]
