"""An adapter is used only if its load image was complete and right, and is not written while it is used."""

from amaranth.hdl import Array, Cat, Signal, Value
from harness import Bug, Proof, implies
from lora_loader_model import SHAPES, LoraLoaderModel

import hdl.lora.loader

READY = "an adapter is ready without a complete and right image, or is not ready with one"
FED = "the checksum is not that of the words that moved"
STEPS = "the steps of an adapter that is ready are not those of its image"
NONE = "number 0, no adapter, is not ready or has steps"
WHERE = "a write to another address than the next word's, or no write where one is due"
WHAT = "a write of another word than the image's"
IN_USE = "the adapter in use is written"
WRITTEN_READY = "an adapter that is ready is written"
REPLY = "an image without its reply, or a reply without an image"
SAYS = "a reply with a wrong number or status"
LOST = "a reply is due while another one waits"
BREAKS = "an image begins before the incomplete one has its reply"
MOVES = "a reply that changes or is withdrawn before it has moved"
WAITS = "a word waits without a reason"


def ready_only_if_right(model: LoraLoaderModel):
    dut = model.dut
    ready = Array(dut.ready)[model.adapter]
    first, moved = dut.i.payload.first, model.moved
    model.claim(
        FED,
        (model.crc.valid == moved) & (model.crc.start == (moved & first)) & implies(moved, model.crc.data == dut.i.payload.data),
    )
    model.claim(READY, ready == model.usable)
    model.claim(STEPS, implies(ready, Array(dut.steps)[model.adapter] == model.its_steps))
    model.claim(NONE, dut.ready[0] & (dut.steps[0] == 0))


def _write(model):
    """(whether a write is due in this cycle, its address, its lane)."""
    address = (model.number - 1) * model.words + model.word // model.lora_lanes
    return [model.before(Value.cast(v)) for v in (model.stored, address, model.word % model.lora_lanes)]


def write_the_image(model: LoraLoaderModel):
    write = model.dut.write
    due, address, lane = _write(model)
    model.claim(WHERE, (write.en == due) & implies(due, (write.addr == address) & (write.lane == lane)))
    model.claim(WHAT, implies(due, write.data == Cat(model.held)[: model.word_bits]))


def spare_what_is_used(model: LoraLoaderModel):
    write = model.dut.write
    for adapter in range(1, model.n_adapters + 1):
        within = write.en & (write.addr >= (adapter - 1) * model.words) & (write.addr < adapter * model.words)
        model.claim(IN_USE, implies(within, model.dut.in_use != adapter))
        model.claim(WRITTEN_READY, implies(within, ~model.dut.ready[adapter]))
    if model.invariants:
        due, address, _ = _write(model)
        model.invariant(
            "write",
            (write.en == due)
            & implies(
                due,
                (write.addr == address)
                & (model.taken >= 3)
                & (address >= (model.number - 1) * model.words)
                & (address < model.number * model.words)
                & (model.before(model.dut.in_use) != model.number),
            ),
        )


def answer(model: LoraLoaderModel):
    m, dut = model.m, model.dut
    owed, says = Signal(), Signal.like(model.answers)
    with m.If(model.answer):
        m.d.sync += [owed.eq(1), says.eq(model.answers)]
    with m.Elif(dut.o.ready):
        m.d.sync += owed.eq(0)
    model.claim(REPLY, dut.o.valid == owed)
    model.claim(SAYS, implies(dut.o.valid, Value.cast(dut.o.payload) == Value.cast(says)))
    model.claim(LOST, implies(model.answer, ~owed | dut.o.ready))
    model.claim(BREAKS, implies(model.moved & dut.i.payload.first, model.taken == 0))
    model.claim(MOVES, model.stays(dut.o))


def go_on(model: LoraLoaderModel):
    dut, first = model.dut, model.dut.i.payload.first
    model.claim(
        WAITS,
        implies(
            dut.i.valid & ~dut.i.ready,
            (dut.o.valid & ~dut.o.ready) | (first & (model.taken != 0)) | (~first & model.in_memory & (dut.in_use == model.number)),
        ),
    )


def happen(model: LoraLoaderModel):
    """The assumptions leave room for the cases that the proofs are about."""
    dut = model.dut
    model.cover("an adapter is loaded while another one is in use", model.right & (dut.in_use != 0))
    model.cover(
        "an adapter is loaded again after it was used",
        model.usable & model.stored & (model.number != model.adapter) & (dut.in_use == model.adapter),
    )
    for status in model.status:
        model.cover(f"a reply says {status.name}", dut.o.valid & (dut.o.payload.status == status))


def _proof(title, claims, *bugs):
    return Proof(f"LoRA loader: {title}", hdl.lora.loader, LoraLoaderModel, claims, SHAPES, "prove", 2, bugs)


PROOFS = [
    Proof(
        "LoRA loader: the cases that the proofs are about can happen",
        hdl.lora.loader,
        LoraLoaderModel,
        happen,
        {"one part": SHAPES["one part"]},
        "cover",
        30,
    ),
    _proof(
        "ready only after the complete image in order, with the right checksum",
        ready_only_if_right,
        Bug("the checksum does not matter", "with m.If(word == crc.crc):", "with m.If(1):", READY, "one part", 20),
        Bug(
            "the image is an address short", "with m.If(address_left == 0):", "with m.If(address_left == 1):", READY, "one part", 20
        ),
        Bug("the layout does not matter", "with m.If(word != self.layout):", "with m.If(0):", READY, "one part", 20),
        Bug(
            "ready while it is loaded again",
            "Array(self.ready)[new_number].eq(0)",
            "Array(self.ready)[0].eq(1)",
            READY,
            "one part",
            20,
        ),
        Bug("the checksum goes on from the image before", "crc.start.eq(moves & first)", "crc.start.eq(0)", FED, "one part", 20),
        Bug(
            "the steps are those of the last word of the image",
            "Array(self.steps)[number].eq(steps)",
            "Array(self.steps)[number].eq(new_steps)",
            STEPS,
            "one part",
            20,
        ),
    ),
    _proof(
        "memory gets the image, word for word",
        write_the_image,
        Bug("an adapter too far", "max(0, n - 1) * self.words", "n * self.words", WHERE, "two parts", 20),
        Bug(
            "the lane stays after an incomplete image",
            "m.d.sync += [lane.eq(0), part.eq(0),",
            "m.d.sync += [part.eq(0),",
            WHERE,
            "two parts",
            20,
        ),
        Bug("the address moves on with every lane", "with m.If(lane_ends):", "with m.If(1):", WHERE, "two parts", 20),
        Bug(
            "the parts in the wrong order",
            "held.eq(Cat(held, word)[IMAGE_BITS:])",
            "held.eq(Cat(word, held))",
            WHAT,
            "two parts",
            20,
        ),
    ),
    _proof(
        "no word of the adapter in use is written, nor of one that is ready",
        spare_what_is_used,
        Bug("nobody asks for the adapter in use", " & (self.in_use != number))", ")", IN_USE, "one part", 20),
        Bug(
            "ready only falls with the layout",
            "Array(self.ready)[new_number].eq(0)",
            "Array(self.ready)[0].eq(1)",
            WRITTEN_READY,
            "one part",
            20,
        ),
    ),
    _proof(
        "every image gets its reply",
        answer,
        Bug(
            "words move while a reply waits",
            "m.d.comb += self.i.ready.eq(advance)",
            "m.d.comb += self.i.ready.eq(1)",
            LOST,
            "one part",
            20,
        ),
        Bug(
            "INCOMPLETE again and again",
            """                reply(LoadStatus.INCOMPLETE, number)
                m.next = "BETWEEN"
""",
            """                reply(LoadStatus.INCOMPLETE, number)
""",
            REPLY,
            "one part",
            20,
        ),
        Bug("a wrong checksum brings no reply", "reply(LoadStatus.BAD_CHECKSUM, number)", "pass", REPLY, "one part", 20),
        Bug(
            "the number of the image before",
            "reply(LoadStatus.NO_ADAPTER, new_number)",
            "reply(LoadStatus.NO_ADAPTER, number)",
            SAYS,
            "one part",
            20,
        ),
        Bug(
            "word 0 goes the way of a word of memory",
            "advance & ~first & (self.in_use != number)",
            "advance & (self.in_use != number)",
            BREAKS,
            "one part",
            20,
        ),
        Bug("a reply is offered for one cycle", "        with m.If(advance):", "        with m.If(1):", MOVES, "one part", 20),
    ),
    _proof(
        "a word waits only for a reply, for the incomplete image before it, or for the adapter in use",
        go_on,
        Bug("any adapter in use stops the loader", "(self.in_use != number)", "(self.in_use == 0)", WAITS, "one part", 20),
    ),
]
