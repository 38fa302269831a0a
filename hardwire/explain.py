"""Where the cycles of a token go: predicted from shapes, beside what was measured, as figures and as a picture."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardwire.compiled import CompiledError, CompiledModel, is_output
from hardwire.measure import context_lengths
from hardwire.source import Source
from hdl.cycles.token import FABRIC, UNITS, Span, TokenCycles, token_cycles
from weights_to_rom.model_format import ModelFormat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hdl.config import ChipConfig

CONTEXT = 128
"""The context that is looked at, where the chip holds as much."""

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


def explain(name: str, context: int | None, png: Path | None, *, wide_bits: int | None = None, **lanes: Any) -> dict:
    """Figures for a compiled model, or for the chip that ``compile`` would make of a checkpoint with these ``lanes``.

    The picture goes to ``png``, by default OUT/explain.png; of a checkpoint there is none without ``png``.
    Raises CompiledError, CheckpointError, and ValueError for lanes or a context that do not fit.
    """
    from hdl.config import ChipConfig

    given = {lane: value for lane, value in lanes.items() if value is not None}
    options = given if wide_bits is None else {"wide_bits": wide_bits} | given
    measured: dict = {}
    if is_output(Path(name)):
        if options:
            option = "--" + next(iter(options)).replace("_", "-")
            raise CompiledError(f"{name}: is a chip with lanes of its own: leave {option} out, or name a checkpoint")
        output = CompiledModel(name)
        model, config, measured = output.format, output.config, output.report["measured"]
        png = png or Path(name) / "explain.png"
    else:
        model = Source.open(name).format(wide_bits or 32)
        config = ChipConfig.for_model(model, **given)
    context = context or min(CONTEXT, config.max_context)
    if not 1 <= context <= config.max_context:
        raise CompiledError(f"{name}: a context is 1 to {config.max_context} positions there, not {context}")
    if png is not None and (png.is_dir() or not png.parent.is_dir()):
        raise CompiledError(f"{png}: {'is a folder' if png.is_dir() else 'its folder is not there'}: name a file for the picture")
    figures = figures_of(model, config, context, measured)
    if png is not None:
        draw(model, config, context, measured, f"{Path(name).name}, {config.row_lanes * config.block_lanes} multipliers", png)
    return figures | {"picture": png and str(png)}


def figures_of(model: ModelFormat, config: "ChipConfig", context: int, measured: dict) -> dict:
    """Predicted cycles by unit at ``context``, totals beside those in ``measured``, and what other lanes would save."""
    lengths = sorted({*context_lengths(config.max_context), context})
    tokens = {sample: token_cycles(model, config, context, sample=sample) for sample in (True, False)}
    decode = tokens[True].by_unit
    waiting = {unit: cycles for unit, cycles in decode.items() if unit not in FABRIC}
    return {
        "context": context,
        "lanes": config.as_dict(),
        "predicted": {
            kind: {"cycles": tokens[sample].total, "by_unit": tokens[sample].by_unit}
            for kind, sample in (("decode", True), ("prefill", False))
        },
        "fabric": round(sum(decode[unit] for unit in FABRIC) / tokens[True].total, 4),
        "waits_most_for": max(waiting, key=lambda unit: waiting[unit]),
        "contexts": {
            str(n): {kind: _compared(model, config, n, kind, measured) for kind in ("prefill", "decode")} for n in lengths
        },
        "instead": alternatives(model, config, context),
    }


def _compared(model: ModelFormat, config: "ChipConfig", context: int, kind: str, measured: dict) -> dict:
    predicted = token_cycles(model, config, context, sample=kind == "decode").total
    cycles = measured.get(kind, {}).get(str(context))
    if kind == "decode" and cycles is not None:
        cycles = cycles["cycles"]
    return {
        "predicted": predicted,
        "measured": cycles,
        "difference": None if cycles is None else round(predicted / cycles - 1, 4),
    }


def alternatives(model: ModelFormat, config: "ChipConfig", context: int) -> list[dict]:
    """Faster chips with more lanes of one kind: decode cycles, fewest first."""
    now = token_cycles(model, config, context).total
    found = []
    for lane in ("row_lanes", "block_lanes", "vector_lanes", "attention_heads", "attention_lanes"):
        other = _with_more(model, config, lane)
        if other is not None and (cycles := token_cycles(model, other, context).total) < now:
            value, more = getattr(other, lane), round(cycles / now - 1, 4)
            found.append({"lane": lane, "value": value, "instead_of": getattr(config, lane), "cycles": cycles, "more": more})
    return sorted(found, key=lambda chip: chip["cycles"])


def _with_more(model: ModelFormat, config: "ChipConfig", lane: str) -> "ChipConfig | None":
    """Twice as many lanes, or the next number of attention heads that fits; None if the model sets the limit."""
    value = getattr(config, lane)
    for larger in range(value + 1, model.n_heads + 1) if lane == "attention_heads" else [2 * value]:
        try:
            return replace(config, **{lane: larger}).checked(model)
        except ValueError:
            continue
    return None


def draw(model: ModelFormat, config: "ChipConfig", context: int, measured: dict, title: str, png: Path) -> None:
    """The picture: cycles by unit over contexts, and one layer's time line.  Written whole or not at all.  Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: where the cycles of a token go, predicted")
    bars, line = figure.subplots(1, 2, width_ratios=[2, 3])
    _draw_bars(bars, {n: token_cycles(model, config, n) for n in context_lengths(config.max_context)}, measured)
    _draw_layer(line, token_cycles(model, config, context), context)
    figure.legend(
        *bars.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(UNITS) + 1,
        fontsize="small",
        handlelength=1,
        columnspacing=1,
    )
    temporary = png.with_name(png.name + ".part")
    try:
        figure.savefig(temporary, format="png", dpi=120)
        temporary.replace(png)
    finally:
        temporary.unlink(missing_ok=True)


def _draw_bars(axes: "Axes", tokens: dict[int, TokenCycles], measured: dict) -> None:
    """A bar for each context, from the fabric's words up."""
    contexts = [str(n) for n in tokens]
    below = [0] * len(contexts)
    for unit in UNITS:
        cycles = [token.by_unit[unit] for token in tokens.values()]
        if any(cycles):
            axes.bar(contexts, cycles, bottom=below, color=COLOURS[unit], label=unit)
            below = [b + c for b, c in zip(below, cycles, strict=True)]
    if known := {n: measured["decode"][n]["cycles"] for n in contexts if n in measured.get("decode", {})}:
        axes.plot(list(known), list(known.values()), "k_", markersize=22, markeredgewidth=1.5, label="measured")
    axes.set(xlabel="positions in the context", ylabel="cycles, with the LM head")
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _draw_layer(axes: "Axes", token: TokenCycles, context: int) -> None:
    """A row for what each cycle is spent on, and one for each unit when it works."""
    begins, cycles = token.path[0].start, token.path[-1].end - token.path[0].start + 1
    rows: dict[str, list[Span]] = {"spent on": list(token.path), "fabric": []}
    for span in token.work:
        rows.setdefault("fabric" if span.unit in FABRIC else span.unit, []).append(span)
    for row, spans in enumerate(rows.values()):
        for span in spans:
            length = span.end - span.start + 1
            left = span.start - begins
            axes.barh(row, length, left=left, color=COLOURS[span.unit], edgecolor="white", linewidth=0.5)
            if spans is rows["fabric"] and length > 0.012 * cycles * len(span.unit):
                axes.text(left + length / 2, row, span.unit, ha="center", va="center", color="white", fontsize="small")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.margins(x=0)
    axes.set(title=f"one layer at context {context}: who works when", xlabel="cycles since the layer began")
    axes.xaxis.set_major_formatter("{x:,.0f}")
