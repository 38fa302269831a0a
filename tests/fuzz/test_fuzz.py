"""A short run of the changed files, and the faults that a run must find."""

import os
import signal
import sys
import time
from functools import partial

import pytest

from tests.fuzz import pool
from tests.fuzz.kind import Kind
from tests.fuzz.kinds import KINDS
from tests.fuzz.pool import ACCEPTED, REFUSED, run, run_case
from tests.fuzz.run import main, table
from weights_to_rom.errors import HardwireError

SEED = 20_260_101
OF_EACH_KIND = 40


@pytest.fixture(scope="module")
def results():
    return list(run(KINDS, SEED, range(OF_EACH_KIND * len(KINDS)), 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_run(results, kind):
    found = [result for result in results if result.kind == kind]
    assert len(found) == OF_EACH_KIND
    assert [(result.case, result.fault) for result in found if result.fault] == []
    assert sum(result.first for result in found) > OF_EACH_KIND // 3
    assert {result.end for result in found} == {ACCEPTED, REFUSED}


def test_a_case_is_the_same_again(tmp_path):
    for case in range(len(KINDS)):
        made = []
        for name in ("one", "two"):
            folder = tmp_path / f"{case}-{name}"
            folder.mkdir()
            run_case(KINDS, SEED, case, folder)
            made.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert made[0] == made[1] and made[0]


def fails(what, folder):
    """Fail in the way that a test asks for."""
    if what == "traceback":
        raise KeyError("x")
    if what == "hang":
        time.sleep(60)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "memory":
        bytearray(3 << 30)
    if what == "noise":
        print("a library complains", file=sys.stderr, flush=True)
    if what == "refused":
        raise HardwireError("no")


FAULTS = {
    "traceback": "KeyError: 'x'",
    "hang": "no end after 0.5 seconds",
    "crash": f"the worker died ({-signal.SIGSEGV})",
    "memory": "MemoryError: ",
    "noise": "a library wrote to the terminal: a library complains",
    "silent": "accepted with a number that is not finite",
    "refused": None,
    "fine": None,
}


def test_every_fault_is_found(monkeypatch):
    monkeypatch.setattr(pool, "CASE_SECONDS", 0.5)
    kinds = {
        what: Kind(lambda rng, folder, what=what: what == "silent", lambda folder: None, partial(fails, what)) for what in FAULTS
    }
    found = sorted(run(kinds, 1, range(2 * len(FAULTS)), 2), key=lambda result: result.case)
    assert [result.case for result in found] == list(range(2 * len(FAULTS)))
    assert [result.fault for result in found] == [*FAULTS.values(), *FAULTS.values()]
    assert [result.end for result in found if result.fault is None] == [REFUSED, ACCEPTED] * 2
    for line, what in zip(table(found).splitlines()[1:], FAULTS, strict=True):
        assert line.split()[:2] == [what, "2"] and line.split()[5] == ("0" if FAULTS[what] is None else "2")


def test_the_command(monkeypatch, capsys, tmp_path):
    for name in list(KINDS)[2:]:
        monkeypatch.delitem(KINDS, name)
    assert main(["--cases", "6", "--workers", "1", "--at-least", "0"]) == 0
    assert "6 cases in " in capsys.readouterr().out
    assert main(["--cases", "6", "--workers", "1", "--at-least", "4"]) == 1
    assert "fewer than 4 cases pass the first check of gguf, safetensors" in capsys.readouterr().out
    monkeypatch.setitem(KINDS, "gguf", Kind(lambda rng, folder: False, lambda folder: None, partial(fails, "traceback")))
    assert main(["--cases", "2", "--workers", "1", "--at-least", "0"]) == 1
    assert "FAULT gguf: KeyError: 'x'\n  python -m tests.fuzz.run --seed 1 --case 0\n" in capsys.readouterr().out
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert main(["--case", "0"]) == 1
    assert "Traceback" in capsys.readouterr().out
