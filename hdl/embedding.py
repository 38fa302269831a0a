"""The embedding: a row of the table in the weight ROM, dequantised to Wide."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hdl.lib.bits import rshr
from hdl.lib.rom import RomPort, RowRom
from hdl.lib.streams import vector_beat
from weights_to_rom.model_format import BLOCK
from weights_to_rom.rom_map import ROW_WORD, weight_word

SHIFT_BITS = 6
LSB_BITS = 12
VALUE_BITS = 16
"""-255 * 128 <= v < 255 * 128 for every d, m, q and k (up to 7): 16 bits signed."""


def rounded(shifted):
    """shifted / 2**16, half up."""
    return rshr(shifted, VALUE_BITS)


class Dequantise(wiring.Component):
    """y = sat(rshr(v, 16 - places), wide_bits), where v = d * code - minimum, or d * (16 * code + next code).

    Latency: ``latency`` = 4 cycles from ``code`` to ``y``: a multiplication, an addition, a shift and a rounding.  Rate: a code a
    cycle.  ``places`` and ``beyond`` belong to a row and may not change while its codes are inside.

    Parameters
    ----------
    wide_bits : bits of the result, 24 or 32

    Members
    -------
    code : In(signed(5))     0..15, or -8..7 in a high plane
    d : In(8)                in the cycle of ``code``
    high, low : In(1)        a cycle after ``code``: it is of the high plane, or of the low plane, of two
    minimum : In(15)         a cycle after ``code``: m << k; zero with two planes
    places : In(6)           0..wide_bits + 15
    beyond : In(15)          bit p: a value whose magnitude has bit p set saturates
    y : Out(signed(wide_bits))
    """

    latency = 4

    def __init__(self, *, wide_bits):
        self.wide_bits = wide_bits
        super().__init__(
            {
                "code": In(signed(5)),
                "d": In(8),
                "high": In(1),
                "low": In(1),
                "minimum": In(15),
                "places": In(6),
                "beyond": In(VALUE_BITS - 1),
                "y": Out(signed(wide_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        product = Signal(signed(13), reset_less=True)  # 15 * 255 < 2**12
        value = Signal(signed(VALUE_BITS))
        width = self.wide_bits + VALUE_BITS
        shifted, saturates, negative = Signal(signed(width)), Signal(), Signal()

        # Small steps first, so that the value is only as wide as its shift so far makes it.  Only a value that saturates loses
        # bits at the top of the register.
        level = value
        for k, place in enumerate(self.places):
            step = Signal(signed(min(len(level) + (1 << k), width)), name=f"by{1 << k}")
            m.d.comb += step.eq(Mux(place, level << (1 << k), level))
            level = step

        m.d.sync += [
            product.eq(self.code * self.d),
            value.eq(Mux(self.high, product << 4, product + Mux(self.low, value, -self.minimum))),
            shifted.eq(level),
            saturates.eq(((value[:-1] ^ value[-1].replicate(VALUE_BITS - 1)) & self.beyond).any()),
            negative.eq(value[-1]),
            self.y.eq(rounded(shifted)),
        ]
        with m.If(saturates):
            m.d.sync += self.y.eq(Cat((~negative).replicate(self.wide_bits - 1), negative).as_signed())
        return m


class Embedding(wiring.Component):
    """o = sat(rshr(v, -(e + residual_shift + 12)), wide_bits), v = d * (q - 128) or d * q - (m << k).

    Row t of the table is row t % row_lanes of group t // row_lanes.  One bit-serial division gives both, and the address of the
    group.  For each block d and m are read first, then the codes, ``vector_lanes`` codes of one plane a cycle.  Words are read
    more than once, so that no buffer is larger than a beat.  ``o`` has no ready: its consumer takes each beat of a token at
    once, so that the pipeline from the ROM to ``o`` never stalls.

    Latency: ``latency`` = t + s + p + 11 cycles from the token to the first beat, where t = bits_for(vocab_size - 1), p = bits / 4
    planes, and s is the number of words that hold d of a block (eight-bit tables) or d and m (four-bit tables).

    Rate: a beat every p cycles, and s cycles more between two blocks.  The last beat is valid ``cycles`` = t + 11 + n_blocks *
    (s + p * 32 / vector_lanes) cycles after the token moved.  The next token can move a cycle later.

    Parameters
    ----------
    row_lanes : rows of a group, any positive number
    block_lanes : codes of a ROM word of a lane: 4, 8, 16 or 32
    vector_lanes : elements of a beat, a power of two up to ``block_lanes``
    n_blocks : blocks of 32 elements of a row
    bits : bits of a code, 4 or 8
    wide_bits : bits of an element of ``o``, 24 or 32
    n_words, n_groups : words of the weight ROM and of the row ROM
    base, row_base : address of the table's first word in the weight ROM and in the row ROM
    vocab_size : tokens are 0 .. vocab_size - 1

    Members
    -------
    i : In(stream, token)
    residual_shift : In(signed(6))    may change only while no token is inside
    weights : Out(RomPort)            of a WeightRom: block_lanes codes, above them a slice of d | m << 8, for each lane
    rows : Out(RomPort)               of a RowRom: e (7 bits signed) | k << 7 for each lane
    active : Out(1)                   a token is inside: the ROM ports belong to this unit
    o : Out(stream, vector_beat)      n_blocks * 32 elements, LSB 2**-12; always ready

    Raises
    ------
    ValueError : an argument is not one of the values above, or the ROMs are too small for the table; the message names it
    """

    def __init__(
        self, *, row_lanes, block_lanes, vector_lanes, n_blocks, bits, wide_bits, n_words, n_groups, base, row_base, vocab_size
    ):
        if block_lanes not in (4, 8, 16, BLOCK):
            raise ValueError(f"block_lanes must be 4, 8, 16 or 32, not {block_lanes!r}")
        if vector_lanes < 1 or vector_lanes & (vector_lanes - 1) or vector_lanes > block_lanes:
            raise ValueError(f"vector_lanes must be a power of two up to block_lanes ({block_lanes}), not {vector_lanes!r}")
        if bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {bits!r}")
        self.row_lanes, self.block_lanes, self.vector_lanes = row_lanes, block_lanes, vector_lanes
        self.n_blocks, self.bits, self.wide_bits, self.vocab_size = n_blocks, bits, wide_bits, vocab_size
        self.base, self.row_base = base, row_base
        self.planes, self.subs = bits // 4, BLOCK // block_lanes
        self.word_chunks = block_lanes // vector_lanes
        self.row_words = n_blocks * self.planes * self.subs
        groups = -(-vocab_size // row_lanes)
        if base + groups * self.row_words > n_words:
            raise ValueError(f"n_words must be at least {base + groups * self.row_words}, not {n_words!r}")
        if row_base + groups > n_groups:
            raise ValueError(f"n_groups must be at least {row_base + groups}, not {n_groups!r}")
        # d, and m where there are minima, in slices of block_lanes / 2 bits.
        self.scale_words = -(-(16 if bits == 4 else 8) // (block_lanes // 2))
        begins = bits_for(vocab_size - 1) + 11
        self.latency = begins + self.scale_words + self.planes
        self.cycles = begins + n_blocks * (self.scale_words + self.planes * BLOCK // vector_lanes)
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout({"token": bits_for(vocab_size - 1)}))),
                "residual_shift": In(signed(SHIFT_BITS)),
                "weights": Out(RomPort(depth=n_words, width=weight_word(block_lanes).width, lanes=row_lanes)),
                "rows": Out(RomPort(depth=n_groups, width=ROW_WORD.width, lanes=row_lanes)),
                "active": Out(1),
                "o": Out(stream.Signature(vector_beat(vector_lanes, wide_bits), always_ready=True)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # ``reading`` says which data the current read brings; ``tags`` carry it along with the data.
        members = {"scales": 1, "codes": 1, "high": 1, "last": 1}
        if self.word_chunks > 1:
            members["within"] = range(self.word_chunks)
        tag_layout = data.StructLayout(members)
        reading = Signal(tag_layout)
        stages = "address", "rom", "lanes", "pairs", "word", "code", "product", "value", "shifted", "o"
        tags = [Signal(tag_layout, name=f"tag_{stage}") for stage in stages]
        m.d.comb += self.o.payload.last.eq(tags[-1].last)
        m.d.sync += [self.o.valid.eq(tags[-2].codes & ~tags[-2].high)]
        m.d.sync += [tag.eq(before) for tag, before in zip(tags, [reading, *tags], strict=False)]

        lane = self.read(m, reading)
        self.scale(m, lane, at_word=tags[4], at_product=tags[6])
        return m

    def read(self, m, reading):
        """Read the ROMs for a token; returns the number of the row lane that holds its row."""
        token = Signal.like(self.i.payload.token)
        lane = Signal(range(max(self.row_lanes, 2)))
        offset = Signal(range(-(-self.vocab_size // self.row_lanes) * self.row_words))
        step = Signal(range(len(token)))
        doubled, enough = Signal(len(lane) + 1), Signal()
        m.d.comb += [doubled.eq(Cat(token[-1], lane)), enough.eq(doubled >= self.row_lanes)]

        # Addresses are registers, because they go to ROMs all over the chip.  ``at`` is the address of the next read, ``address``
        # the first address of its block.
        address, at, next_block = (Signal.like(self.weights.addr, name=name) for name in ("address", "at", "next_block"))
        m.d.comb += [self.weights.addr.eq(at), self.weights.en.eq(self.active), next_block.eq(address + self.planes * self.subs)]
        m.d.sync += self.rows.en.eq(0)
        block, word = Signal(range(max(self.n_blocks, 2))), Signal(range(max(self.scale_words, 2)))
        chunk, plane = Signal(range(BLOCK // self.vector_lanes)), Signal()
        next_chunk = (chunk + 1)[: len(chunk)]
        last_chunk, last_plane, last_block = Signal(), Signal(), Signal()
        m.d.comb += [
            last_chunk.eq(chunk == BLOCK // self.vector_lanes - 1),
            last_plane.eq(plane == self.planes - 1),
            last_block.eq(block == self.n_blocks - 1),
        ]
        within_bits = self.word_chunks.bit_length() - 1

        with m.If(self.i.valid & self.i.ready):
            m.d.sync += self.active.eq(1)
        with m.Elif(self.o.valid & self.o.payload.last):
            m.d.sync += self.active.eq(0)
        with m.FSM(name="state"):
            with m.State("token"):
                m.d.comb += self.i.ready.eq(~self.active)
                with m.If(self.i.valid & self.i.ready):
                    m.d.sync += [token.eq(self.i.payload.token), lane.eq(0), offset.eq(0), step.eq(0)]
                    m.next = "divide"
            with m.State("divide"):
                # The division takes the token bit by bit from the top.  ``lane`` becomes the remainder, ``token`` the quotient and
                # ``offset`` the quotient times row_words.
                m.d.sync += [
                    lane.eq(Mux(enough, doubled - self.row_lanes, doubled)),
                    token.eq(Cat(enough, token)),
                    offset.eq((offset << 1) + Mux(enough, self.row_words, 0)),
                    step.eq(step + 1),
                ]
                with m.If(step == len(token) - 1):
                    m.next = "row"
            with m.State("row"):
                m.d.sync += [
                    address.eq(self.base + offset),
                    at.eq(self.base + offset),
                    block.eq(0),
                    self.rows.addr.eq(self.row_base + token),
                    self.rows.en.eq(1),
                ]
                m.next = "scales"
            with m.State("scales"):
                m.d.comb += reading.scales.eq(1)
                m.d.sync += [word.eq(word + 1), at.eq(at + 1)]
                with m.If(word == self.scale_words - 1):
                    m.d.sync += [word.eq(0), at.eq(address)]
                    m.next = "codes"
            with m.State("codes"):
                m.d.comb += [
                    reading.codes.eq(1),
                    reading.high.eq(~last_plane),
                    reading.last.eq(last_block & last_chunk),
                ]
                if self.word_chunks > 1:
                    m.d.comb += reading.within.eq(chunk)
                m.d.sync += [plane.eq(~last_plane), at.eq(at + self.subs)]
                with m.If(last_plane):
                    m.d.sync += [chunk.eq(chunk + 1), at.eq(address + (next_chunk >> within_bits))]
                    with m.If(last_chunk):
                        m.d.sync += [address.eq(next_block), at.eq(next_block), block.eq(block + 1)]
                        m.next = "scales"
                        with m.If(last_block):
                            m.next = "token"
        return lane

    def scale(self, m, lane, at_word, at_product):
        """Turn the words of the ROMs into elements of ``o``."""
        # e and k of the row; two cycles later ``places``, which is earlier than the first value needs it.
        row = Signal(data.StructLayout({"e": signed(7), "k": 3}))
        row_read = Signal(RowRom.latency)
        m.d.sync += row_read.eq(Cat(self.rows.en, row_read))
        with m.If(row_read[-1]):
            m.d.sync += row.eq(Array(self.rows.data)[lane])
        places, beyond = Signal(range(self.wide_bits + VALUE_BITS)), Signal(VALUE_BITS - 1)
        wanted = row.e + self.residual_shift + (LSB_BITS + VALUE_BITS)  # -68..122
        most = self.wide_bits + VALUE_BITS - 1
        m.d.sync += [
            places.eq(Mux(wanted < 0, 0, Mux(wanted > most, most, wanted))),
            # Bit p of the magnitude becomes bit p + places - 16 of Wide, whose magnitude has wide_bits - 1 bits.
            beyond.eq(Cat(places >= most - p for p in range(VALUE_BITS - 1))),
        ]

        # The choice of the lane takes three cycles, because block RAM is slow and the lanes are spread over the chip.  The fabric's
        # multipliers hold the same words in the same cycle, so synthesis makes one register of both.
        word = Signal.like(self.weights.data[0], reset_less=True)
        held = [Signal.like(word, name=f"held_{k}", reset_less=True) for k in range(self.row_lanes)]
        m.d.sync += [to.eq(data) for to, data in zip(held, self.weights.data, strict=True)]
        pairs = [Signal.like(word, name=f"pair_{k}", reset_less=True) for k in range(0, self.row_lanes, 2)]
        lane_there = Signal.like(lane)  # stable long before the first word
        m.d.sync += lane_there.eq(lane)
        m.d.sync += [pair.eq(Array(held[2 * k : 2 * k + 2])[lane_there[0]]) for k, pair in enumerate(pairs)]
        m.d.sync += word.eq(Array(pairs)[lane_there[1:]])
        scales = Signal(self.scale_words * self.block_lanes // 2)
        minimum = Signal(15)
        with m.If(at_word.scales):
            m.d.sync += scales.eq(Cat(scales, word[4 * self.block_lanes :])[self.block_lanes // 2 :])
        if self.planes == 1:
            m.d.sync += minimum.eq(scales[8:16] << row.k)

        codes = Signal(4 * self.vector_lanes)
        chunks = [word[i * len(codes) : (i + 1) * len(codes)] for i in range(self.word_chunks)]
        m.d.comb += codes.eq(Array(chunks)[at_word.within] if len(chunks) > 1 else chunks[0])
        for n in range(self.vector_lanes):
            m.submodules[f"lane{n}"] = dequantise = Dequantise(wide_bits=self.wide_bits)
            code = Signal(signed(5), name=f"code{n}")
            nibble, high = codes[4 * n : 4 * n + 4], at_word.high
            # The high plane is the top four bits of q; those of q - 128 have the top bit inverted, which is the sign.
            m.d.sync += code.eq(Cat(nibble[:3], nibble[3] ^ high, ~nibble[3] & high))
            m.d.comb += [
                dequantise.code.eq(code),
                dequantise.d.eq(scales[:8]),
                dequantise.high.eq(at_product.high),
                dequantise.low.eq(self.planes == 2),
                dequantise.minimum.eq(minimum),
                dequantise.places.eq(places),
                dequantise.beyond.eq(beyond),
                self.o.payload.data[n].eq(dequantise.y),
            ]
