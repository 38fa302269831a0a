# amaranth: UnusedElaboratable=no
"""The cycles of a token, predicted from shapes alone: where its time goes, unit by unit.

No cycle depends on a weight or on a token.  When a beat moves follows from the latencies and rates that the units' docstrings
promise.  A matrix begins when its vector is whole, so that a layer is a path of latencies, one after the other; only while
QKV is computed its results may be held up by attention, and there every beat is followed on its way.
"""

from collections import deque
from dataclasses import dataclass

from amaranth.utils import bits_for, ceil_log2

from hdl.attention.attention import Attention
from hdl.config import ChipConfig
from hdl.fabric.matvec import Matvec
from hdl.fabric.row_output import RowOutput
from hdl.lib.wide_product import product_latency
from hdl.rmsnorm import norm_latency
from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.schedule import MatrixShape, Step, all_matrices, embedding_matrix, head_matrix, layer_matrices

FABRIC = tuple(step.name.lower() for step in Step)

UNITS = (*FABRIC, "matvec", "norm", "mx", "rope", "attention", "swiglu", "lora", "embedding", "sampler", "control")
"""What a cycle of a token is spent on.

qkv, o, gate_up, down, head    the fabric reads a weight word of the matrix, or would if its queue of results were not full
matvec       the fabric's pipeline: from a vector's last beat in to the first word, from the last word to the last result
norm         residual and RMSNorm, between a matrix's last result and the next one's vector
mx           conversions to MX blocks on that way, and on that of SwiGLU's and attention's results
rope, swiglu, embedding, sampler    these units, while the fabric waits for them
attention    what is left of it when the fabric has read its last word of q, and all that it takes longer than the fabric
lora         the adder's register
control      the chip takes the token and hands out the reply
"""


@dataclass(frozen=True)
class Span:
    """``unit`` is at work from cycle ``start`` to cycle ``end``, both counted."""

    unit: str
    start: int
    end: int


@dataclass(frozen=True)
class TokenCycles:
    """A token's cycles by unit of UNITS; of its first layer, the path that takes its time, and who is at work when.

    Cycles count from the one in which the token is taken, which is 1, to that of the reply, which is ``total``.
    """

    by_unit: dict[str, int]
    path: tuple[Span, ...]
    work: tuple[Span, ...]

    @property
    def total(self) -> int:
        return sum(self.by_unit.values())


def token_cycles(model: ModelFormat, config: ChipConfig, context: int, *, sample: bool = True) -> TokenCycles:
    """Predict a token that makes its context ``context`` positions long, without adapter, its reply taken at once.

    With ``sample`` it goes through the LM head and the sampler at temperature 0; prompt tokens but the last do without.
    Raises ValueError for a context that the chip does not hold, and for a chip on the shared engine, which works otherwise.
    """
    if config.shared:
        raise ValueError("cycles are predicted for chips of pipelined units, not for the shared engine: predict_token counts both")
    if not 1 <= context <= config.max_context:
        raise ValueError(f"context must be 1 to max_context ({config.max_context}), not {context!r}")
    return _Token(model, config, context).run(sample)


class _Token:
    """``now`` is the cycle that the path has reached: the end of its last span."""

    def __init__(self, model: ModelFormat, config: ChipConfig, context: int):
        self.model, self.config, self.context, self.lanes = model, config, context, config.vector_lanes
        # Before a LoRA adder the queue is longer: the fabric runs further ahead of attention, which ends no sooner for it.
        self.matvec = Matvec(
            row_lanes=config.row_lanes,
            block_lanes=config.block_lanes,
            vector_lanes=self.lanes,
            x_lanes=config.x_lanes,
            matrices=all_matrices(model),
            wide_bits=model.wide_bits,
            multiplier=config.multiplier,
        )
        self.now = 0
        self.path: list[Span] = []
        self.work: list[Span] = []

    def run(self, sample: bool) -> TokenCycles:
        self._embed()
        before, begins = len(self.path), self.now
        self._layer()
        layer, work, cycles = tuple(self.path[before:]), tuple(self.work), self.now - begins
        if sample:
            self._normalise()
            self._head()
        else:
            self._to("norm", self.now + RESIDUAL)
        self._to("control", self.now + 1)
        by_unit = dict.fromkeys(UNITS, 0)
        for span in (*self.path, *layer * (self.model.n_layers - 1)):
            by_unit[span.unit] += span.end - span.start + 1
        assert sum(by_unit.values()) == self.now + cycles * (self.model.n_layers - 1)
        return TokenCycles(by_unit, layer, work)

    def _to(self, unit: str, cycle: int) -> None:
        """The path goes on with ``unit``, which ends in ``cycle``."""
        if cycle > self.now:
            self.path.append(Span(unit, self.now + 1, cycle))
            self.now = cycle

    def _embed(self) -> None:
        """Until the residual has taken the last beat of the token's row (hdl/chip.py, hdl/embedding.py)."""
        table = embedding_matrix(self.model)
        bits = self.model.embed_bits
        scale_words = -(-(16 if bits == 4 else 8) // (self.config.block_lanes // 2))
        self._to("control", 4)
        self._to(
            "embedding",
            self.now + bits_for(self.model.vocab_size - 1) + 11 + table.blocks * (scale_words + bits // 4 * self._beats(BLOCK)),
        )

    def _beats(self, values: int) -> int:
        return -(-values // self.lanes)

    def _layer(self) -> None:
        qkv, o, gate_up, down = layer_matrices(self.model)
        self._normalise()
        self._attend(qkv)
        self._multiply(o)
        self._normalise()
        self._multiply(gate_up)
        self._work("swiglu", self.work[-1].start + self.matvec.latency, self.now + SWIGLU)
        self._to("swiglu", self.now + SWIGLU)
        self._convert()
        self._multiply(down)

    def _work(self, unit: str, start: int, end: int) -> None:
        self.work.append(Span(unit, start, end))

    def _normalise(self) -> None:
        """From the last beat that the residual takes to the last of the vector that enters the fabric."""
        beats, start = self._beats(self.model.dim_padded), self.now + 1
        self._to("norm", self.now + RESIDUAL + norm_latency(beats, self.lanes) + beats - 1)
        self._work("norm", start, self.now)
        self._convert()

    def _convert(self) -> None:
        """The last block of a vector."""
        start = self.now + 1
        self._to("mx", self.now + MX + BLOCK // self.config.x_lanes - 1)
        self._work("mx", start, self.now)

    def _fabric(self, matrix: MatrixShape) -> tuple[int, int]:
        """Go on to the matrix's first word; the cycles of that and of the last one, if nothing holds the fabric up."""
        self._to("matvec", self.now + 2)
        return self.now + 1, self.now + matrix.words(self.config.row_lanes, self.config.block_lanes)

    def _multiply(self, matrix: MatrixShape) -> None:
        """A matrix whose results are taken as they come."""
        rows, groups = self.config.row_lanes, matrix.groups(self.config.row_lanes)
        first, end = self._fabric(matrix)
        self._work(matrix.step.name.lower(), first, end)
        self._to(matrix.step.name.lower(), end)
        # Beats leave one after the other, a group that is a part of one takes as long: groups may come faster than that.
        cycles, of_first_beat = (end + 1 - first) // groups, min(groups, max(1, self.lanes // rows))
        first_result = first + cycles * of_first_beat - 1 + self.matvec.latency
        follow = groups - of_first_beat if rows < self.lanes else self._beats(matrix.rows) - 1
        last_group = self._beats(matrix.rows - (groups - 1) * rows)
        self._to("matvec", max(end + self.matvec.latency + last_group - 1, first_result + follow))
        if self.config.lora_rank:
            self._to("lora", self.now + 1)

    def _attend(self, matrix: MatrixShape) -> None:
        """QKV, and attention until the last beat of o's vector enters the fabric."""
        model, config = self.model, self.config
        first, end = self._fabric(matrix)
        vector = _Taker()
        mx_attention = _Mx(self._beats(BLOCK), BLOCK // config.x_lanes, self._beats(model.attn_dim), vector)
        attention = _Attention(model, config, self.context, mx_attention)
        rope = _Rope(model, config, _Mx(self._beats(model.kv_block), self._beats(model.kv_block), None, attention))
        results = _Pipe(1, rope) if config.lora_rank else rope
        last_result = self._results(matrix, first, _Skid(results))

        self._work("qkv", first, max(end, last_result - self.matvec.latency))
        self._work("rope", rope.pipe.first, rope.pipe.last_out)
        self.work += attention.work
        self._to("qkv", end)
        if attention.waited_for_q:
            self._to("matvec", last_result)
            if config.lora_rank:
                self._to("lora", last_result + 1)
            self._to("rope", rope.pipe.last_out)
            self._to("mx", attention.q_ends)
        self._to("attention", attention.work[-1].end)
        self._work("mx", self.now + 1, vector.last)
        self._to("mx", vector.last)

    def _results(self, matrix: MatrixShape, first: int, taker: "_Skid") -> int:
        """Give results to ``taker`` as RowOutput does, whose queue may hold up the fabric; when the last one moves."""
        rows, groups, per_beat = self.config.row_lanes, matrix.groups(self.config.row_lanes), self.lanes // self.config.row_lanes
        cycles = matrix.words(rows, self.config.block_lanes) // groups
        to_queue = cycles + self.matvec.latency - RowOutput.LATENCY
        word, loaded, moved = first - cycles, 0, 0
        pops: deque[int] = deque(maxlen=self.matvec.queue_depth)
        for group in range(groups):
            word += cycles
            if len(pops) == pops.maxlen:
                word = max(word, pops[0] + 3)
            last = group == groups - 1
            for _ in range(self._beats(min(rows, matrix.rows - group * rows))):
                loaded = max(loaded + 1, word + to_queue, moved)
                if per_beat < 2 or group % per_beat == per_beat - 1 or last:
                    moved = taker.take(loaded + 1)
            pops.append(loaded)
        return moved

    def _head(self) -> None:
        """The head's results, of which the sampler takes the first a cycle late, and the winner."""
        head, lanes = head_matrix(self.model), self.config.sampler_lanes or self.lanes
        first, end = self._fabric(head)
        sampler = _Sampler(self.lanes // lanes, self._beats(head.rows), -(-((head.rows - 1) % self.lanes + 1) // lanes))
        last_result = self._results(head, first, _Skid(_Pipe(1, sampler) if self.config.lora_rank else sampler))
        self._work("head", first, max(end, last_result - self.matvec.latency))
        self._to("head", end)
        self._to("matvec", last_result)
        if self.config.lora_rank:
            self._to("lora", sampler.last)
        self._to("sampler", sampler.last + 5 + ceil_log2(lanes))


RESIDUAL, SWIGLU, MX = 2, 6, 4
"""Cycles from a beat in to the same out; of Mx, from the last of a block to its first."""


# What follows takes one beat after the other: ``take`` is told from which cycle on a beat is offered, and returns the one in
# which it moves.  A beat goes all its way before the next one comes, since none depends on one behind it.


class _Taker:
    """Takes what is offered."""

    last = 0

    def take(self, offered: int) -> int:
        self.last = offered
        return offered


class _Sampler:
    """Takes a beat in ``parts``, the first one a cycle late, and the last one of ``beats`` in ``last_parts``."""

    def __init__(self, parts: int, beats: int, last_parts: int):
        self.parts, self.beats, self.last_parts, self.count, self.last = parts, beats, last_parts, 0, 0

    def take(self, offered: int) -> int:
        self.count += 1
        late = 1 if self.count == 1 else 0
        parts = self.last_parts if self.count == self.beats else self.parts
        self.last = max(offered + late, self.last + 1) + parts - 1
        return self.last


class _Skid:
    """Keeps a beat until ``then`` takes it; the next one moves after that."""

    def __init__(self, then):
        self.then, self.last = then, 0

    def take(self, offered: int) -> int:
        moves = max(offered, self.last + 1)
        self.last = self.then.take(moves)
        return moves


class _Pipe:
    """``latency`` cycles from in to out; while the beat at its end waits, all of it stands still.

    With a ``skid`` at its end it stands still as long, but a cycle later: the beat that waits has left it.
    """

    def __init__(self, latency: int, then, skid: bool = False):
        self.latency, self.then, self.skid = latency, then, skid
        self.first, self.last, self.last_out = 0, 0, 0
        self.still: deque[tuple[int, int]] = deque(maxlen=latency)  # from when until when, the latest

    def take(self, offered: int) -> int:
        moves = max(offered, self.last + 1)
        for since, until in self.still:
            if since <= moves < until:
                moves = until
        out = moves + self.latency
        for since, until in self.still:
            if since > moves:
                out += until - since
        taken = self.then.take(out)
        if taken > out:
            self.still.append((out + self.skid, taken + self.skid))
        self.first, self.last, self.last_out = self.first or moves, moves, out
        return moves


class _Mx:
    """Blocks of ``beats`` in and ``o_beats`` out: two banks, and a pipe behind them; beat number ``last_beat`` closes its block."""

    def __init__(self, beats: int, o_beats: int, last_beat: int | None, then):
        self.beats, self.o_beats, self.last_beat, self.count = beats, o_beats, last_beat, 0
        self.pipe = _Pipe(MX - 1, then)
        self.free = deque([0, 0])  # when each bank can be filled, the next one first
        self.last = 0

    def take(self, offered: int) -> int:
        self.last = moves = max(offered, self.last + 1, self.free[0])
        self.count += 1
        if self.count % self.beats == 0 or self.count == self.last_beat:
            for _ in range(self.o_beats):
                read = self.pipe.take(moves + 1)
            self.free.popleft()
            self.free.append(read + 1)
        return moves


class _Rope:
    """A pipe; with sinks each head of q goes in twice."""

    def __init__(self, model: ModelFormat, config: ChipConfig, then):
        self.pipe = _Pipe(8 + product_latency(33, config.position_bits + 1), then, skid=True)
        self.head_beats, self.sinks = model.head_dim // config.vector_lanes, config.n_sinks > 0
        self.before_q = 2 * model.n_kv_heads * self.head_beats
        self.beat = 0

    def take(self, offered: int) -> int:
        moves = self.pipe.take(offered)
        self.beat += 1
        if self.sinks and self.beat > self.before_q and self.beat % self.head_beats == 0:
            for _ in range(self.head_beats):
                self.pipe.take(0)
        return moves


class _Attention:
    """k and v to the cache, then q of one pass after the other; what a pass gives goes on as soon as its q is there.

    A pass reads ``words``.  Its q waits until the pass before the last one has read its own: there is room for two.
    """

    def __init__(self, model: ModelFormat, config: ChipConfig, context: int, then):
        lanes, head_words = config.vector_lanes, model.head_dim // config.attention_lanes
        self.words, self.then = context * head_words, then
        self.pass_out = config.attention_heads * model.head_dim // lanes
        self.pass_in = self.pass_out * (2 if config.n_sinks else 1)
        self.kv_beats = 2 * model.n_kv_heads * model.head_dim // lanes
        self.kv_cycles = max(1, lanes // config.attention_lanes)
        heads = Attention(model=model, config=config).heads
        self.latency = heads.latency - 1  # from the output of the register of k
        self.interval = heads.interval
        self.beat, self.first, self.last, self.q_ends = 0, 0, 0, 0
        self.read = [0, 0]  # the last word of k, of each pass; two that never were
        self.first_out = -self.words
        self.waited_for_q = True
        self.work: list[Span] = []

    def take(self, offered: int) -> int:
        index = self.beat - self.kv_beats
        self.beat += 1
        if index < 0:
            located = 2 if self.beat == 1 else 0
            self.last = max(offered + located, self.last + 1) + self.kv_cycles - 1
            return self.last
        self.last = max(offered, self.last + 1, self.read[-2] + 1)
        if index % self.pass_in == 0:
            self.first = self.last
        if (index + 1) % self.pass_in == 0:
            self._pass()
        return self.last

    def _pass(self) -> None:
        """Its q is complete, which meets the first word two cycles later; that was asked for with q's first beat."""
        begins = max(self.first + 5, self.last + 2)
        out = begins - 1 + self.words + self.latency
        follows = self.first_out + max(self.words, self.interval) if self.work else 0
        self.waited_for_q = out >= follows
        self.q_ends, self.first_out = self.last, max(out, follows)
        self.read.append(self.first_out - self.latency)
        self.work.append(Span("attention", max(begins, self.read[-1] - self.words + 1), self.first_out + self.pass_out - 1))
        for beat in range(self.pass_out):
            self.then.take(self.first_out + beat)
