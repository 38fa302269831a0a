"""The cycles of a token, predicted from shapes alone: where its time goes, unit by unit.

No cycle depends on a weight or on a token, but on shapes, lanes and the latencies of the units in the table of ``hdl.units``.  A
matrix starts after its whole input vector has arrived, so that the cycles of a layer are a sum of latencies.  QKV is the
exception: attention can stall its results, and therefore its beats are followed one by one (``hdl.cycles.pipes``), and so are the
beats of the head, which the sampler can stall.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from hdl.config import ChipConfig
from hdl.cycles import pipes
from hdl.cycles.pipes import Span
from hdl.units import FABRIC as MATVEC
from hdl.units import Unit, asked, chip_units
from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.schedule import MatrixShape, Step, head_matrix, layer_matrices

FABRIC = tuple(step.name.lower() for step in Step)

UNITS = (*FABRIC, "matvec", "norm", "mx", "rope", "attention", "swiglu", "lora", "embedding", "sampler", "control")
"""The uses of a token's cycles.

qkv, o, gate_up, down, head    the fabric reads a weight word of the matrix, or would if its queue of results were not full
matvec       the fabric's pipeline: from a vector's last beat in to the first word, from the last word to the last result
norm         residual and RMSNorm, between a matrix's last result and the next matrix's vector
mx           conversions to MX blocks of the results of RMSNorm, SwiGLU and attention
rope, swiglu, embedding, sampler    these units, while the fabric waits for them
attention    the cycles of attention after the fabric has read its last word of q
lora         the adder's register
control      the chip takes the token and hands out the reply

The cycles of any other unit of the table count under its own name.
"""


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
        """All cycles of the token."""
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


@lru_cache(maxsize=64)
def _units(table: Callable, model: ModelFormat, config: ChipConfig) -> dict[str, Unit]:
    """``table`` of a chip, kept for the next contexts: components take much longer to make than a token to follow."""
    return asked(table(model, config))


class _Token:
    """``now`` is the cycle that the path has reached: the end of its last span."""

    def __init__(self, model: ModelFormat, config: ChipConfig, context: int):
        self.model, self.config, self.context, self.lanes = model, config, context, config.vector_lanes
        self.units = _units(chip_units, model, config)
        self.matvec = self.units[MATVEC].component
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
            self._to("norm", self.now + self._latency("residual"))
        self._to("control", self.now + 1)
        by_unit = dict.fromkeys(UNITS, 0)
        for span in (*self.path, *layer * (self.model.n_layers - 1)):
            by_unit[span.unit] = by_unit.get(span.unit, 0) + span.end - span.start + 1
        assert sum(by_unit.values()) == self.now + cycles * (self.model.n_layers - 1)
        return TokenCycles(by_unit, layer, work)

    def _to(self, unit: str, cycle: int) -> None:
        """The path goes on with ``unit``, which ends in ``cycle``."""
        if cycle > self.now:
            self.path.append(Span(unit, self.now + 1, cycle))
            self.now = cycle

    def _embed(self) -> None:
        """Until the residual has taken the last beat of the token's row (``hdl.chip``, ``hdl.embedding``)."""
        self._to("control", 4)
        self._to("embedding", self.now + self.units["embedding"].component.cycles)

    def _latency(self, name: str) -> int:
        """The latency of the unit ``name``."""
        return self.units[name].component.latency

    def _beats(self, values: int) -> int:
        return -(-values // self.lanes)

    def _layer(self) -> None:
        qkv, o, gate_up, down = layer_matrices(self.model)
        self._normalise()
        self._attend(qkv)
        self._multiply(o)
        self._normalise()
        self._multiply(gate_up)
        end = self.now + self._latency("swiglu")
        self._work("swiglu", self.work[-1].start + self.matvec.latency, end)
        self._to("swiglu", end)
        self._follow("swiglu")
        self._multiply(down)

    def _path(self, name: str) -> Iterator[str]:
        """The units that a result of the unit ``name`` passes on its way to the fabric."""
        while (name := self.units[name].feeds) != MATVEC:
            yield name

    def _follow(self, name: str) -> None:
        """From the last result of the unit ``name`` to the last beat of the vector that enters the fabric."""
        for passed in self._path(name):
            if passed.startswith("mx_"):
                self._convert(passed)
            else:
                self._to(passed, self.now + self._latency(passed))

    def _work(self, unit: str, start: int, end: int) -> None:
        self.work.append(Span(unit, start, end))

    def _normalise(self) -> None:
        """From the last beat that the residual takes to the last of the vector that enters the fabric."""
        beats, start = self._beats(self.model.dim_padded), self.now + 1
        self._to("norm", self.now + self._latency("residual") + self._latency("rmsnorm") + beats - 1)
        self._work("norm", start, self.now)
        self._follow("rmsnorm")

    def _convert(self, name: str) -> None:
        """From the last beat of a vector into the conversion ``name`` to the last beat of its last block."""
        start = self.now + 1
        self._to("mx", self.now + self._latency(name) + BLOCK // self.config.x_lanes - 1)
        self._work("mx", start, self.now)

    def _fabric(self, matrix: MatrixShape) -> tuple[int, int]:
        """Go on to the matrix's first word; the cycles of that and of the last one, if nothing holds the fabric up."""
        self._to("matvec", self.now + 2)
        return self.now + 1, self.now + matrix.words(self.config.row_lanes, self.config.block_lanes)

    def _multiply(self, matrix: MatrixShape) -> None:
        """A matrix whose results are taken without delay."""
        rows, groups = self.config.row_lanes, matrix.groups(self.config.row_lanes)
        first, end = self._fabric(matrix)
        self._work(matrix.step.name.lower(), first, end)
        self._to(matrix.step.name.lower(), end)
        # Beats leave one a cycle, a group that fills a part of a beat takes a cycle too: groups may come faster than that.
        cycles, of_first_beat = (end + 1 - first) // groups, min(groups, max(1, self.lanes // rows))
        first_result = first + cycles * of_first_beat - 1 + self.matvec.latency
        follow = groups - of_first_beat if rows < self.lanes else self._beats(matrix.rows) - 1
        last_group = self._beats(matrix.rows - (groups - 1) * rows)
        self._to("matvec", max(end + self.matvec.latency + last_group - 1, first_result + follow))
        if self.config.lora_rank:
            self._to("lora", self.now + 1)

    def _attend(self, matrix: MatrixShape) -> None:
        """QKV, and attention until the last beat of o's vector enters the fabric."""
        config = self.config
        first, end = self._fabric(matrix)
        vector = taker = pipes.Taker()
        models = {}
        for name in reversed(["rope", *self._path("rope")]):
            taker = models[name] = self._beats_through(name, taker)
        rope, attention = models["rope"], models["attention"]
        results = pipes.Pipe(1, rope) if config.lora_rank else rope
        last_result = self._results(matrix, first, pipes.Skid(results))

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

    def _beats_through(self, name: str, then):
        """The model of a unit between the results of QKV and the fabric."""
        model, config, latency = self.model, self.config, self._latency(name)
        if name == "rope":
            return pipes.Rope(latency, model, config, then)
        if name == "mx_qkv":
            return pipes.Mx(latency, self._beats(model.kv_block), self._beats(model.kv_block), None, then)
        if name == "mx_attention":
            return pipes.Mx(latency, self._beats(BLOCK), BLOCK // config.x_lanes, self._beats(model.attn_dim), then)
        if name == "attention":
            # The latency of ``heads`` begins with the register of k, that of the model with the register's output.
            heads = self.units[name].component.heads
            return pipes.Attention(heads.latency - 1, heads.interval, model, config, self.context, then)
        return pipes.Pipe(latency, then)

    def _results(self, matrix: MatrixShape, first: int, taker: pipes.Skid) -> int:
        """Give results to ``taker`` as RowOutput does, whose queue may hold up the fabric; returns when the last one moves."""
        rows, groups, per_beat = self.config.row_lanes, matrix.groups(self.config.row_lanes), self.lanes // self.config.row_lanes
        cycles = matrix.words(rows, self.config.block_lanes) // groups
        to_queue = cycles + self.matvec.queue_latency
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
        """The head's results, the first of which the sampler takes a cycle late, and the winner."""
        head, lanes = head_matrix(self.model), self.config.sampler_lanes or self.lanes
        first, end = self._fabric(head)
        sampler = pipes.Sampler(self.lanes // lanes, self._beats(head.rows), -(-((head.rows - 1) % self.lanes + 1) // lanes))
        last_result = self._results(head, first, pipes.Skid(pipes.Pipe(1, sampler) if self.config.lora_rank else sampler))
        self._work("head", first, max(end, last_result - self.matvec.latency))
        self._to("head", end)
        self._to("matvec", last_result)
        if self.config.lora_rank:
            self._to("lora", sampler.last)
        self._to("sampler", sampler.last + self._latency("sampler"))
