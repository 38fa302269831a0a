# amaranth: UnusedElaboratable=no
"""Admission of tokens against a small model in Python."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import hdl.admission
from hdl.admission import Admission
from hdl.interface import Status
from tests.support.streams import collect, drive, simulate

SHAPES = {
    "one_sequence": {"n_sequences": 1, "max_context": 5, "n_sinks": 0, "position_bits": 3, "n_adapters": 0, "noise": True},
    "sequences": {"n_sequences": 3, "max_context": 4, "n_sinks": 0, "position_bits": 2, "n_adapters": 3, "noise": True},
    "sinks": {"n_sequences": 2, "max_context": 4, "n_sinks": 2, "position_bits": 4, "n_adapters": 1, "noise": False},
    "one_place": {"n_sequences": 5, "max_context": 1, "n_sinks": 0, "position_bits": 1, "n_adapters": 15, "noise": False},
    "wide_window": {"n_sequences": 1, "max_context": 3, "n_sinks": 0, "position_bits": 2, "n_adapters": 0, "noise": False},
}
VOCAB_SIZE = 9


@dataclass
class Model:
    """Where each sequence stands: how many tokens it has."""

    shape: dict
    lengths: dict[int, int] = field(default_factory=dict)

    def answer(self, command: dict, ready: int) -> dict:
        """Status, whether the token goes on, and its position and place, None where they do not matter."""
        n_sinks, places = self.shape["n_sinks"], self.shape["max_context"]
        sequence = command["sequence"]
        if sequence >= self.shape["n_sequences"]:
            return {"status": Status.NO_SEQUENCE, "go": 0, "position": None, "place": None, "whole": None}
        position = 0 if command["restart"] or command["release"] else self.lengths.get(sequence, 0)
        place = position if position < places or not n_sinks else n_sinks + (position - n_sinks) % (places - n_sinks)
        answer = {"status": Status.OK, "go": 0, "position": position, "place": None, "whole": None}
        if command["release"]:
            self.lengths.pop(sequence, None)
        elif command["token"] >= VOCAB_SIZE:
            answer["status"] = Status.NO_TOKEN
        elif position >= ((1 << self.shape["position_bits"]) - 1 if n_sinks else places):
            answer["status"] = Status.FULL
        elif command["adapter"] and (command["adapter"] > self.shape["n_adapters"] or not ready >> command["adapter"] & 1):
            answer["status"] = Status.NO_ADAPTER
        elif command["inv_temperature"] and command["sample"] and not self.shape["noise"]:
            answer["status"] = Status.NO_NOISE
        else:
            answer |= {"go": 1, "place": place, "whole": int(position >= places)}
            self.lengths[sequence] = position + 1
        return answer


def commands(shape: dict, count: int, seed: int) -> list[dict]:
    """Random commands: most of them for tokens that exist, so that sequences fill; each limit is met and passed by one."""
    rng = random.Random(seed)

    def often(usual: int, *others: int) -> int:
        return usual if rng.random() < 0.8 else rng.choice(others)

    return [
        {
            "token": often(rng.randrange(VOCAB_SIZE), VOCAB_SIZE, VOCAB_SIZE - 1, (1 << 32) - 1),
            "sequence": often(rng.randrange(shape["n_sequences"]), shape["n_sequences"], (1 << 16) - 1),
            "adapter": often(0, 1, shape["n_adapters"], min(15, shape["n_adapters"] + 1), 15),
            "release": often(0, 0, 0, 1),
            "restart": often(0, 0, 1),
            "sample": rng.randrange(2),
            "inv_temperature": often(0, 1, (1 << 16) - 1),
            "seed": rng.getrandbits(32),
        }
        for _ in range(count)
    ]


def check(name: str, stall_in: float = 0.0, stall_out: float = 0.0, seed: int = 0, count: int = 600):
    """Statuses that were answered, and when commands and answers moved."""
    shape = SHAPES[name]
    sent = commands(shape, count, seed)
    ready = random.Random(seed).getrandbits(shape["n_adapters"] + 1) | 1
    model = Model(shape)
    want = [model.answer(command, ready) for command in sent]
    dut = Admission(vocab_size=VOCAB_SIZE, **shape)
    moved, answered = [], []

    async def send(ctx):
        ctx.set(dut.ready, ready)
        await drive(ctx, dut.i, sent, stall_in, seed, times=moved)

    _, got = simulate(dut, send, lambda ctx: collect(ctx, dut.o, count, stall_out, seed, times=answered))
    for number, (command, answer, expected) in enumerate(zip(sent, got, want, strict=True)):
        assert answer.pop("command") == command
        assert all(answer[key] == value for key, value in expected.items() if value is not None), f"{number}: {command}"
    return {answer["status"] for answer in want}, moved, answered


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("stall_in", "stall_out"), [(0, 0), (0.4, 0.4), (0, 0.7)])
def test_equals_the_model(name, stall_in, stall_out):
    """Every status is met; release, restart, full sequences and windows that slide."""
    statuses, *_ = check(name, stall_in, stall_out, seed=len(name))
    assert statuses == set(Status) - (set() if not SHAPES[name]["noise"] else {Status.NO_NOISE})


def test_a_command_takes_the_promised_cycles():
    _, moved, answered = check("sequences", count=20)
    assert [out - into for into, out in zip(moved, answered, strict=True)] == [Admission.latency] * 20
    assert [later - before for before, later in zip(answered[:-1], moved[1:], strict=True)] == [1] * 19


@pytest.mark.parametrize("fault", ["no release", "forgets nothing", "too long", "first sink replaced", "adapter not asked"])
def test_broken_copy_is_caught(fault, monkeypatch):
    source = Path(hdl.admission.__file__).read_text()
    right, wrong = {
        "no release": ("live[token.sequence].eq(0)", "live[token.sequence].eq(1)"),
        "forgets nothing": ("begins = token.restart | ", "begins = "),
        "too long": ("else self.max_context\n", "else self.max_context + 1\n"),
        "first sink replaced": ("self.n_sinks, kept.place)", "0, kept.place)"),
        "adapter not asked": ("& ~adapter_ready", "& 0"),
    }[fault]
    assert source.count(right) == 1
    broken: dict = {}
    exec(compile(source.replace(right, wrong), hdl.admission.__file__, "exec"), broken)
    monkeypatch.setitem(globals(), "Admission", broken["Admission"])
    with pytest.raises(AssertionError):
        for name in ("sequences", "sinks"):
            check(name)
