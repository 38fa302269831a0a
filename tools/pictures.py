"""Draw the pictures of the documentation as SVG, as text: the data path, a layer's time line, the handshakes.

    python tools/pictures.py            write docs/pictures/*.svg
    python tools/pictures.py --check    name the pictures that are out of date; exit 1 if there are any

The time line shows the cycles that `hdl.cycles` predicts for `stories-260k`.  The others are drawn by hand in this script.
"""

import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs/pictures"
sys.path.insert(0, str(ROOT))

from hardwire.source import Source  # noqa: E402
from hdl.config import ChipConfig  # noqa: E402
from hdl.cycles.token import FABRIC, Span, token_cycles  # noqa: E402
from tools.printed import out_of_date, write_or_check  # noqa: E402

INK, GREY, LINE = "#1b2733", "#5b6b7a", "#41576b"
FABRIC_FILL, UNIT_FILL, MEMORY_FILL = "#cfe3f7", "#eef2f5", "#fbe6c8"

COLOURS = {
    "norm": "#e58a3c",
    "mx": "#d9a86c",
    "rope": "#58a868",
    "attention": "#c2423f",
    "swiglu": "#8a7fc0",
    "lora": "#8c6d31",
    "matvec": "#4aa5b5",
}
"""Colours of the rows of the time line.  The fabric's matrices are blue."""


def svg(width: int, height: int, title: str, parts: list[str]) -> str:
    """Make an SVG of parts on a white background."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="13" role="img" aria-label="{escape(title)}">'
    )
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>'
    )
    sheet = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", arrow, sheet, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, anchor: str = "middle", fill: str = INK, size: int = 13) -> str:
    """A line of text; y is the height of its middle."""
    place = f'x="{x:g}" y="{y + 4.5:g}" text-anchor="{anchor}"'
    return f'<text {place} fill="{fill}" font-size="{size}">{escape(words)}</text>'


def box(x: float, y: float, width: float, words: str, fill: str = UNIT_FILL, height: float = 36) -> str:
    """A box with its centre line at y."""
    shape = f'<rect x="{x:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{LINE}"/>'
    return shape + text(x + width / 2, y, words)


def path(*points: tuple[float, float], arrow: bool = True) -> str:
    """A line through points, with an arrow at its end."""
    way = " ".join(f"{x:g},{y:g}" for x, y in points)
    end = ' marker-end="url(#arrow)"' if arrow else ""
    return f'<polyline points="{way}" fill="none" stroke="{LINE}" stroke-width="1.5"{end}/>'


def data_path() -> str:
    """The chip: units as boxes, streams as arrows."""
    top, attend, gate, head = 70, 185, 300, 365
    parts = [
        text(16, top, "token", "start", GREY),
        path((54, top), (80, top)),
        box(80, top, 92, "embedding"),
        path((172, top), (206, top)),
        box(206, top, 84, "residual"),
        path((290, top), (324, top)),
        box(324, top, 88, "RMSNorm"),
        path((412, top), (446, top)),
        box(446, top, 50, "MX"),
        path((496, top), (660, top)),
        box(660, top, 104, "input buffer", FABRIC_FILL),
        path((764, top), (798, top)),
        box(798, top, 104, "matvec", FABRIC_FILL),
        box(798, attend, 104, "weight ROM", MEMORY_FILL),
        path((850, attend - 18), (850, top + 18)),
        text(858, (top + attend) / 2, "4.5 bits a weight", "start", GREY, 11),
        # Results leave the fabric on the right, and come back on the left.
        path((902, top), (960, top), (960, 425), (30, 425), (30, 128), (248, 128), (248, top + 18)),
        text(140, 117, "o, down", fill=GREY),
        text(500, 414, "results of the fabric", fill=GREY),
        path((30, attend), (96, attend)),
        text(62, attend - 12, "k, v, q", fill=GREY),
        box(96, attend, 66, "RoPE"),
        path((162, attend), (192, attend)),
        box(192, attend, 50, "MX"),
        path((242, attend), (292, attend)),
        box(292, attend, 100, "attention"),
        box(292, attend + 56, 100, "KV cache", MEMORY_FILL),
        path((217, attend + 18), (217, attend + 56), (292, attend + 56)),
        text(222, attend + 44, "k, v", "start", GREY, 11),
        path((342, attend + 38), (342, attend + 18)),
        path((392, attend), (446, attend)),
        box(446, attend, 50, "MX"),
        path((496, attend), (580, attend), (580, top), arrow=False),
        path((30, gate), (96, gate)),
        text(62, gate - 12, "gate, up", fill=GREY),
        box(96, gate, 72, "SwiGLU"),
        path((168, gate), (446, gate)),
        box(446, gate, 50, "MX"),
        path((496, gate), (580, gate), (580, attend), arrow=False),
        path((30, head), (96, head)),
        text(62, head - 12, "LM head", fill=GREY),
        box(96, head, 76, "sampler"),
        path((172, head), (214, head)),
        text(220, head, "token", "start", GREY),
    ]
    return svg(990, 445, "The data path of the chip", parts)


def layer() -> str:
    """The time line of a layer: the cycles of each matrix, and the cycles in which each unit works."""
    model = Source.open("stories-260k").format()
    config = ChipConfig.for_model(model, row_lanes=2)
    token = token_cycles(model, config, 128)
    begins, cycles = token.path[0].start, token.path[-1].end - token.path[0].start + 1
    rows: dict[str, list[Span]] = {"spent on": list(token.path), "fabric": []}
    for span in token.work:
        rows.setdefault("fabric" if span.unit in FABRIC else span.unit, []).append(span)
    left, width, step = 90, 860, 30
    scale = width / cycles
    parts = [text(16, 18, "One layer of stories-260k, 64 multipliers, context 128: who works when", "start")]
    bottom = 40 + step * len(rows)
    for cycle in range(0, cycles + 1, 200):
        x = left + cycle * scale
        parts.append(f'<line x1="{x:.1f}" y1="34" x2="{x:.1f}" y2="{bottom}" stroke="#dde3e8"/>')
        parts.append(text(round(x, 1), bottom + 12, f"{cycle:,}", fill=GREY, size=11))
    parts.append(text(left + width, bottom + 30, "cycles since the layer began", "end", GREY, 11))
    for row, (name, spans) in enumerate(rows.items()):
        y = 40 + step * row
        parts.append(text(left - 8, y + 11, name, "end"))
        for index, span in enumerate(spans):
            x, length = left + (span.start - begins) * scale, (span.end - span.start + 1) * scale
            # Spans of attention may overlap, because it works on several groups of heads.  They share the height of the row.
            lane = index % 2 if name == "attention" else 0
            height = 11 if name == "attention" else 22
            fill = "#2f6fb0" if span.unit in FABRIC else COLOURS.get(span.unit, "#8896a3")
            place = f'x="{x:.1f}" y="{y + 11 * lane}" width="{max(length, 0.8):.1f}" height="{height}"'
            parts.append(f'<rect {place} fill="{fill}" stroke="white" stroke-width="0.5"><title>{span.unit}</title></rect>')
            if height == 22 and length > 8 * len(span.unit):
                parts.append(text(round(x + length / 2, 1), y + 11, span.unit, fill="white", size=11))
    return svg(970, bottom + 44, "Time line of one layer", parts)


def waves(title: str, rows: dict[str, str], notes: dict[int, str]) -> str:
    """A timing diagram.  A row has a character a cycle: p clock, 0 1 levels, - idle payload, letters payloads, = the same on.

    ``notes`` are texts under cycles, by the number of the cycle.
    """
    left, step, pitch, height = 100, 58, 34, 20
    n = max(len(row) for row in rows.values())
    bottom = 36 + pitch * len(rows)
    parts = [text(16, 16, title, "start")]
    for cycle in range(n + 1):
        x = left + cycle * step
        parts.append(f'<line x1="{x}" y1="30" x2="{x}" y2="{bottom}" stroke="#dde3e8"/>')
    for index, (name, row) in enumerate(rows.items()):
        y = 40 + pitch * index
        parts.append(text(left - 10, y + height / 2, name, "end"))
        parts.extend(wave(row, left, y, step, height))
    parts.extend(text(left + (cycle + 0.5) * step, bottom + 8, note, fill=GREY, size=11) for cycle, note in notes.items())
    return svg(left + n * step + 20, bottom + 24, title, parts)


def wave(row: str, left: int, y: int, step: int, height: int) -> Iterator[str]:
    """One row of a timing diagram."""
    if row[0] in "p01":
        points = []
        for cycle, level in enumerate(row):
            x = left + cycle * step
            if level == "p":
                points += [(x, y + height), (x, y), (x + step / 2, y), (x + step / 2, y + height), (x + step, y + height)]
            else:
                points += [(x, y + height * (level == "0")), (x + step, y + height * (level == "0"))]
        yield path(*points, arrow=False)
        return
    begins = [cycle for cycle, payload in enumerate(row) if payload != "="]
    for begin, end in zip(begins, [*begins[1:], len(row)], strict=True):
        x, width = left + begin * step + 1, (end - begin) * step - 2
        if row[begin] == "-":
            yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="#eef2f5"/>'
        else:
            yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{FABRIC_FILL}" stroke="{LINE}"/>'
            yield text(x + width / 2, y + height / 2, row[begin])


def stream() -> str:
    """A stream of four beats.  The second one waits for ready."""
    rows = {"clk": "pppppppp", "valid": "01111010", "ready": "11011111", "payload": "-AB=C-D-", "last": "00001010"}
    notes = {1: "A moves", 2: "B waits", 3: "B moves", 4: "C moves", 6: "D moves"}
    return waves("A stream: a beat moves in a cycle in which valid and ready are both 1", rows, notes)


def token() -> str:
    """A token at the ports of the chip."""
    rows = {
        "clk": "pppppppppp",
        "i.valid": "0100000000",
        "i.ready": "1100000001",
        "i.payload": "-C--------",
        "logits_valid": "0000110000",
        "o.valid": "0000000110",
        "o.ready": "0000000010",
        "o.payload": "-------R=-",
    }
    notes = {1: "taken", 4: "logits", 7: "waits", 8: "taken", 9: "idle again"}
    return waves("A token at the ports of the chip: one command in, one reply out (not to scale)", rows, notes)


PICTURES = {"data-path": data_path, "layer": layer, "stream": stream, "token": token}


def differing() -> dict[Path, str]:
    """The pictures that are out of date, with their new contents."""
    return out_of_date({FOLDER / f"{name}.svg": draw() for name, draw in PICTURES.items()})


if __name__ == "__main__":
    sys.exit(write_or_check(__file__, differing(), sys.argv[1:]))
