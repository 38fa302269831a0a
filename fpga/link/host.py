"""The host's side of ``fpga.link.protocol``: one more backend of the session API."""

import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from fpga.link.protocol import HISTORY, STATUS_SHIFT, Deframer, Flag, Kind, frame
from hdl.interface import Status
from sim.golden.sampler import inverse_temperature
from sim.session import Reply, Sampling, Session, SessionError
from weights_to_rom.errors import HardwireError

AHEAD = HISTORY // 2
"""Tokens on their way at most, so that what is lost can still be asked for."""

PATIENCE = 0.5
"""Seconds without a frame after which a request is said again."""

TRIES = 20
GREETINGS = 4
"""Tries before a port is given up, which may be another board's, or at another rate."""

SLOW = 10


class LinkError(HardwireError):
    """The board does not answer, or is not the one it should be: one line that says so."""


class Port(Protocol):
    """What this needs of a serial port: pyserial's Serial with a short timeout."""

    in_waiting: int

    def read(self, size: int = 1) -> bytes: ...

    def write(self, data: bytes) -> int | None: ...

    def close(self) -> None: ...


class BoardSession(Session):
    """The sequence of a board.  Prompts are sent ahead of the replies; an answer is written by the board on its own.

    A ``slow`` one, which is simulated, is asked SLOW times as often before it is given up.
    Raises LinkError if the board does not answer, or says another ``identity``.
    """

    at_once = 64

    def __init__(
        self,
        port: Port,
        identity: int,
        vocab_size: int,
        max_context: int,
        slides: bool = False,
        end_token: int | None = None,
        slow: bool = False,
    ):
        super().__init__(vocab_size, max_context, slides)
        self._port, self._deframer, self._end_token = port, Deframer(), end_token
        self._frames: deque[tuple[Kind, bytes]] = deque()
        self._fed: list[int] = []  # the sequence as the user knows it
        self._in_step = False  # whether the board's is the same, and nothing of the past is on its way
        self._sampling: Sampling | None = None
        self.said_again = 0
        self._times = SLOW if slow else 1
        theirs = self._greet()
        if theirs != identity:
            raise LinkError(f"the board holds another model or chip ({theirs:016x}, not {identity:016x}): flash it again")

    @property
    def broken(self) -> int:
        """Frames from the board that were dropped."""
        return self._deframer.broken

    def feed(self, tokens: Sequence[int]) -> None:
        bad = [t for t in tokens if not 0 <= t < self.vocab_size]
        if bad or (self.position + len(tokens) > self.max_context and not self.slides):
            super().feed(tokens)
        elif tokens:
            self._read(tokens, None)
            self.position += len(tokens)

    def continued(self, token: int, n_tokens: int, sampling: Sampling, stop: Sequence[int]) -> Iterator[Reply]:
        if not set(stop) <= {self._end_token}:  # the board knows no other end: a token at a time
            yield from super().continued(token, n_tokens, sampling, stop)
            return
        last = self.position + n_tokens
        if not self.slides:
            last = min(last, self.max_context)
        while self.position < last:
            reply = self.step(token, sampling)
            token = reply.token
            yield reply
            for further in self._run(token, last):
                token = further.token
                yield further
            if token in stop:  # else the context is full, or it is the end of text, which the board does not feed by itself
                return

    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        sampled = self._read([token], sampling)
        return None if sampling is None else _reply(sampled)

    def _reset(self) -> None:
        self._fed, self._in_step = [], False

    def close(self) -> None:
        self._port.close()

    def _greet(self) -> int:
        """The board's identity.  What it said before is dropped: replies come in the order of requests."""
        return self._ask(Kind.HELLO, b"", Kind.IDENTITY, lambda fields: True, GREETINGS)[0]

    def _read(self, tokens: Sequence[int], sampling: Sampling | None) -> int:
        """Feed tokens at ``position``; the one sampled after the last."""
        if not self._in_step:
            self._greet()
            self._in_step = True
            if self._fed:
                self._put(self._fed, 0, False)
        if sampling is not None and sampling != self._sampling:
            values = inverse_temperature(sampling.temperature), sampling.seed
            self._ask(Kind.SAMPLING, struct.pack("<HI", *values), Kind.KEPT, lambda fields: fields == values)
            self._sampling = sampling
        sampled = self._put(tokens, self.position, sampling is not None)
        self._fed += tokens
        return sampled

    def _put(self, tokens: Sequence[int], first: int, sample: bool) -> int:
        """Feed tokens from position ``first`` on; those up to AHEAD are said before the first is answered."""
        done = said = 0
        went_back = -1
        tries = _Tries(TRIES * self._times)
        while True:
            # The first of a sequence goes alone: until it is there, the board remembers another sequence at these positions.
            while said < len(tokens) and said - done < (AHEAD if first + done else 1):
                position, flags = first + said, Flag(0)
                if position == 0:
                    flags |= Flag.RESTART
                if sample and said == len(tokens) - 1:
                    flags |= Flag.SAMPLE
                self._say(Kind.PUT, struct.pack("<IIB", position, tokens[said], flags))
                said += 1
            match self._hear():
                case None:
                    tries.again()
                    self.said_again += 1
                    said = done
                case Kind.RESULT, (position, token, flags) if first + done <= position < first + len(tokens):
                    if status := flags >> STATUS_SHIFT:
                        raise SessionError(
                            f"the board refused token {tokens[position - first]} at position {position}: {Status(status).name}"
                        )
                    tries = _Tries(TRIES * self._times)
                    done = position - first + 1
                    if done == len(tokens):
                        return token
                case Kind.STANDING, (following,) if first + done <= following < first + said and following != went_back:
                    # The one before was lost, and with it the turn of those after it.
                    went_back, said = following, following - first
                    self.said_again += 1

    def _run(self, token: int, last: int) -> Iterator[Reply]:
        """What the board writes after ``token``, which it sampled, up to position ``last`` or its end token."""
        until, asked, tries = 0, -1, _Tries(TRIES * self._times)
        while self.position < last and token != self._end_token:
            if until - self.position <= AHEAD // 2 and until < last:
                until = min(last, self.position + AHEAD)
                self._in_step = False
                self._say(Kind.RUN, struct.pack("<I", until))
            match self._hear():
                case None:
                    tries.again()
                    self.said_again += 1
                    asked = -1
                    self._say(Kind.RUN, struct.pack("<I", until))
                case Kind.RESULT, (position, sampled, flags) if position == self.position and flags & Flag.SAMPLED:
                    if status := flags >> STATUS_SHIFT:
                        raise SessionError(f"the board refused token {token} at position {position}: {Status(status).name}")
                    tries = _Tries(TRIES * self._times)
                    self._fed.append(token)
                    self.position += 1
                    token = sampled
                    self._in_step = self.position >= until or token == self._end_token
                    yield _reply(token)
                case (Kind.RESULT, (position, *_)) | (Kind.STANDING, (position,)) if asked != self.position < position:
                    # What lies between was lost.
                    asked = self.position
                    self.said_again += 1
                    self._say(Kind.GET, struct.pack("<I", self.position))

    def _ask(self, kind: Kind, fields: bytes, answer: Kind, right, tries: int = TRIES) -> tuple[int, ...]:
        """Say something until it is answered rightly; other frames are dropped."""
        tries = _Tries(tries * self._times)
        self._say(kind, fields)
        while True:
            match self._hear():
                case None:
                    tries.again()
                    self.said_again += 1
                    self._say(kind, fields)
                case kind_heard, values if kind_heard == answer and right(values):
                    return values

    def _say(self, kind: Kind, fields: bytes) -> None:
        self._port.write(frame(kind, fields))

    def _hear(self) -> tuple[Kind, tuple[int, ...]] | None:
        """The next frame, or None if there is none for PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while not self._frames and time.monotonic() < deadline:
            for payload in self._deframer.push(self._port.read(max(1, self._port.in_waiting))):
                if payload[0] in _FIELDS:
                    kind = Kind(payload[0])
                    self._frames.append((kind, struct.unpack_from(_FIELDS[kind], payload, 1)))
        return self._frames.popleft() if self._frames else None


_FIELDS = {Kind.IDENTITY: "<Q", Kind.RESULT: "<IIB", Kind.KEPT: "<HI", Kind.STANDING: "<I"}


def _reply(token: int) -> Reply:
    """The board sends no logits."""
    return Reply(token, np.zeros(0, np.int32))


class _Tries:
    """Counts how often in a row nothing came."""

    def __init__(self, most: int):
        self._n, self._most = 0, most

    def again(self) -> None:
        self._n += 1
        if self._n == self._most:
            raise LinkError(f"the board has not answered for {self._most * PATIENCE:g} s: is it flashed, and is this its port?")
