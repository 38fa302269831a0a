"""Runs the proofs, two at a time: python tests/formal/prove.py [WORDS OF A TITLE]

Prints a line for each proof of each shape and for each seeded bug.  A bug is found if the solver's counterexample violates the
claim that the bug names.  The exit code is 1 if a claim is not proven, a cover not reached or a bug not found.  A counterexample
to a claim, other than of a seeded bug, leaves its trace in build/formal.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import kv_cache_progress
import kv_cache_reads
import kv_cache_streams
import kv_cache_writes
import lora_loader

GROUPS = (kv_cache_writes, kv_cache_reads, kv_cache_progress, kv_cache_streams, lora_loader)
TRACES = Path("build/formal")
TOOLS = Path(sys.executable).parent
TIMEOUT = 900
"""Seconds after which a proof is given up; the slowest one takes about a minute on an idle machine."""


def run(harness, mode: str, depth: int, trace: str | None = None) -> tuple[str, set[str]]:
    """(sby's outcome: PASS, FAIL or another word; the claims that fail or the covers that are not reached)."""
    text = harness.rtlil()
    # Counted, because an assertion that is lost on the way to the solver would seem to hold.
    script = f"""
[options]
mode {mode}
depth {depth}
timeout {TIMEOUT}
[engines]
smtbmc yices
[script]
read_rtlil top.il
prep -top top -flatten
chformal -lower
select -assert-count {harness.assertions} t:$assert
select -assert-count {harness.covers} t:$cover
[files]
top.il
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "top.il").write_text(text)
        Path(folder, "run.sby").write_text(script)
        tools = [
            f"--{tool}={TOOLS / f'yowasp-{name}'}"
            for tool, name in (("yosys", "yosys"), ("smtbmc", "yosys-smtbmc"), ("witness", "yosys-witness"))
        ]
        log = subprocess.run(
            [TOOLS / "yowasp-sby", "-j", "1", *tools, "run.sby"],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"},
        ).stdout
        status = re.search(r"DONE \((\w+)", log)
        outcome = status[1] if status else "ERROR"
        failed = set(re.findall(r"(?:failed assertion|unreached cover statement) \S+ at (.*?):0\b", log))
        if outcome == "ERROR":
            failed |= set(re.findall(r"ERROR: (.*)", log))
        for vcd in Path(folder).glob("run/engine_0/trace*.vcd"):
            if trace and outcome != "PASS":
                TRACES.mkdir(parents=True, exist_ok=True)
                shutil.copy(vcd, TRACES / f"{trace}_{vcd.name}")
        return outcome, failed


def prove(proof, shape: str) -> tuple[bool, str]:
    name = f"{proof.claims.__name__}_{shape}"
    outcome, failed = run(proof.harness(shape), proof.mode, proof.depth, name)
    how = {"prove": "proven by induction, depth", "bmc": "holds up to cycle", "cover": "reached, at most in cycle"}
    if outcome == "PASS":
        return True, f"{shape}: {how[proof.mode]} {proof.depth}"
    return False, f"{shape}: {outcome}: {'; '.join(sorted(failed))} (traces: {TRACES}/{name}_*)"


def find(proof, bug) -> tuple[bool, str]:
    outcome, failed = run(proof.broken(bug), "bmc", bug.depth)
    text = f"{bug.shape}, broken: {bug.name}: "
    if outcome == "FAIL" and bug.claim in failed:
        return True, f"{text}found: {bug.claim}"
    return False, f"{text}NOT FOUND up to cycle {bug.depth}: {outcome}: {'; '.join(sorted(failed))}"


def timed(job) -> tuple[bool, str]:
    begun = time.monotonic()
    try:
        good, text = job()
    except Exception as error:  # a proof that cannot be built is reported, and the others run
        good, text = False, f"{type(error).__name__}: {error}"
    return good, f"  {'ok  ' if good else 'FAIL'} {time.monotonic() - begun:5.1f} s  {text}"


def main(words: str) -> int:
    proofs = [proof for group in GROUPS for proof in group.PROOFS if words in proof.title]
    if not proofs:
        print(f"No proof has {words!r} in its title.", file=sys.stderr)
        return 1
    good = []
    with ThreadPoolExecutor(2) as pool:
        results = [
            (
                proof.title,
                pool.map(
                    timed,
                    [*(partial(prove, proof, shape) for shape in proof.shapes), *(partial(find, proof, bug) for bug in proof.bugs)],
                ),
            )
            for proof in proofs
        ]
        for title, lines in results:
            print(title, flush=True)
            for passed, line in lines:
                print(line, flush=True)
                good.append(passed)
    print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
