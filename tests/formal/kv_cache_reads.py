"""A request brings the words that were appended, in order, and all of them."""

from amaranth.hdl import Signal, Value
from harness import Bug, Proof, implies
from kv_cache_model import SHAPES, KvCacheModel

import hdl.attention.kv_cache

UNASKED = "a word that no request asked for"
VALUE = "a word other than the one that was appended"
LAST = "last is not on the last word, or on another"
UNWRITTEN = "a request is accepted before its layer is complete"
UNREAD = "the next layer begins before all was read"
MANY = "more than three requests are under way"


def bring_what_was_appended(model: KvCacheModel):
    w = model.watched
    sequence, layer, *_ = model.here
    head_is_read = (sequence == w["sequence"]) & (layer == w["layer"])
    for v, r in enumerate(model.readers):
        o = r.stream
        model.claim(UNASKED, implies(o.valid, r.waiting != 0))
        model.claim(LAST, implies(o.valid, o.payload.last == (r.position == model.words - 1)))
        model.claim(MANY, r.waiting <= len(model.recent))
        watched = (
            head_is_read
            & (w["value"] == v)
            & (w["head"] // model.banks == r.index)
            & (r.position == w["place"] * model.head_words + w["word"])
        )
        for u, word in enumerate(o.payload.bank):
            model.claim(VALUE, implies(o.valid & watched & (w["head"] % model.banks == u), Value.cast(word) == model.held))
        model.claim(UNREAD, implies(model.moved & model.first, r.waiting == 0))
    model.claim(UNWRITTEN, implies(model.accepted, model.present & model.first))


def happen(model: KvCacheModel):
    """The assumptions leave room for the cases that the proofs are about."""
    w, v, o = model.watched, model.v, model.dut.v
    model.cover("three requests are under way", v.waiting == 3)
    others = Signal()  # a layer was complete after the watched word had been written
    with model.m.If(model.ending & (model.there[0] != w["sequence"])):
        model.m.d.sync += others.eq(model.held != 0)
    model.cover(
        "a word is read after another slot was written",
        others
        & o.valid
        & ~o.payload.last
        & (w["value"] == 1)
        & (model.here[0] == w["sequence"])
        & (model.here[1] == w["layer"])
        & (w["place"] == 0)
        & (v.position == w["word"]),
    )


PROOFS = [
    Proof(
        "KV cache: the cases that the proofs are about can happen",
        hdl.attention.kv_cache,
        KvCacheModel,
        happen,
        {"gathered": SHAPES["gathered"]},
        "cover",
        45,
    ),
    Proof(
        "KV cache: a request brings the words that were appended, in order, all of them",
        hdl.attention.kv_cache,
        KvCacheModel,
        bring_what_was_appended,
        SHAPES,
        "prove",
        2,
        [
            Bug("last a word early", "final.eq(addr == until)", "final.eq(addr + 1 == until)", LAST, "gathered", 30),
            Bug(
                "the end is a word further",
                "end.eq(final + slot + self.head_words - 1)",
                "end.eq(final + slot + self.head_words)",
                LAST,
                "gathered",
                30,
            ),
            Bug(
                "the end of the whole slot is one place short",
                "Mux(whole, self.slot_words - self.head_words, first)",
                "Mux(whole, self.slot_words - 2 * self.head_words, first)",
                LAST,
                "gathered",
                30,
            ),
            Bug(
                "a layer begins while words are read", "~self.request.valid & idle)", "~self.request.valid)", UNREAD, "gathered", 30
            ),
            Bug(
                "a layer begins while the last word waits",
                "idle = ~(pending | busy | Cat(self.k.valid, self.v.valid)).any()",
                "idle = ~(pending | busy).any()",
                UNREAD,
                "gathered",
                30,
            ),
            Bug(
                "a request overtakes one that only k has taken",
                "request.ready.eq(~pending.any())",
                "request.ready.eq(~pending.all())",
                MANY,
                "gathered",
                30,
            ),
            Bug(
                "the index is read at the stride of a place",
                "slot = _times(self.request.payload, self.slot_words)",
                "slot = _times(self.request.payload, self.head_words)",
                VALUE,
                "gathered",
                30,
            ),
            Bug(
                "a word is read twice after a stall",
                "m.d.sync += [addr.eq(addr + 1), o.payload.last.eq(final)]",
                "m.d.sync += [addr.eq(addr + o.ready), o.payload.last.eq(final)]",
                VALUE,
                "cut",
                30,
            ),
        ],
    ),
]
