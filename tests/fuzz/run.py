"""Reads changed files of every kind, and prints a table: python -m tests.fuzz.run --seed 1

No case may end in another exception than HardwireError, take 10 seconds or 2 GB, kill its process, write to the terminal, or let a
number pass that is not finite.  Each fault is printed with the command that runs the case again:

    python -m tests.fuzz.run --seed 1 --case 4711
"""

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.kinds import KINDS
from tests.fuzz.pool import ACCEPTED, REFUSED, Result, run, run_case

MOST_SHOWN = 40


def table(results: Iterable[Result]) -> str:
    """Count the results by kind."""
    of_kind: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        of_kind[result.kind].append(result)
    head = f"{'kind':<18}{'cases':>8}{'first check':>13}{'accepted':>10}{'refused':>9}{'faults':>8}{'slowest':>10}{'peak':>10}"
    lines = [head]
    for kind, found in of_kind.items():
        ends = Counter(result.end for result in found if result.fault is None)
        lines.append(
            f"{kind:<18}{len(found):>8,}{sum(r.first for r in found):>13,}{ends[ACCEPTED]:>10,}{ends[REFUSED]:>9,}"
            f"{sum(r.fault is not None for r in found):>8,}{max(r.seconds for r in found):>8.2f} s"
            f"{max(r.peak_bytes for r in found) / 2**20:>7.0f} MB"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases of a seed, or one of them.  Returns the exit code: 1 if there is a fault or a kind has too few cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=60_000, help="how many, over all kinds")
    parser.add_argument("--seconds", type=float, default=600.0, help="no case begins after this time")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-least", type=int, default=2000, help="cases of each kind that pass the first check")
    parser.add_argument("--kind", choices=list(KINDS), help="only this kind")
    parser.add_argument("--case", type=int, help="run this case alone, here, and keep its files")
    options = parser.parse_args(arguments)
    if options.case is not None:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-case-"))
        result = run_case(KINDS, options.seed, options.case, folder)
        print(f"{result.kind} in {folder}: {result.fault or result.end}\n{result.detail}")
        return int(result.fault is not None)
    cases = [case for case in range(options.cases) if options.kind in (None, list(KINDS)[case % len(KINDS)])]
    results, faults = [], Counter()
    start = time.monotonic()
    for result in run(KINDS, options.seed, cases, options.workers, start + options.seconds):
        results.append(result)
        if result.fault is not None:
            # One line for each place; the numbers in a message differ from case to case.
            place = result.kind, result.fault[:60]
            faults[place] += 1
            if faults[place] == 1 and len(faults) <= MOST_SHOWN:
                print(f"FAULT {result.kind}: {result.fault}\n  python -m tests.fuzz.run --seed {options.seed} --case {result.case}")
    print(table(results))
    print(f"{len(results):,} cases in {time.monotonic() - start:.0f} s, seed {options.seed}, {sum(faults.values())} faults")
    passed = Counter(result.kind for result in results if result.first)
    few = [kind for kind in KINDS if options.kind in (None, kind) and passed[kind] < options.at_least]
    if few:
        print(f"fewer than {options.at_least} cases pass the first check of {', '.join(few)}")
    return int(bool(faults or few))


if __name__ == "__main__":
    sys.exit(main())
