"""The KV cache finishes every request and layer that it has accepted, within a known number of cycles."""

from amaranth.hdl import Cat, Mux, Signal
from harness import Bug, Proof, implies, registers
from kv_cache_model import SHAPES, KvCacheModel

import hdl.attention.kv_cache

GAP = "a gap before or between the words of a request and those before it"
LATE = "a request takes longer than its words and those before them, and two cycles"
REFUSED = "a request waits longer than another one takes"
SHUT = "the first beat of a layer waits longer than it should"
SLOW = "a beat waits longer than its words take"

PATIENCE = 3
"""Cycles within which the assumed consumer takes a word."""


def _cycles(model, condition, most):
    """The number of consecutive cycles, up to the last one, in which ``condition`` held; at most ``most`` + 1."""
    count = Signal(range(most + 2))
    model.m.d.sync += count.eq(Mux(condition, count + (count <= most), 0))
    return count


def _follow(model, reader, oldest):
    """Follow a request, any one, from its acceptance until its last word has moved.

    left        words that have yet to move: its own, and those of earlier requests; 0 when no request is followed
    total       the first value of ``left``
    age         cycles since the acceptance, at most ``oldest``
    """
    m, name = model.m, reader.name
    chosen = Signal(name=f"{name}_chosen")
    model.free(chosen)
    left, total = (Signal(range(3 * model.slot_words + 1), name=f"{name}_{s}") for s in ("left", "total"))
    age = Signal(range(oldest + 1), name=f"{name}_age")
    m.d.sync += [left.eq(left - (reader.moved & (left != 0))), age.eq(age + (age != oldest))]
    with m.If(model.accepted & chosen & (left == 0)):
        owed = (reader.waiting + 1) * model.words - reader.position - reader.moved
        m.d.sync += [left.eq(owed), total.eq(owed), age.eq(1)]
    ends = [(reader.waiting - later) * model.words - reader.position for later in range(3)]
    model.invariant(f"{name}: left", implies(left != 0, Cat(left == end for end in ends).any() & (age != 0)))
    model.invariant(f"{name}: total", total <= 3 * model.slot_words)
    return left, total, age


def leave_no_gap(model: KvCacheModel):
    for n, r in enumerate(model.readers):
        left, _, age = _follow(model, r, 3)
        valid = r.stream.valid
        model.claim(GAP, implies((left != 0) & (age == 3), valid))
        if model.invariants:
            pending, busy = (registers(model.fragment)[name][n] for name in ("pending", "busy"))
            starts = pending & ~busy & ~(valid & (left == 1))
            model.invariant(f"{r.name}: gap", implies(left != 0, (valid | busy | pending) & implies(starts, age == 1)))


def finish(model: KvCacheModel):
    request, write = model.dut.request, model.dut.write
    parts = max(1, model.vector_lanes // model.lanes)
    if model.invariants:
        reg = registers(model.fragment)
        encoding = model.fragment.generated["layer"].encoding
        locates, writes = (reg["layer_state"] == encoding[state] for state in ("LOCATE", "WRITE"))
        part = reg["part"] if parts > 1 else 0

    # Bounds for the beats of ``write``.
    nothing_to_read = (model.k.waiting == 0) & (model.v.waiting == 0) & ~request.valid
    shut = _cycles(model, write.valid & ~write.ready & model.first & nothing_to_read, parts + 1)
    model.claim(SHUT, shut <= parts + 1)
    slow = _cycles(model, write.valid & ~write.ready & ~model.first, parts - 1)
    model.claim(SLOW, slow <= parts - 1)
    if model.invariants:
        model.invariant("shut", shut <= Mux(locates, 1, Mux(writes, 2 + part, 0)))
        model.invariant("slow", slow <= part)

    # Bounds for a request that waits to be accepted while no layer is being written.
    most = max(PATIENCE * model.slot_words + 1, parts + 1)
    refused = _cycles(model, request.valid & ~request.ready & model.present & model.first, most)
    model.claim(REFUSED, refused <= most)
    if model.invariants:
        model.invariant(
            "refused",
            implies(refused != 0, request.valid)
            & implies(locates | writes, refused <= Mux(locates, 0, Mux(model.first, 1 + part, parts + 1))),
        )

    for n, r in enumerate(model.readers):
        valid = r.stream.valid
        waits = _cycles(model, valid & ~r.stream.ready, PATIENCE)
        model.assume(implies(valid & (waits == PATIENCE - 1), r.stream.ready))
        left, total, age = _follow(model, r, 3 * PATIENCE * model.slot_words + 3)
        model.claim(LATE, implies(left != 0, age <= PATIENCE * total + 2))
        if model.invariants:
            # In every cycle a word moves, or a word waits, or the pipeline fills.
            pending, busy = reg["pending"][n], reg["busy"][n]
            fills = Mux(valid, pending & ~busy & (left > 1), 1 + (pending & ~busy))
            model.invariant(f"{r.name}: waits", (waits < PATIENCE) & implies(~valid, waits == 0))
            model.invariant(f"{r.name}: age", implies(left != 0, age + PATIENCE * left + fills <= PATIENCE * total + 3 + waits))
            unread = model.words - Mux(valid & ~r.stream.payload.last, r.position + 1, 0)
            model.invariant(
                f"{r.name}: refused", implies(pending, refused + Mux(busy, PATIENCE * unread + ~valid, 1) <= most + waits)
            )


PROOFS = [
    Proof(
        "KV cache: from three cycles after a request on, words follow without a gap",
        hdl.attention.kv_cache,
        KvCacheModel,
        leave_no_gap,
        SHAPES,
        "prove",
        2,
        [
            Bug("a cycle between two requests", "pending & (~busy | (advance & final))", "pending & ~busy", GAP, "gathered", 30),
        ],
    ),
    Proof(
        "KV cache: requests and layers are finished in time by consumers that take a word within three cycles",
        hdl.attention.kv_cache,
        KvCacheModel,
        finish,
        SHAPES,
        "prove",
        2,
        [
            Bug("valid waits for ready", "advance.eq(~o.valid | o.ready)", "advance.eq(o.ready)", LATE, "gathered", 30),
            Bug(
                "requests wait for writes, and those for requests",
                "request.ready.eq(~pending.any())",
                "request.ready.eq(~pending.any() & ~self.write.valid)",
                REFUSED,
                "gathered",
                40,
            ),
            Bug(
                "a layer waits until k has a consumer",
                "idle = ~(pending |",
                "idle = self.k.ready & ~(pending |",
                SHUT,
                "gathered",
                20,
            ),
            Bug(
                "a beat waits for bank 0",
                "self.write.ready.eq(final)]",
                "self.write.ready.eq(final & (bank == 0))]",
                SLOW,
                "cut",
                20,
            ),
        ],
    ),
]
