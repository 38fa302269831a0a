# amaranth: UnusedElaboratable=no
"""The loader of adapters with a model of its load images so far (docs/arithmetic.md, section 6)."""

from amaranth.hdl import Array, Cat, Fragment, Signal
from harness import Harness, implies, registers

NAMES = ("n_adapters", "words", "lora_lanes", "word_bits", "layout")

SHAPES = {
    "two parts": (2, 2, 2, 40, 0x5A17),  # two addresses of two lanes, two words of the image each
    "one part": (3, 3, 1, 24, 0xC0FFEE42),  # three addresses of one lane
    "many": (5, 6, 4, 272, 7),  # nine words of the image for each lane
}


class LoraLoaderModel(Harness):
    """The loader ``dut`` and its model.  Inputs are free, but for the rules in the loader's docstring.

    taken               words of the image under way that have moved; 0 between images
    number, steps       the fields of its word 0
    crc                 the unit's checksum generator; the model assumes that its result is right for the words it gets
    new, right, wrong   in this cycle word 0 of an image for an adapter that exists moves; the last word moves and is, or is
                        not, the checksum
    answer              this cycle decides the reply to an image; ``answers``: its number and status
    stored              this cycle completes a word of memory
    adapter             the number of an adapter, any one; ``usable``: its last image was complete and right;
                        ``its_steps``: the steps of that image
    """

    def __init__(self, module, shape, invariants):
        super().__init__(invariants)
        self.n_adapters, self.words, self.lora_lanes, self.word_bits, self.layout = shape
        self.dut = dut = module.LoraLoader(**dict(zip(NAMES, shape, strict=True)))
        self.status = module.LoadStatus
        self.parts = -(-self.word_bits // 32)
        self.end = 2 + self.words * self.lora_lanes * self.parts  # number of the image's word that is the checksum
        self.free(dut.i.valid, dut.i.payload, dut.o.ready, dut.in_use)
        unit = dut.elaborate(None)
        self.crc = unit.submodules["crc"]
        self.m.submodules.dut = self.fragment = Fragment.get(unit, None)
        self._images()
        self._memory()
        self._adapter()
        self._assume()
        if self.invariants:
            self._invariants()

    def _images(self):
        m, dut, status = self.m, self.dut, self.status
        word, first = dut.i.payload.data, dut.i.payload.first
        self.moved = moved = dut.i.valid & dut.i.ready
        self.taken = Signal(range(self.end + 1))
        self.number, self.steps = Signal(8), Signal(4)
        exists = (word[:8] != 0) & (word[:8] <= self.n_adapters)
        opens, goes_on = moved & first, moved & ~first & (self.taken != 0)
        self.new = opens & exists
        ends = goes_on & (self.taken == self.end)
        self.right, self.wrong = ends & (word == self.crc.crc), ends & (word != self.crc.crc)
        misfit = goes_on & (self.taken == 1) & (word != self.layout)
        broken = dut.i.valid & first & (self.taken != 0) & (~dut.o.valid | dut.o.ready)
        with m.If(opens):
            m.d.sync += [self.number.eq(word[:8]), self.steps.eq(word[8:12]), self.taken.eq(exists)]
        with m.Elif(ends | misfit | broken):
            m.d.sync += self.taken.eq(0)
        with m.Elif(goes_on):
            m.d.sync += self.taken.eq(self.taken + 1)

        self.answer, self.answers = Signal(), Signal.like(dut.o.payload)
        m.d.comb += [self.answer.eq(ends | misfit | broken | (opens & ~exists)), self.answers.adapter.eq(self.number)]
        with m.If(opens & ~exists):
            m.d.comb += [self.answers.adapter.eq(word[:8]), self.answers.status.eq(status.NO_ADAPTER)]
        with m.Elif(misfit):
            m.d.comb += self.answers.status.eq(status.BAD_LAYOUT)
        with m.Elif(broken):
            m.d.comb += self.answers.status.eq(status.INCOMPLETE)
        with m.Elif(self.wrong):
            m.d.comb += self.answers.status.eq(status.BAD_CHECKSUM)

    def _memory(self):
        m = self.m
        self.in_memory = (self.taken >= 2) & (self.taken < self.end)
        place = self.taken - 2
        self.word, self.part = place // self.parts, place % self.parts
        moves = self.moved & ~self.dut.i.payload.first & self.in_memory
        self.held = [Signal(32, name=f"held_{k}") for k in range(self.parts)]
        for k, held in enumerate(self.held):
            with m.If(moves & (self.part == k)):
                m.d.sync += held.eq(self.dut.i.payload.data)
        self.stored = moves & (self.part == self.parts - 1)

    def _adapter(self):
        m = self.m
        self.adapter = self.arbitrary(self.n_adapters, "adapter_below") + 1
        self.usable, self.its_steps = Signal(), Signal(4)
        with m.If(self.new & (self.dut.i.payload.data[:8] == self.adapter)):
            m.d.sync += self.usable.eq(0)
        with m.Elif(self.right & (self.number == self.adapter)):
            m.d.sync += [self.usable.eq(1), self.its_steps.eq(self.steps)]

    def _assume(self):
        dut = self.dut
        self.assume(self.stays(dut.i))
        # A token begins to use an adapter at most two cycles after it saw that adapter ready.
        self.ready_before = self.before(dut.ready)
        self.ready_earlier = self.before(self.ready_before)
        seen = Array(dut.ready | self.ready_before | self.ready_earlier)
        self.assume(dut.in_use <= self.n_adapters)
        self.assume(implies(dut.in_use != self.before(dut.in_use), seen[dut.in_use]))

    def _invariants(self):
        dut, invariant = self.dut, self.invariant
        reg = registers(self.fragment)
        encoding = self.fragment.generated["fsm"].encoding
        between, layout, memory, checksum = (reg["fsm_state"] == encoding[s] for s in ("BETWEEN", "LAYOUT", "MEMORY", "CHECKSUM"))
        invariant(
            "state",
            Cat(
                between == (self.taken == 0),
                layout == (self.taken == 1),
                memory == self.in_memory,
                checksum == (self.taken == self.end),
            ).all()
            & (self.taken <= self.end),
        )
        under_way = self.taken != 0
        invariant(
            "image",
            implies(
                under_way,
                (reg["number"] == self.number)
                & (reg["steps"] == self.steps)
                & (self.number != 0)
                & (self.number <= self.n_adapters),
            ),
        )
        part = reg["part"]
        lane, address, left = (reg[name] for name in ("lane", "address", "address_left"))
        start = (self.number - 1) * self.words
        invariant("first address", implies(layout, address == start))
        invariant(
            "address",
            implies(
                memory,
                (part < self.parts)
                & (lane < self.lora_lanes)
                & (left < self.words)
                & ((address + left) == start + self.words - 1)
                & (self.taken - 2 == ((self.words - 1 - left) * self.lora_lanes + lane) * self.parts + part),
            ),
        )
        invariant(
            "held",
            Cat(
                implies(memory & (part == filled), reg["held"][-32 * filled :] == Cat(self.held[:filled]))
                for filled in range(1, self.parts)
            ).all(),
        )
        for k, (ready, age) in enumerate(((dut.ready, 1), (self.ready_before, 2), (self.ready_earlier, 3))):
            invariant(f"not ready, {k} cycles ago", implies(self.taken >= age, ~Array(ready)[self.number]))
