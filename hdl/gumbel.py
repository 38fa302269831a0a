"""Gumbel noise for the sampler: a hash of (seed, position, token number) and two logarithms by table."""

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.lib.pipeline import registered
from hdl.lib.skid import Skid
from weights_to_rom.tables import gumbel_table, log2_table

NOISE_BITS = 19
"""-6 * 2**12 < G < 33 * 2**12 < 2**18: 19 bits signed, LSB 2**-12."""

KEY = (0x6C796765, 0x74656462)


def rotl(v, n):
    """The 32-bit word ``v`` rotated left by ``n`` bits."""
    return Cat(v[32 - n :], v[: 32 - n])


def first_half(v0, v1, v2, v3):
    """The first half of a HalfSipHash round: two independent additions, each followed by an exclusive or."""
    sum0, sum2 = (v0 + v1)[:32], (v2 + v3)[:32]
    return rotl(sum0, 16), rotl(v1, 5) ^ sum0, sum2, rotl(v3, 8) ^ sum2


def second_half(v0, v1, v2, v3):
    """The second half of the round, on the words that ``first_half`` returned."""
    sum0, sum2 = (v0 + v3)[:32], (v2 + v1)[:32]
    return sum0, rotl(v1, 13) ^ sum2, rotl(sum2, 16), rotl(v3, 7) ^ sum0


class TokenHash(wiring.Component):
    """v0, v1, v2, v3 = the part of the hash that all logits of a token share: nine half rounds, one a cycle.

    Eight half rounds are the four rounds of (seed, position).  The ninth is the first half of a logit's first round, for v0 and
    v1 only: the token number enters through v3 and does not change v0 and v1 in this half round.

    Latency: ``latency`` = 10 cycles from ``start`` to ``done``.  Rate: one hash at a time; a ``start`` drops the one under way.

    Members
    -------
    start : In(1)                takes seed and position; ``done`` falls
    seed, position : In(32)
    done : Out(1)                v0..v3 are valid; they stay until the next ``start``
    v0, v1, v2, v3 : Out(32)
    """

    HALF_ROUNDS = 9
    latency = HALF_ROUNDS + 1

    def __init__(self):
        super().__init__(
            {
                "start": In(1),
                "seed": In(32),
                "position": In(32),
                "done": Out(1),
                "v0": Out(32),
                "v1": Out(32),
                "v2": Out(32),
                "v3": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        state = self.v0, self.v1, self.v2, self.v3
        step = Signal(range(self.HALF_ROUNDS + 1), init=self.HALF_ROUNDS)
        halves = zip(first_half(*state), second_half(*state), strict=True)
        next0, next1, next2, next3 = (Mux(step[0], second, first) for first, second in halves)
        m.d.comb += self.done.eq(step == self.HALF_ROUNDS)
        with m.If(self.start):
            m.d.sync += step.eq(0)
            m.d.sync += [v.eq(word) for v, word in zip(state, (self.seed, self.position, *KEY), strict=True)]
        with m.Elif(~self.done):
            m.d.sync += [step.eq(step + 1), self.v0.eq(next0), self.v1.eq(next1)]
            with m.If(step != self.HALF_ROUNDS - 1):
                m.d.sync += [self.v2.eq(next2), self.v3.eq(next3)]
        return m


class LogitHash(wiring.Component):
    """word = the 32 hashed bits of token number ``index``; each stage computes half a round.

    Latency: ``latency`` = 6 cycles with ``advance`` high.  Rate: a word a cycle.

    Parameters
    ----------
    index_bits : bits of a token number, up to 32

    Members
    -------
    advance : In(1)              one enable for all registers of the pipeline
    v0, v1, v2, v3 : In(32)      from ``TokenHash``
    index : In(index_bits)
    word : Out(32)
    """

    latency = 6

    def __init__(self, *, index_bits):
        super().__init__(
            {"advance": In(1), "v0": In(32), "v1": In(32), "v2": In(32), "v3": In(32), "index": In(index_bits), "word": Out(32)}
        )

    def elaborate(self, platform):
        m = Module()

        def registers(values, half):
            return tuple(
                registered(m, value, name=f"half{half}_v{i}", en=self.advance, reset_less=False) for i, value in enumerate(values)
            )

        # v0 and v1 have had the first half already, for all logits.
        _, _, v2, v3 = registers(first_half(self.v0, self.v1, self.v2, self.v3 ^ self.index), 1)
        state = registers(second_half(self.v0, self.v1, v2, v3), 2)
        state = registers(first_half(*state), 3)
        state = registers(second_half(*state), 4)
        state = registers(first_half(*state), 5)
        _, v1, _, v3 = second_half(*state)
        with m.If(self.advance):
            m.d.sync += self.word.eq(v1 ^ v3)
        return m


def leading_one_to_top(m, name, v, steps):
    """(``v`` shifted left by each of ``steps`` that shifts only zeros out, the sum of these steps in units of the last one).

    ``steps`` are powers of two, each half of the one that precedes it.
    """
    zeros = []
    for step in steps:
        # Signals and not expressions, because each level uses the previous one three times.
        zero, shifted = Signal(name=f"{name}_zero{step}"), Signal(len(v), name=f"{name}_by{step}")
        m.d.comb += [zero.eq(~v[len(v) - step :].any()), shifted.eq(Mux(zero, v << step, v))]
        zeros.append(zero)
        v = shifted
    return v, Cat(*reversed(zeros))


class NoiseOfWord(wiring.Component):
    """g = G of a uniform 32-bit word: two logarithms by table, one after the other.

    Latency: ``latency`` = 5 cycles with ``advance`` high.  Rate: a value a cycle.

    Members
    -------
    advance : In(1)          one enable for all registers of the pipeline
    word : In(32)
    g : Out(signed(19))      LSB 2**-12
    """

    latency = 5

    def __init__(self):
        super().__init__({"advance": In(1), "word": In(32), "g": Out(signed(NOISE_BITS))})

    def elaborate(self, platform):
        m = Module()

        def register(value, name):
            return registered(m, value, name=name, en=self.advance, reset_less=False)

        m.submodules.log = log = Memory(shape=12, depth=256, init=log2_table())
        m.submodules.tail = tail = Memory(shape=12, depth=64, init=gumbel_table())
        log_v, log_a, tail_h = log.read_port(), log.read_port(), tail.read_port()
        m.d.comb += [port.en.eq(self.advance) for port in (log_v, log_a, tail_h)]

        # 1 and 2: v = 2c + 1, normalised.  The second stage and the table need only its top 12 bits.
        v, zeros = leading_one_to_top(m, "word", Cat(Const(1, 1), self.word[:31]), (16, 8, 4))
        v, zeros_high = register(v[20:], name="v"), register(zeros, name="v_zeros_high")
        upper, place = register(self.word[31], name="upper1"), register(self.word[25:31], name="place1")
        v, zeros = leading_one_to_top(m, "v", v, (2, 1))
        m.d.comb += log_v.addr.eq(v[3:11])
        zeros = register(Cat(zeros, zeros_high), name="v_zeros")
        upper, place = register(upper, name="upper2"), register(place, name="place2")

        # 3: A = (33 << 12) - (n << 12) - LOG with n = 31 - zeros; 2**12 < A < 2**18.
        a = register((Cat(Const(0, 12), zeros + 2) - log_v.data)[:18], name="a")
        m.d.comb += tail_h.addr.eq(place)
        upper = register(upper, name="upper3")

        # 4: A - H, which is positive.  In the same stage the address of log2f(A), whose n is 17 - the places shifted.
        difference = register((a - tail_h.data)[:18], name="difference")
        top, zeros = leading_one_to_top(m, "a", a, (4, 2, 1))
        m.d.comb += log_a.addr.eq(top[9:17])
        octaves = register((5 - zeros)[:3], name="octaves")
        upper = register(upper, name="upper4")

        # 5: log2f(A) - (12 << 12) has the octaves in its upper bits and LOG in its lower 12.
        with m.If(self.advance):
            m.d.sync += self.g.eq(Mux(upper, difference, -Cat(log_a.data, octaves)))
        return m


class Gumbel(wiring.Component):
    """o = G(0), G(1), G(2), ... of a seed and a position, ``lanes`` of them in a beat, without end.

    ``start`` drops all beats of an earlier start.  ``o`` is undefined until the first ``start``.

    Latency: ``latency`` = 21 cycles from ``start`` to the first beat.  Rate: a beat a cycle.

    Parameters
    ----------
    lanes : values of a beat, a power of two
    index_bits : bits of a token number, from log2(lanes) + 1 to 32

    Members
    -------
    start : In(1)                takes seed and position
    seed, position : In(32)
    o : Out(stream, signed(19)[lanes])   LSB 2**-12

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    latency = TokenHash.latency + LogitHash.latency + NoiseOfWord.latency

    def __init__(self, *, lanes, index_bits):
        if lanes < 1 or lanes & (lanes - 1):
            raise ValueError(f"lanes must be a power of two, not {lanes!r}")
        if not lanes.bit_length() <= index_bits <= 32:
            raise ValueError(f"index_bits must be {lanes.bit_length()} to 32, not {index_bits!r}")
        self.lanes, self.index_bits = lanes, index_bits
        super().__init__(
            {
                "start": In(1),
                "seed": In(32),
                "position": In(32),
                "o": Out(stream.Signature(data.ArrayLayout(signed(NOISE_BITS), lanes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.token_hash = token_hash = TokenHash()
        m.d.comb += [token_hash.start.eq(self.start), token_hash.seed.eq(self.seed), token_hash.position.eq(self.position)]

        lane_bits = self.lanes.bit_length() - 1
        beat = Signal(self.index_bits - lane_bits)
        full = Signal(LogitHash.latency + NoiseOfWord.latency)
        # ``advance`` moves all of the pipeline.  The skid makes it depend on registers, and not on ``o.ready``.
        skid = Skid(self.o.payload.shape())
        m.submodules.skid = ResetInserter(self.start)(skid)
        m.d.comb += skid.i.valid.eq(full[-1])
        connect(m, skid.o, flipped(self.o))
        advance = ~skid.i.valid | skid.i.ready
        with m.If(self.start):
            m.d.sync += [beat.eq(0), full.eq(0)]
        with m.Elif(advance):
            m.d.sync += [beat.eq(beat + token_hash.done), full.eq(Cat(token_hash.done, full))]
        for n in range(self.lanes):
            m.submodules[f"hash{n}"] = logit_hash = LogitHash(index_bits=self.index_bits)
            m.submodules[f"noise{n}"] = noise = NoiseOfWord()
            m.d.comb += [getattr(logit_hash, v).eq(getattr(token_hash, v)) for v in ("v0", "v1", "v2", "v3")]
            m.d.comb += [
                logit_hash.advance.eq(advance),
                logit_hash.index.eq(Cat(Const(n, lane_bits), beat)),
                noise.advance.eq(advance),
                noise.word.eq(logit_hash.word),
                skid.i.payload[n].eq(noise.g),
            ]
        return m
