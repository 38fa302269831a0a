"""Loading adapters while the chip runs: load images in, writes to adapter memory out (docs/arithmetic.md, section 6).

A load image is a sequence of 32-bit words that holds one adapter: word 0 with its number, the layout, the words of adapter
memory in parts of 32 bits, and a checksum.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from hdl.interface import LOAD_REPLY, LOAD_WORD, LoadStatus
from hdl.lib.streams import struct
from hdl.lora.adder import AdapterWrite

IMAGE_BITS = 32
"""Bits of a word of a load image."""

NUMBER_BITS = 8
"""Bits of an adapter's number in word 0; the bits above it are the mask of its steps."""

STEPS = 4
"""Steps of a layer: QKV, O, GATE_UP, DOWN."""


class LoraLoader(wiring.Component):
    """Writes load images to adapter memory, and keeps which adapters may be used.

    An adapter stops being ready with word 0 of a load image for it.  It is ready again when the image is complete and its
    checksum is right.  An image with another layout, or for an adapter that does not exist, writes nothing; the loader drops
    the rest of it, and every word that stands between images.  When word 0 of a new image comes before the image under way
    is complete, the loader first replies INCOMPLETE for that one.

    Latency: ``latency`` = 1 cycle from the word that decides a reply to the reply, and to the change of ``ready``; also from
    the last part of a word of adapter memory to its write.  Rate: a word a cycle, but for these waits: every word waits while
    a reply is not taken; words of adapter memory wait while their adapter is in use; word 0 waits for the reply INCOMPLETE.

    Parameters
    ----------
    n_adapters : adapters that the memory holds, 1 .. 255
    words : addresses of an adapter
    lora_lanes : memories side by side, each with a word at every address
    word_bits : bits of a word of adapter memory; a load image has ceil(word_bits / 32) words for it
    layout : word 1 that an image must have; it names the shapes, the rank and the lanes

    Members
    -------
    i : In(stream LOAD_WORD)           words of load images
    o : Out(stream LOAD_REPLY)         one a load image, in order
    write : Out(AdapterWrite)          to ``Lora``
    ready : Out(n_adapters + 1)        bit a: a token may use adapter a; bit 0, no adapter, is always set
    steps : Out(4).array               of each adapter that is ready, the steps to be computed; none for number 0
    in_use : In                        adapter of the token under way, 0 for none; at the latest two cycles after ``ready``
                                       was seen for that adapter

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    def __init__(self, *, n_adapters: int, words: int, lora_lanes: int, word_bits: int, layout: int) -> None:
        for name, value, most in (
            ("n_adapters", n_adapters, (1 << NUMBER_BITS) - 1),
            ("words", words, None),
            ("lora_lanes", lora_lanes, None),
            ("word_bits", word_bits, None),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
            if most is not None and value > most:
                raise ValueError(f"{name} must be at most {most}, not {value}")
        if not isinstance(layout, int) or not 0 <= layout < 1 << IMAGE_BITS:
            raise ValueError(f"layout must be an unsigned integer of {IMAGE_BITS} bits, not {layout!r}")
        self.n_adapters, self.words, self.lora_lanes = n_adapters, words, lora_lanes
        self.word_bits, self.layout = word_bits, layout
        self.latency = 1
        super().__init__(
            {
                "i": In(stream.Signature(struct(LOAD_WORD))),
                "o": Out(stream.Signature(struct(LOAD_REPLY))),
                "write": Out(AdapterWrite(n_adapters=n_adapters, words=words, lora_lanes=lora_lanes, word_bits=word_bits)),
                "ready": Out(n_adapters + 1, init=1),
                "steps": Out(STEPS).array(n_adapters + 1),
                "in_use": In(range(n_adapters + 1)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=IMAGE_BITS).create()
        word, first = self.i.payload.data, self.i.payload.first

        # No word moves while a reply waits, because each word may decide another reply.
        advance, moves = Signal(), Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            moves.eq(self.i.valid & self.i.ready),
            crc.data.eq(word),
            crc.start.eq(moves & first),
            crc.valid.eq(moves),
        ]
        with m.If(advance):
            m.d.sync += self.o.valid.eq(0)

        def reply(status: LoadStatus, adapter):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.status.eq(status), self.o.payload.adapter.eq(adapter)]

        def ends_early():
            """The next image's word 0 is offered: reply INCOMPLETE for this image, and let that word wait meanwhile."""
            with m.If(self.i.valid & first & advance):
                reply(LoadStatus.INCOMPLETE, number)
                m.next = "BETWEEN"

        number = Signal(range(self.n_adapters + 1))
        steps = Signal(STEPS)
        new_number, new_steps = word[:NUMBER_BITS], word[NUMBER_BITS : NUMBER_BITS + STEPS]
        address = Signal.like(self.write.addr)
        lane = Signal.like(self.write.lane)
        address_left = Signal(range(self.words))
        parts = -(-self.word_bits // IMAGE_BITS)
        part = Signal(range(max(2, parts)))  # of a word of adapter memory
        part_ends, lane_ends = part == parts - 1, lane == self.lora_lanes - 1
        held = Signal(IMAGE_BITS * parts, reset_less=True)  # the last ``parts`` words of the image
        m.d.comb += self.write.data.eq(held)
        m.d.sync += [self.write.en.eq(0), self.write.addr.eq(address), self.write.lane.eq(lane)]

        with m.FSM():
            with m.State("BETWEEN"):
                m.d.comb += self.i.ready.eq(advance)
                with m.If(moves & first):
                    with m.If((new_number == 0) | (new_number > self.n_adapters)):
                        reply(LoadStatus.NO_ADAPTER, new_number)
                    with m.Else():
                        start = Array(Const(max(0, n - 1) * self.words, len(address)) for n in range(self.n_adapters + 1))
                        m.d.sync += [
                            number.eq(new_number),
                            steps.eq(new_steps),
                            address.eq(start[new_number]),
                            Array(self.ready)[new_number].eq(0),
                        ]
                        m.next = "LAYOUT"
            with m.State("LAYOUT"):
                ends_early()
                m.d.comb += self.i.ready.eq(advance & ~first)
                with m.If(moves):
                    m.d.sync += [lane.eq(0), part.eq(0), address_left.eq(self.words - 1)]
                    m.next = "MEMORY"
                    with m.If(word != self.layout):
                        reply(LoadStatus.BAD_LAYOUT, number)
                        m.next = "BETWEEN"
            with m.State("MEMORY"):
                ends_early()
                m.d.comb += self.i.ready.eq(advance & ~first & (self.in_use != number))
                with m.If(moves):
                    m.d.sync += [
                        held.eq(Cat(held, word)[IMAGE_BITS:]),
                        self.write.en.eq(part_ends),
                        part.eq(Mux(part_ends, 0, part + 1)),
                    ]
                    with m.If(part_ends):
                        m.d.sync += lane.eq(Mux(lane_ends, 0, lane + 1))
                        with m.If(lane_ends):
                            m.d.sync += [address.eq(address + 1), address_left.eq(address_left - 1)]
                            with m.If(address_left == 0):
                                m.next = "CHECKSUM"
            with m.State("CHECKSUM"):
                ends_early()
                m.d.comb += self.i.ready.eq(advance & ~first)
                with m.If(moves):
                    m.next = "BETWEEN"
                    with m.If(word == crc.crc):
                        reply(LoadStatus.OK, number)
                        m.d.sync += [Array(self.ready)[number].eq(1), Array(self.steps)[number].eq(steps)]
                    with m.Else():
                        reply(LoadStatus.BAD_CHECKSUM, number)
        return m
