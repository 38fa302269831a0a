"""How far a build has come, from the lines of its tools: synthesis, placement, refinement, routing."""

import re
import time

PHASES = {"synthesis": 0.0, "packing": 0.35, "creating": 0.35, "placing": 0.4, "refining": 0.55, "routing": 0.7, "pack": 0.99}
"""The share of a build that is done when a phase begins: a rough guide, because designs differ."""

ROUNDS = 30
"""Iterations in which placement and refinement have mostly ended."""


class Progress:
    """The share of a build that is done, and a line with the time that is left.

    ``share`` never falls: an iteration moves it towards the next phase, and routing by the arcs that are left.
    """

    def __init__(self) -> None:
        self.share, self._arcs, self._start = 0.0, 0, time.monotonic()

    def told(self, line: str) -> str:
        """Take a line of a tool, and return it with the time that is left, if that can be said."""
        line_of_phase = line.removeprefix("place and route: ").removeprefix("route: ")
        words = re.match(r"[a-z]+", line_of_phase)
        if words and words[0] in PHASES:
            self.share = max(self.share, self._share(words[0], line_of_phase))
        seconds = time.monotonic() - self._start
        if self.share < 0.1 or seconds < 5:
            return line
        left = seconds * (1 - self.share) / self.share
        return f"{line}, about {max(1, round(left / 60))} min left"

    def _share(self, phase: str, line: str) -> float:
        begin = PHASES[phase]
        end = min((share for share in PHASES.values() if share > begin), default=1.0)
        done = 0.0
        if round_ := re.search(r"iteration (\d+)", line):
            done = min(1.0, int(round_[1]) / ROUNDS)
        elif arcs := re.search(r"([\d,]+) arcs left", line):
            left = int(arcs[1].replace(",", ""))
            self._arcs = max(self._arcs, left)
            done = 1 - left / self._arcs if self._arcs else 1.0
        return begin + (end - begin) * done
