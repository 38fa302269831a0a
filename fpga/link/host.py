"""The host's side of ``fpga.link.protocol``: a ``sim.session.Session`` with a board."""

import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from fpga.link.protocol import ADAPTER_SHIFT, HISTORY, STATUS_SHIFT, Deframer, Flag, Kind, frame
from hdl.interface import LoadStatus, Status
from sim.golden.sampler import inverse_temperature
from sim.session import Reply, Sampling, Session, SessionError
from weights_to_rom.errors import HardwireError

AHEAD = HISTORY // 2
"""The highest number of tokens that are sent ahead of their replies.

It is half of HISTORY, so that the board still remembers a result whose frame is lost.
"""

NUMBERS = 256
"""Numbers of a LOAD, after which they begin at 0 again."""

PATIENCE = 0.5
"""Seconds after which the host sends a request again if no frame comes, as long as it does not know how quick the board is."""

LEAST_PATIENCE = 0.03
"""Seconds that the host waits at least: an FTDI chip keeps bytes for 16 ms, and a read of the port ends after 20 ms."""

PATIENT = 4
"""The host waits PATIENT times as long as it lately had to wait for a frame, but not longer than PATIENCE."""

FORGETS = 0.9
"""The share of the longest wait that is still remembered after the next frame."""

TRIES = 20
"""Waits of PATIENCE without an answer after which the host gives up."""

GREETINGS = 4
"""Waits for the answer to a HELLO after which the host gives up.  They are few, because the port may belong to another device."""

SLOW = 10
"""The factor by which a simulated board gets more time, because it is slower."""


class LinkError(HardwireError):
    """The board does not answer, or it holds another model or chip."""


class Port(Protocol):
    """The members of pyserial's ``Serial`` that a session uses.  Its timeout must be short compared with PATIENCE."""

    @property
    def in_waiting(self) -> int:
        """The number of received bytes that wait to be read."""
        ...

    def read(self, size: int = 1, /) -> bytes:
        """Return ``size`` bytes, or fewer if the timeout ends first."""
        ...

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""
        ...

    def close(self) -> None:
        """Release the port."""
        ...


class BoardSession(Session):
    """A session whose tokens a board computes.

    The host sends the tokens of a prompt ahead of their replies.  For an answer it sends a RUN, and the board feeds its own
    samples.

    Parameters
    ----------
    port : Port
        The open serial port of the board.
    identity : int
        The identity that the board must have: 64 bits that name the model and the chip.
    vocab_size : int
        The number of tokens of the vocabulary.
    max_context : int
        Positions of the chip.
    slides : bool
        True if the chip drops old positions when its context is full, as a chip with sinks does.
    end_token : int, optional
        The token at which the board ends a RUN: the end of text.
    slow : bool
        True if the board is simulated.  It then gets SLOW times as many tries.

    Raises
    ------
    LinkError
        The board does not answer, or has another identity.
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
        self._frames: deque[tuple[Kind, tuple[int, ...]]] = deque()
        self._fed: list[int] = []  # the sequence of the user
        self._in_step = False  # the board has the sequence ``_fed``, and all replies to earlier requests have come
        self._sampling: Sampling | None = None
        self._adapter = 0
        self.requests_repeated = self.bytes_sent = self.bytes_received = 0
        self._longest: float | None = None  # lately the longest wait for a frame
        self._waits = 1  # grows with every wait in a row that was in vain: the board may only be slow
        self._times = SLOW if slow else 1
        theirs = self._greet()
        if theirs != identity:
            raise LinkError(f"the board holds another model or chip ({theirs:016x}, not {identity:016x}): flash it again")

    @property
    def broken(self) -> int:
        """The number of dropped pieces between two ENDs from the board."""
        return self._deframer.broken

    @property
    def line(self) -> dict[str, int]:
        """Counts of the serial line since the session was opened."""
        return {
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "frames_lost": self.broken,
            "requests_repeated": self.requests_repeated,
        }

    def load(self, number: int, image: Sequence[int], progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Load an adapter into the board; every token from now on uses it.

        Parameters
        ----------
        number : int             the adapter's number, which stands in the load image
        image : sequence of int  the words of the load image (docs/arithmetic.md, section 6)
        progress : callable      gets the number of frames that the board has taken, and the number of all

        Raises LinkError if the chip refuses the image, or if the board does not answer.
        """
        words = [*map(int, image), 0][: len(image) + len(image) % 2]
        frames = [struct.pack("<BII", i // 2 % NUMBERS, *words[i : i + 2]) for i in range(0, len(words), 2)]
        self._ask(Kind.BEGIN, b"", Kind.LOADING, lambda fields: fields[:2] == (0, 0))
        done = said = 0
        went_back, tries = -1, self._tries()
        while done < len(frames):
            while said < len(frames) and said - done < AHEAD:
                self._send(Kind.LOAD, frames[said])
                said += 1
            match self._receive():
                case None:
                    tries.again()
                    self.requests_repeated += 1
                    said, went_back = done, -1
                case Kind.LOADING, (following, _, _) if taken := (following - done) % NUMBERS:
                    if taken <= said - done:
                        done, went_back, tries = done + taken, -1, self._tries()
                        progress(done, len(frames))
                case Kind.LOADING, _ if went_back != done:
                    # The line lost the LOAD of this number, so the board has taken none of the further ones.
                    went_back, said = done, done
                    self.requests_repeated += 1
        # The board takes no LOAD twice, so this one only asks for the chip's answer.
        _, _, status = self._ask(Kind.LOAD, frames[-1], Kind.LOADING, lambda fields: fields[1] == 1)
        if status:
            raise LinkError(f"the chip did not take adapter {number}: {LoadStatus(status).name}")
        self._adapter = number

    def feed(self, tokens: Sequence[int]) -> None:
        """Feed tokens without sampling."""
        bad = [t for t in tokens if not 0 <= t < self.vocab_size]
        if bad or (self.position + len(tokens) > self.max_context and not self.slides):
            super().feed(tokens)
        elif tokens:
            self._read(tokens, None)
            self.position += len(tokens)

    def continued(self, token: int, n_tokens: int, sampling: Sampling, stop: Sequence[int]) -> Iterator[Reply]:
        """Feed ``token``, and then each sampled token.  Stop at a token of ``stop``, or after ``n_tokens`` samples."""
        if not set(stop) <= {self._end_token}:  # a RUN ends only at the end token, so the tokens are fed one by one
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
            # Without a stop token the context is full, or the board ended its RUN at an end token that this answer goes beyond.
            if token in stop:
                return

    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        sampled = self._read([token], sampling)
        return None if sampling is None else _reply(sampled)

    def _reset(self) -> None:
        self._fed, self._in_step = [], False

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def _greet(self) -> int:
        """Return the identity of the board, and drop the replies to all earlier requests.

        These replies come first, because the board answers requests in their order.
        """
        return self._ask(Kind.HELLO, b"", Kind.IDENTITY, lambda fields: True, GREETINGS)[0]

    def _read(self, tokens: Sequence[int], sampling: Sampling | None) -> int:
        """Feed tokens from ``position`` on.  Return the token that is sampled after the last one, if ``sampling`` is given."""
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
        """Feed tokens from position ``first`` on.  Return the token that is sampled after the last one, if ``sample`` is true.

        At most AHEAD tokens are sent ahead of their replies.
        """
        done = said = 0
        went_back = -1
        tries = self._tries()
        while True:
            # The first token of a sequence is sent alone, because until the board has it, its history is that of the old sequence.
            while said < len(tokens) and said - done < (AHEAD if first + done else 1):
                position, flags = first + said, self._adapter << ADAPTER_SHIFT
                if position == 0:
                    flags |= Flag.RESTART
                if sample and said == len(tokens) - 1:
                    flags |= Flag.SAMPLE
                self._send(Kind.PUT, struct.pack("<IIB", position, tokens[said], flags))
                said += 1
            match self._receive():
                case None:
                    tries.again()
                    self.requests_repeated += 1
                    said, went_back = done, -1
                case Kind.RESULT, (position, token, flags) if first + done <= position < first + len(tokens):
                    if status := flags >> STATUS_SHIFT:
                        raise SessionError(
                            f"the board refused token {tokens[position - first]} at position {position}: {Status(status).name}"
                        )
                    tries = self._tries()
                    done = position - first + 1
                    if done == len(tokens):
                        return token
                case Kind.STANDING, (following,) if first + done <= following < first + said and following != went_back:
                    # The line lost the PUT of position ``following``, so the board has fed none of the further positions.
                    went_back, said = following, following - first
                    self.requests_repeated += 1

    def _run(self, token: int, last: int) -> Iterator[Reply]:
        """Yield the tokens that the board samples after ``token``, up to position ``last`` or to its end token."""
        until, tries = 0, self._tries()
        came: dict[int, tuple[int, int]] = {}  # results that are not yielded yet, by position
        asked: set[int] = set()  # positions whose lost result was asked for
        while self.position < last and token != self._end_token:
            if until - self.position <= AHEAD // 2 and until < last:
                until = min(last, self.position + AHEAD)
                self._in_step = False
                self._send(Kind.RUN, self._until(until))
            reached = self.position
            match self._receive():
                case None:
                    tries.again()
                    self.requests_repeated += 1
                    asked.clear()
                    self._send(Kind.RUN, self._until(until))
                case Kind.RESULT, (position, sampled, flags) if self.position <= position and flags & Flag.SAMPLED:
                    came[position] = sampled, flags >> STATUS_SHIFT
                    reached = position
                case Kind.STANDING, (following,):
                    reached = following
            for position in range(self.position, reached):
                if position not in came and position not in asked:  # the line lost its result
                    asked.add(position)
                    self.requests_repeated += 1
                    self._send(Kind.GET, struct.pack("<I", position))
            while self.position in came and token != self._end_token:
                sampled, status = came.pop(self.position)
                if status:
                    raise SessionError(f"the board refused token {token} at position {self.position}: {Status(status).name}")
                tries = self._tries()
                self._fed.append(token)
                self.position += 1
                token = sampled
                self._in_step = self.position >= until or token == self._end_token
                yield _reply(token)

    def _until(self, position: int) -> bytes:
        """Return the fields of a RUN."""
        return struct.pack("<IB", position, self._adapter)

    def _ask(
        self, kind: Kind, fields: bytes, answer: Kind, right: Callable[[tuple[int, ...]], bool], most: int = TRIES
    ) -> tuple[int, ...]:
        """Send a request until a reply of the kind ``answer`` has the right fields, and return them.  Drop all other replies."""
        tries = self._tries(most)
        self._send(kind, fields)
        while True:
            match self._receive():
                case None:
                    tries.again()
                    self.requests_repeated += 1
                    self._send(kind, fields)
                case kind_received, values if kind_received == answer and right(values):
                    return values

    def _send(self, kind: Kind, fields: bytes) -> None:
        """Send one request."""
        data = frame(kind, fields)
        self.bytes_sent += len(data)
        self._port.write(data)

    def _receive(self) -> tuple[Kind, tuple[int, ...]] | None:
        """Return the kind and the fields of the next frame, or None if none comes for as long as the host is patient."""
        start = time.monotonic()
        patience = PATIENCE if self._longest is None else max(LEAST_PATIENCE, PATIENT * self._longest) * self._waits
        deadline = start + min(PATIENCE, patience)
        while not self._frames and time.monotonic() < deadline:
            data = self._port.read(max(1, self._port.in_waiting))
            self.bytes_received += len(data)
            for payload in self._deframer.push(data):
                if payload[0] in _FIELDS:
                    kind = Kind(payload[0])
                    self._frames.append((kind, struct.unpack_from(_FIELDS[kind], payload, 1)))
        waited = time.monotonic() - start
        if not self._frames:
            self._waits = min(2 * self._waits, 1 << 10)
            return None
        self._longest, self._waits = max(waited, FORGETS * (self._longest or 0)), 1
        return self._frames.popleft()

    def _tries(self, most: int = 0) -> "_Tries":
        return _Tries((most or TRIES) * self._times * PATIENCE)


_FIELDS = {Kind.IDENTITY: "<Q", Kind.RESULT: "<IIB", Kind.KEPT: "<HI", Kind.STANDING: "<I", Kind.LOADING: "<BBB"}


def _reply(token: int) -> Reply:
    """Return a reply without logits, because a board sends none."""
    return Reply(token, np.zeros(0, np.int32))


class _Tries:
    """The time for which the host goes on asking."""

    def __init__(self, seconds: float):
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def again(self) -> None:
        """Raise LinkError if the time is over."""
        if time.monotonic() >= self._end:
            raise LinkError(f"the board has not answered for {self._seconds:g} s: is it flashed, and is this its port?")
