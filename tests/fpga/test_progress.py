"""The share of a build that is done, from the lines of its tools."""

import fpga.progress
from fpga.progress import Progress

LINES = (
    "synthesis: pass PROC",
    "place and route: packing constants",
    "place and route: placing: iteration 3, wires 80,000",
    "place and route: placing: iteration 30, wires 40,000",
    "place and route: refining: iteration 15, wires 39,000",
    "place and route: routing: 10,000 arcs left",
    "place and route: routing: 2,500 arcs left",
    "place and route: routing: 4,000 arcs left",
    "pack",
)


def test_the_share_grows_and_says_what_is_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(fpga.progress.time, "monotonic", lambda: now[0])
    progress, shares, said = Progress(), [], []
    for line in LINES:
        now[0] += 60
        said.append(progress.told(line))
        shares.append(round(progress.share, 4))
    assert shares == [0.0, 0.35, 0.415, 0.55, 0.625, 0.7, 0.9175, 0.9175, 0.99]
    assert said[0] == LINES[0] and said[1] == f"{LINES[1]}, about 4 min left" and said[5].endswith("arcs left, about 3 min left")


def test_lines_of_the_other_flow():
    progress = Progress()
    progress.told("route: routing: 100 arcs left")
    progress.told("route: routing: 50 arcs left")
    assert round(progress.share, 3) == 0.845
    progress.told("something else")
    assert round(progress.share, 3) == 0.845
