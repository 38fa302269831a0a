"""Draw where the cycles of a token go: a bar for each context, and the time line of one layer."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from hardwire.folders import write_whole
from hardwire.measure import context_lengths
from hdl.cycles.predict import predict_token
from hdl.cycles.token import FABRIC, UNITS, Span, TokenCycles
from weights_to_rom.model_format import ModelFormat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hdl.config import ChipConfig

COLOURS = {
    "qkv": "#08306b",
    "o": "#2171b5",
    "gate_up": "#4292c6",
    "down": "#6baed6",
    "head": "#9ecae1",
    "matvec": "#41b6c4",
    "norm": "#fd8d3c",
    "mx": "#fdd0a2",
    "rope": "#74c476",
    "attention": "#cb181d",
    "swiglu": "#9e9ac8",
    "lora": "#8c6d31",
    "embedding": "#969696",
    "sampler": "#bdbdbd",
    "control": "#d9d9d9",
}


def colour(unit: str) -> str:
    """Return the colour of a unit as #rrggbb: that of COLOURS, and for any other unit one that its name alone decides."""
    return COLOURS.get(unit) or f"#{0x404040 + (crc32(unit.encode()) & 0x7F7F7F):06x}"


def draw(model: ModelFormat, config: "ChipConfig", context: int, measured: dict, title: str, png: Path) -> None:
    """Draw cycles by unit over contexts, and the time line of one layer.  The file is written whole or not at all.

    Parameters
    ----------
    model : ModelFormat   shapes of the model
    config : ChipConfig   lanes of the chip
    context : int         positions that the token of the time line attends to, itself included
    measured : dict       "measured" of a report, drawn as marks; it may be empty
    title : str           name of the chip
    png : Path            the file

    Raises OSError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: where the cycles of a token go, predicted")
    bars, line = figure.subplots(1, 2, width_ratios=[2, 3])
    _draw_bars(bars, {n: predict_token(model, config, n) for n in context_lengths(config.max_context)}, measured)
    _draw_layer(line, predict_token(model, config, context), context)
    figure.legend(
        *bars.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(UNITS) + 1,
        fontsize="small",
        handlelength=1,
        columnspacing=1,
    )
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    write_whole(png, drawn.getvalue())


def _draw_bars(axes: "Axes", tokens: dict[int, TokenCycles], measured: dict) -> None:
    """Draw a bar for each context; the fabric's cycles are at the bottom."""
    contexts = [str(n) for n in tokens]
    below = [0] * len(contexts)
    for unit in UNITS:
        cycles = [token.by_unit[unit] for token in tokens.values()]
        if any(cycles):
            axes.bar(contexts, cycles, bottom=below, color=colour(unit), label=unit)
            below = [b + c for b, c in zip(below, cycles, strict=True)]
    if known := {n: measured["decode"][n]["cycles"] for n in contexts if n in measured.get("decode", {})}:
        axes.plot(list(known), list(known.values()), "k_", markersize=22, markeredgewidth=1.5, label="measured")
    axes.set(xlabel="positions in the context", ylabel="cycles, with the LM head")
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _draw_layer(axes: "Axes", token: TokenCycles, context: int) -> None:
    """Draw a row with the unit that each cycle is spent on, and for each unit a row with the cycles in which it works."""
    begins, cycles = token.path[0].start, token.path[-1].end - token.path[0].start + 1
    rows: dict[str, list[Span]] = {"spent on": list(token.path), "fabric": []}
    for span in token.work:
        rows.setdefault("fabric" if span.unit in FABRIC else span.unit, []).append(span)
    for row, spans in enumerate(rows.values()):
        for span in spans:
            length = span.end - span.start + 1
            left = span.start - begins
            axes.barh(row, length, left=left, color=colour(span.unit), edgecolor="white", linewidth=0.5)
            if spans is rows["fabric"] and length > 0.012 * cycles * len(span.unit):
                axes.text(left + length / 2, row, span.unit, ha="center", va="center", color="white", fontsize="small")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.margins(x=0)
    axes.set(title=f"one layer at context {context}: who works when", xlabel="cycles since the layer began")
    axes.xaxis.set_major_formatter("{x:,.0f}")
