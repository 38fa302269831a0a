"""Workers that are forked once and kept: each has a bound of memory, each case one of time, and a worker's death is a finding."""

import faulthandler
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.fuzz.kind import Kind, Silent
from weights_to_rom.errors import HardwireError

CASE_SECONDS = 10.0
WORKER_BYTES = 2 << 30

ACCEPTED, REFUSED = "accepted", "refused"


@dataclass(frozen=True)
class Result:
    """The end of one case.

    ``fault`` is None, or the fault in one line; ``detail`` is its traceback.  ``first`` says whether the file passed the first
    check, and ``end`` is ``ACCEPTED`` or ``REFUSED``.
    """

    case: int
    kind: str
    seconds: float
    first: bool = False
    end: str = ""
    fault: str | None = None
    detail: str = ""
    peak_bytes: int = 0


def run_case(kinds: Mapping[str, Kind], seed: int, case: int, folder: Path) -> Result:
    """Make the files of one case in an empty folder, and read them.  Cases take turns through the kinds."""
    name = list(kinds)[case % len(kinds)]
    kind = kinds[name]
    nonfinite = kind.make(random.Random(f"{seed} {case}"), folder)
    start = time.monotonic()
    first, end, fault, detail = True, ACCEPTED, None, ""
    try:
        kind.first(folder)
    except HardwireError:
        first = False
    except Exception as error:
        fault, detail = _fault("first check", error), traceback.format_exc()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind.use(folder)
        if nonfinite:
            fault = "accepted with a number that is not finite"
    except HardwireError as error:
        end = REFUSED
        text = str(error)
        if not text or not all(c.isprintable() for c in text):
            fault = f"a message that is not one printable line: {text!r}"
    except Silent as error:
        fault = f"accepted with a number that is not finite: {error}"
    except BaseException as error:  # also a panic of a library in Rust, which is no Exception
        fault, detail = _fault("", error), traceback.format_exc()
    return Result(case, name, time.monotonic() - start, first, end, fault, detail)


def _fault(where: str, error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/tests/fuzz/" not in f.filename] or [None]
    last = frames[-1]
    place = f" at {Path(last.filename).name}:{last.lineno}" if last else ""
    return f"{where}{': ' if where else ''}{type(error).__name__}{place}: {' '.join(str(error).split())[:160]}"


def _work(kinds: Mapping[str, Kind], seed: int, connection: Connection, scratch: Path) -> None:
    """The life of a worker: a case's number comes in, its result goes out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Libraries that write to the terminal themselves would spoil the one line; the file shows whether one did.
    said = (scratch / f"said-{os.getpid()}").open("w+b")
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.disable()
    folder = scratch / f"case-{os.getpid()}"
    kept = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (kept + WORKER_BYTES, kept + WORKER_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (case := connection.recv()) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        before = said.seek(0, os.SEEK_END)
        result = run_case(kinds, seed, case, folder)
        if (after := said.seek(0, os.SEEK_END)) > before and result.fault is None:
            said.seek(before)
            words = " ".join(said.read(after - before).decode(errors="replace").split())[:160]
            result = Result(**{**result.__dict__, "fault": f"a library wrote to the terminal: {words}"})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send(Result(**{**result.__dict__, "peak_bytes": peak}))


class _Worker:
    def __init__(self, kinds: Mapping[str, Kind], seed: int, scratch: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, inner = context.Pipe()
        self.process = context.Process(target=_work, args=(kinds, seed, inner, scratch), daemon=True)
        self.process.start()
        inner.close()
        self.case: int | None = None
        self.started = 0.0

    def give(self, case: int) -> None:
        self.case, self.started = case, time.monotonic()
        self.connection.send(case)

    def end(self) -> str:
        """End the worker, and say how it ended."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        return f"exit code {self.process.exitcode}"


def _case_seconds() -> float:
    """The time of a case.  On a busy machine everything takes longer."""
    return CASE_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def run(kinds: Mapping[str, Kind], seed: int, cases: Iterable[int], n_workers: int, stop: float = float("inf")) -> Iterator[Result]:
    """Run cases on ``n_workers``, and yield their results as they come; no case begins after ``stop``, a time of the clock.

    A worker that is silent for ``CASE_SECONDS`` is killed, one that died is replaced, and both are faults of the case.
    """
    names, waiting = list(kinds), iter(cases)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        scratch = Path(name)
        workers = [_Worker(kinds, seed, scratch) for _ in range(n_workers)]

        def feed(worker: _Worker) -> None:
            case = next(waiting, None) if time.monotonic() < stop else None
            if case is not None:
                worker.give(case)

        try:
            for worker in workers:
                feed(worker)
            while busy := [worker for worker in workers if worker.case is not None]:
                ready = wait([worker.connection for worker in busy], timeout=0.2)
                for worker in busy:
                    case, took = worker.case, time.monotonic() - worker.started
                    assert case is not None
                    fault = None
                    if worker.connection in ready:
                        try:
                            yield worker.connection.recv()
                        except (EOFError, ConnectionResetError):
                            worker.process.join(5)
                            fault = f"the worker died ({worker.process.exitcode})"
                    elif took > _case_seconds():
                        fault = f"no end after {CASE_SECONDS} seconds"
                    else:
                        continue
                    if fault is not None:
                        worker.end()
                        yield Result(case, names[case % len(names)], took, fault=fault)
                        place = workers.index(worker)
                        worker = workers[place] = _Worker(kinds, seed, scratch)
                    worker.case = None
                    feed(worker)
        finally:
            for worker in workers:
                worker.end()
