"""Beats on their way through the units of QKV and of the head, one after the other.

Every model here has ``take(offered)``: a beat is offered from the cycle ``offered`` on, and the cycle in which it moves is
returned.  A beat goes all its way, through ``then`` and what follows, before the next one is offered, since no beat depends on a
later one.
"""

from collections import deque
from dataclasses import dataclass

from hdl.config import ChipConfig
from weights_to_rom.model_format import ModelFormat


@dataclass(frozen=True)
class Span:
    """``unit`` is at work from cycle ``start`` to cycle ``end``, both counted."""

    unit: str
    start: int
    end: int


class Taker:
    """Takes each beat when it is offered."""

    last = 0

    def take(self, offered: int) -> int:
        """The cycle in which a beat moves that is offered from the cycle ``offered`` on."""
        self.last = offered
        return offered


class Sampler:
    """Takes a beat in ``parts``, the first beat a cycle late, and the last of ``beats`` beats in ``last_parts``."""

    def __init__(self, parts: int, beats: int, last_parts: int):
        self.parts, self.beats, self.last_parts, self.count, self.last = parts, beats, last_parts, 0, 0

    def take(self, offered: int) -> int:
        """The cycle in which a beat moves that is offered from the cycle ``offered`` on."""
        self.count += 1
        late = 1 if self.count == 1 else 0
        parts = self.last_parts if self.count == self.beats else self.parts
        self.last = max(offered + late, self.last + 1) + parts - 1
        return self.last


class Skid:
    """Keeps a beat until ``then`` takes it; the next beat moves after that."""

    def __init__(self, then):
        self.then, self.last = then, 0

    def take(self, offered: int) -> int:
        """The cycle in which a beat moves that is offered from the cycle ``offered`` on."""
        moves = max(offered, self.last + 1)
        self.last = self.then.take(moves)
        return moves


class Pipe:
    """``latency`` cycles from in to out; while the beat at its end waits, the whole pipe stands still.

    With a ``skid`` at its end it stands still as long, but a cycle later: the beat that waits has left it.
    """

    def __init__(self, latency: int, then, skid: bool = False):
        self.latency, self.then, self.skid = latency, then, skid
        self.first, self.last, self.last_out = 0, 0, 0
        self.still: deque[tuple[int, int]] = deque(maxlen=latency)  # from when until when, the latest

    def take(self, offered: int) -> int:
        """The cycle in which a beat moves that is offered from the cycle ``offered`` on."""
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


class Mx:
    """Blocks of ``beats`` beats in and ``o_beats`` out: two banks, then a pipe.

    ``latency`` is counted from the last beat of a block to the first beat out.  Beat number ``last_beat`` closes its block.
    """

    def __init__(self, latency: int, beats: int, o_beats: int, last_beat: int | None, then):
        self.beats, self.o_beats, self.last_beat, self.count = beats, o_beats, last_beat, 0
        self.pipe = Pipe(latency - 1, then)
        self.free = deque([0, 0])  # when each bank can be filled, the next one first
        self.last = 0

    def take(self, offered: int) -> int:
        """The cycle in which a beat moves that is offered from the cycle ``offered`` on."""
        self.last = moves = max(offered, self.last + 1, self.free[0])
        self.count += 1
        if self.count % self.beats == 0 or self.count == self.last_beat:
            read = moves
            for _ in range(self.o_beats):
                read = self.pipe.take(moves + 1)
            self.free.popleft()
            self.free.append(read + 1)
        return moves


class Rope:
    """A pipe of ``latency`` cycles; with sinks each head of q goes in twice."""

    def __init__(self, latency: int, model: ModelFormat, config: ChipConfig, then):
        self.pipe = Pipe(latency, then, skid=True)
        self.head_beats, self.sinks = model.head_dim // config.vector_lanes, config.n_sinks > 0
        self.before_q = 2 * model.n_kv_heads * self.head_beats
        self.beat = 0

    def take(self, offered: int) -> int:
        """The cycle in which a beat moves that is offered from the cycle ``offered`` on."""
        moves = self.pipe.take(offered)
        self.beat += 1
        if self.sinks and self.beat > self.before_q and self.beat % self.head_beats == 0:
            for _ in range(self.head_beats):
                self.pipe.take(0)
        return moves


class Attention:
    """k and v go to the cache, then q of one pass after the other; the results of a pass leave as soon as its q is there.

    A pass reads ``words`` words of k, and its first result leaves ``latency`` cycles after the last one; the results of two passes
    are at least ``interval`` cycles apart.  q of a pass waits until the pass two before it has read its words: there is room for
    the q of two passes.
    """

    def __init__(self, latency: int, interval: int, model: ModelFormat, config: ChipConfig, context: int, then):
        lanes = config.vector_lanes
        self.latency, self.interval = latency, interval
        self.words, self.then = context * (model.head_dim // config.attention_lanes), then
        self.pass_out = config.attention_heads * model.head_dim // lanes
        self.pass_in = self.pass_out * (2 if config.n_sinks else 1)
        self.kv_beats = 2 * model.n_kv_heads * model.head_dim // lanes
        self.kv_cycles = max(1, lanes // config.attention_lanes)
        self.beat, self.first, self.last, self.q_ends = 0, 0, 0, 0
        self.read = [0, 0]  # the cycle of each pass's last word of k; two passes that never were come first
        self.first_out = -self.words
        self.waited_for_q = True
        self.work: list[Span] = []

    def take(self, offered: int) -> int:
        """The cycle in which a beat moves that is offered from the cycle ``offered`` on."""
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
        """A pass's q is complete.  q meets the first word two cycles later; that word was asked for with q's first beat."""
        begins = max(self.first + 5, self.last + 2)
        out = begins - 1 + self.words + self.latency
        follows = self.first_out + max(self.words, self.interval) if self.work else 0
        self.waited_for_q = out >= follows
        self.q_ends, self.first_out = self.last, max(out, follows)
        self.read.append(self.first_out - self.latency)
        self.work.append(Span("attention", max(begins, self.read[-1] - self.words + 1), self.first_out + self.pass_out - 1))
        for beat in range(self.pass_out):
            self.then.take(self.first_out + beat)
