"""The KV cache writes the words that are appended, to their place, and nothing else."""

from amaranth.hdl import Cat, Signal, Value
from harness import Bug, Proof, implies
from kv_cache_model import SHAPES, KvCacheModel

import hdl.attention.kv_cache

OUTSIDE = "a write outside the addressed place"
CHANGED = "a word other than the one that was last appended there"
BOTH = "a memory is read while it is written"


def stay_inside(model: KvCacheModel):
    # A word is written in the cycle after its beat was offered: ``was_...`` are sequence, layer and place of that cycle.
    sequence, layer, place, _ = [Signal.like(Value.cast(known), name=f"was_{k}") for k, known in enumerate(model.there)]
    model.m.d.sync += Cat(sequence, layer, place).eq(Cat(model.there[:3]))
    start = model.slot(sequence, layer) + place * model.head_words
    inside = [start + index * model.slot_words + word for index in range(model.indices) for word in range(model.head_words)]
    for memories in model.memories:
        for memory in memories:
            (port,) = memory.write_ports
            model.claim(OUTSIDE, implies(port.en, Cat(port.addr == address for address in inside).any()))


def keep_values(model: KvCacheModel):
    # While its beat is offered, the word may be the old one or the new one.
    model.claim(CHANGED, (model.stored == model.held) | (model.offered & (model.stored == model.appended)))


def keep_apart(model: KvCacheModel):
    # NEVER_BOTH promises this to Yosys.
    for memories in model.memories:
        for memory in memories:
            (write,), (read, *_) = memory.write_ports, memory.read_ports  # further read ports are the proof's own
            model.claim(BOTH, ~(write.en & read.en))


PROOFS = [
    Proof(
        "KV cache: no memory is read and written in one cycle",
        hdl.attention.kv_cache,
        KvCacheModel,
        keep_apart,
        SHAPES,
        "prove",
        2,
        [
            Bug("a layer begins while words are read", "~self.request.valid & idle)", "~self.request.valid)", BOTH, "gathered", 30),
        ],
    ),
    Proof(
        "KV cache: no write outside the addressed slot and place",
        hdl.attention.kv_cache,
        KvCacheModel,
        stay_inside,
        SHAPES,
        "prove",
        2,
        [
            Bug(
                "the offset of the last head stays for v",
                "index.eq(0), offset.eq(0), value.eq(~value)",
                "index.eq(0), value.eq(~value)",
                OUTSIDE,
                "gathered",
                20,
            ),
            Bug(
                "the word of a head is not set back",
                "m.d.sync += [sub.eq(0), bank.eq(bank + 1)]",
                "m.d.sync += bank.eq(bank + 1)",
                OUTSIDE,
                "straight",
                20,
            ),
            Bug(
                "slots are a word too close",
                "located = _times(row, self.indices * self.slot_words)",
                "located = _times(row, self.indices * self.slot_words - 1)",
                OUTSIDE,
                "cut",
                20,
            ),
        ],
    ),
    Proof(
        "KV cache: every word is the one that was last appended there",
        hdl.attention.kv_cache,
        KvCacheModel,
        keep_values,
        SHAPES,
        "prove",
        2,
        [
            Bug("the place is forgotten", "origin.eq(located + first)", "origin.eq(located)", CHANGED, "straight", 40),
            Bug(
                "beats in the wrong order",
                "word.mant.eq(Cat(early, beat.mant))",
                "word.mant.eq(Cat(beat.mant, early))",
                CHANGED,
                "gathered",
                20,
            ),
            Bug("idle cycles are written, too", "whole.eq(self.write.valid)]", "whole.eq(1)]", CHANGED, "straight", 20),
            Bug(
                "all banks are written",
                "to.eq(whole & (value == v) & (bank == u))",
                "to.eq(whole & (value == v))",
                CHANGED,
                "straight",
                40,
            ),
        ],
    ),
]
