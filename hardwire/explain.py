"""Where the cycles of a token go: predicted from shapes, and compared with measured cycles."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardwire.compiled import CompiledError, CompiledModel, is_output
from hardwire.folders import place_for
from hardwire.measure import context_lengths
from hardwire.picture import draw
from hardwire.source import Source
from hdl.cycles.predict import predict_token
from hdl.cycles.token import FABRIC
from weights_to_rom.model_format import ModelFormat

if TYPE_CHECKING:
    from hdl.config import ChipConfig

CONTEXT = 128
"""The context by default; a chip with fewer positions is explained at its longest."""


def explain(name: str, context: int | None, png: Path | None, *, wide_bits: int | None = None, **lanes: Any) -> dict:
    """Return figures for a compiled model, or for the chip that ``compile`` would make of a checkpoint.

    Parameters
    ----------
    name : str        a compiled model, or a checkpoint
    context : int     positions that the token attends to, itself included; by default CONTEXT, or all that the chip holds
    png : Path        file for the picture; by default OUT/explain.png for a compiled model (in the cache, if OUT is read-only),
                      and none for a checkpoint
    wide_bits : int   width of the residual stream of a checkpoint's chip: 32 or 24
    lanes             fields of ChipConfig, of a checkpoint's chip; ``ChipConfig.for_model`` fills in those that are None

    Raises
    ------
    CompiledError     for a damaged compiled model, for ``lanes`` given with one, and for a context or file that cannot be used
    CheckpointError   for a checkpoint that cannot be read
    ConfigError       for ``lanes`` that do not fit the model
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
        png = png or place_for(output.folder, f"explain-{output.identity:016x}") / "explain.png"
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
    """Return predicted cycles by unit at ``context``, totals with their ``measured`` ones, and the gain of more lanes."""
    lengths = sorted({*context_lengths(config.max_context), context})
    tokens = {sample: predict_token(model, config, context, sample=sample) for sample in (True, False)}
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
    predicted = predict_token(model, config, context, sample=kind == "decode").total
    cycles = measured.get(kind, {}).get(str(context))
    if kind == "decode" and cycles is not None:
        cycles = cycles["cycles"]
    return {
        "predicted": predicted,
        "measured": cycles,
        "difference": None if cycles is None else round(predicted / cycles - 1, 4),
    }


def alternatives(model: ModelFormat, config: "ChipConfig", context: int) -> list[dict]:
    """Return faster chips with more lanes of one kind and their decode cycles, fewest first.

    A chip with a shared engine gets an empty list, because its lanes are fixed.
    """
    if config.shared:
        return []
    now = predict_token(model, config, context).total
    found = []
    for lane in ("row_lanes", "block_lanes", "vector_lanes", "attention_heads", "attention_lanes"):
        other = _with_more(model, config, lane)
        if other is not None and (cycles := predict_token(model, other, context).total) < now:
            value, more = getattr(other, lane), round(cycles / now - 1, 4)
            found.append({"lane": lane, "value": value, "instead_of": getattr(config, lane), "cycles": cycles, "more": more})
    return sorted(found, key=lambda chip: chip["cycles"])


def _with_more(model: ModelFormat, config: "ChipConfig", lane: str) -> "ChipConfig | None":
    """Return a chip with twice as many lanes, or with the next number of attention heads that fits; None if none fits."""
    value = getattr(config, lane)
    for larger in range(value + 1, model.n_heads + 1) if lane == "attention_heads" else [2 * value]:
        try:
            return replace(config, **{lane: larger}).checked(model)
        except ValueError:
            continue
    return None
