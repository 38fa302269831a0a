"""The next token: the largest logit, or a draw from the softmax by the Gumbel-max trick."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from hdl.gumbel import Gumbel
from hdl.lib.pipeline import registered
from hdl.lib.streams import vector_beat
from hdl.lib.wide_product import WideProduct

TEMPERATURE_BITS = 16
NOISE_SHIFT = 10


def token_beat(vocab_size: int) -> data.StructLayout:
    """A token's number."""
    return data.StructLayout({"token": bits_for(vocab_size - 1)})


def wins(later, earlier):
    """Whether a score beats one of a smaller token number: the first of equals stays."""
    return later > earlier


class Sampler(wiring.Component):
    """o = the first of the largest scores: i * inv_temperature + (G << 10), or i where inv_temperature is 0.

    Without ``noise`` the unit is greedy, o = the first of the largest i, and has neither multipliers nor inputs for the noise.

    Latency: ``latency`` = 5 + log2(lanes) cycles from the last beat to the token; 1 + log2(lanes) without ``noise``.  Rate: a
    beat a cycle.  The first beat of a token moves 1 cycle after it is offered if the token is greedy; else 22 cycles, because
    the noise takes that long.

    Score: |i| <= 2**(wide_bits - 1), inv_temperature < 2**16, |G << 10| < 33 * 2**22 < 2**28, LSB 2**-22:
    48 bits signed for a Wide of 32 bits, 41 for 24.

    Parameters
    ----------
    vocab_size : logits of a token, at least 2; further elements of the last beat are ignored
    lanes : elements of a beat, a power of two
    wide_bits : bits of a logit, 24 or 32
    noise : whether the unit can sample; else it is greedy

    Members
    -------
    i : In(stream, vector_beat)    Wide logits in order, LSB 2**-12; ``last`` on beat ceil(vocab_size / lanes)
    inv_temperature : In(16)       LSB 2**-10; 0 is greedy
    seed, position : In(32)        the unit reads these three once a token, in the cycle in which the first beat is offered (the
                                   first cycle with i.valid after the reset, or after a token left)
    o : Out(stream, token_beat)

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    def __init__(self, *, vocab_size, lanes, wide_bits, noise=True):
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, not {vocab_size!r}")
        if lanes < 1 or lanes & (lanes - 1):
            raise ValueError(f"lanes must be a power of two, not {lanes!r}")
        self.vocab_size, self.lanes, self.wide_bits, self.noise = vocab_size, lanes, wide_bits, noise
        n_beats = -(-vocab_size // lanes)
        self.index_bits = bits_for(max(n_beats, 2) * lanes - 1)
        self.score_bits = wide_bits
        self.latency = ceil_log2(lanes) + 1  # a tournament, and the best of its winners
        if noise:
            # The factor is unsigned: one more bit makes it signed.
            self._products = [WideProduct(a_width=wide_bits, b_width=TEMPERATURE_BITS + 1) for _ in range(lanes)]
            self.latency += 1 + self._products[0].latency + 1  # logit, product, sum
            self.score_bits = ((65535 << (wide_bits - 1)) + (1 << 28)).bit_length() + 1
        members = {"i": In(stream.Signature(vector_beat(lanes, wide_bits))), "o": Out(stream.Signature(token_beat(vocab_size)))}
        if noise:
            members |= {"inv_temperature": In(TEMPERATURE_BITS), "seed": In(32), "position": In(32)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        start, accepted = Signal(), Signal()
        if self.noise:
            scores, valid, last = self.noisy_scores(m, start, accepted)
            may_accept = self.noise_ready
        else:
            scores, valid, last = list(self.i.payload.data), accepted, self.i.payload.last
            may_accept = Const(1)

        with m.FSM(name="state"):
            with m.State("idle"):
                m.d.comb += start.eq(self.i.valid)
                with m.If(start):
                    m.next = "logits"
            with m.State("logits"):
                m.d.comb += self.i.ready.eq(may_accept)
                m.d.comb += accepted.eq(self.i.valid & may_accept)
                with m.If(accepted & self.i.payload.last):
                    m.next = "winner"
            with m.State("winner"):
                with m.If(self.o.valid & self.o.ready):
                    m.next = "idle"

        # A tournament: the winner of each pair goes on; of two equal scores the left one wins.
        tail = (self.vocab_size - 1) % self.lanes + 1
        nodes = [(score, None, ~last if lane >= tail else Const(1)) for lane, score in enumerate(scores)]
        level = 0
        while len(nodes) > 1:
            winners = []
            for n, ((left, left_lane, left_in), (right, right_lane, right_in)) in enumerate(
                zip(nodes[::2], nodes[1::2], strict=True)
            ):
                score = Signal(signed(self.score_bits), name=f"score_{level}_{n}")
                lane = Signal(level + 1, name=f"lane_{level}_{n}")
                within = Signal(name=f"within_{level}_{n}")
                # ``within``: the lane is within the vocabulary.  If the right one of a pair is, the left one is too.
                right_wins = right_in & wins(right, left)
                m.d.sync += [score.eq(Mux(right_wins, right, left)), within.eq(left_in), lane[-1].eq(right_wins)]
                if level:
                    m.d.sync += lane[:-1].eq(Mux(right_wins, right_lane, left_lane))
                winners.append((score, lane, within))
            nodes = winners
            valid, last = (
                registered(m, valid, name=f"valid_{level}", reset_less=False),
                registered(m, last, name=f"last_{level}", reset_less=False),
            )
            level += 1

        [(score, lane, _)] = nodes
        best = Signal(signed(self.score_bits))
        beat = Signal(self.index_bits - level)
        with m.If(start):
            m.d.sync += beat.eq(0)
        with m.If(valid):
            m.d.sync += beat.eq(beat + 1)
            with m.If((beat == 0) | wins(score, best)):
                m.d.sync += [best.eq(score), self.o.payload.token.eq(Cat(lane, beat) if level else beat)]
        with m.If(valid & last):
            m.d.sync += self.o.valid.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m

    def noisy_scores(self, m, start, accepted):
        """Scores with noise: a product, then a sum.  Returns the scores of a beat, and valid and last in their cycle."""
        m.submodules.gumbel = gumbel = Gumbel(lanes=self.lanes, index_bits=self.index_bits)
        # The start of the noise is registered, because ``i.valid`` has a long path.
        begins = registered(m, start, name="noise_begins", reset_less=False)
        m.d.comb += [
            gumbel.start.eq(begins),
            gumbel.seed.eq(registered(m, self.seed, name="noise_seed", reset_less=False)),
            gumbel.position.eq(registered(m, self.position, name="noise_position", reset_less=False)),
        ]
        greedy, factor = Signal(), Signal(TEMPERATURE_BITS)
        with m.If(start):
            m.d.sync += [greedy.eq(self.inv_temperature == 0), factor.eq(Mux(self.inv_temperature == 0, 1, self.inv_temperature))]
        self.noise_ready = greedy | (gumbel.o.valid & ~begins)
        m.d.comb += gumbel.o.ready.eq(accepted)

        scores = []
        for lane, product in enumerate(self._products):
            m.submodules[f"product{lane}"] = product
            noise = Mux(greedy, 0, gumbel.o.payload[lane])
            for stage in range(1 + product.latency):
                noise = registered(m, noise, name=f"noise{lane}_{stage}", reset_less=False)
            score = Signal(signed(self.score_bits), name=f"score{lane}")
            # The logit is registered at the multiplier's input, because logits come from far.
            logit = Signal(signed(self.wide_bits), name=f"logit{lane}", reset_less=True)
            m.d.comb += [product.en.eq(1), product.a.eq(logit), product.b.eq(factor)]
            m.d.sync += [logit.eq(self.i.payload.data[lane]), score.eq(product.p + (noise << NOISE_SHIFT))]
            scores.append(score)
        valid, last = accepted, self.i.payload.last
        for stage in range(1 + product.latency + 1):
            valid = registered(m, valid, name=f"scoring_valid{stage}", reset_less=False)
            last = registered(m, last, name=f"scoring_last{stage}", reset_less=False)
        return scores, valid, last
