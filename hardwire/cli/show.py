"""Print figures as JSON, or as lines and tables for a person."""

import json
from collections.abc import Iterable
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from hardwire.cli.console import say, write
from hardwire.cli.vocabulary import SCHEMA

Line = str | Table
"""A line of text, or a table."""


def show(figures: dict, as_json: bool, lines: Iterable[Line] = ()) -> None:
    """Print figures as JSON on stdout, with the version of their schema, or else the lines."""
    if as_json:
        write(json.dumps({"schema": SCHEMA} | figures, indent=1) + "\n")
        return
    for line in lines:
        write(line + "\n" if isinstance(line, str) else "".join(f"{row}\n" for row in _rows(line)))


def next_step(as_json: bool, command: str) -> None:
    """Tell a person on stderr how to go on."""
    if not as_json:
        say(f"next: {command}")


def columns(*headings: str, folded: Iterable[str] = ()) -> Table:
    """Return an empty table.  On a terminal that is too narrow, only the columns that ``folded`` names are broken into lines."""
    table = Table(box=None)
    for heading in headings:
        table.add_column(heading, no_wrap=heading not in folded, overflow="fold")
    return table


def _rows(table: Table) -> list[str]:
    """Return the lines of a table.  No cell is ever shortened; without a terminal no cell is broken into lines, either."""
    console = Console(highlight=False)
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(cell)) for cell in [column.header, *column.cells])
    wide = Measurement.get(console, console.options.update(width=1 << 14), table)
    console.width = max(wide.minimum, min(wide.maximum, console.width)) if console.is_terminal else wide.maximum
    with console.capture() as captured:
        console.print(table)
    return [row.rstrip() for row in captured.get().splitlines()]


def report_lines(report: dict, out: Path) -> list[Line]:
    """Return the lines of ``compile`` and ``respin``: sizes, errors of quantisation, and cycles by context."""
    derived, measured = report["derived"], report["measured"]
    lines: list[Line] = [
        f"{out}: {derived['parameters']:,} parameters, {derived['multipliers']} multipliers",
        f"{derived['rom_bits']:,} bits of ROM, {derived['bits_per_weight']} for each weight",
        f"SRAM: {derived['kv_sram_bits']:,} bits of KV cache, {derived['lora_sram_bits']:,} of LoRA adapters",
    ]
    if name := measured["worst_block_error_in"]:
        error = f"{measured['worst_block_error']:.1%}"
        lines.append(f"worst block error: {error} of its row's rms weight, in {name}")
    if kept := measured["blocks_kept"]:
        lines.append(f"{kept:,} blocks keep the file's codes, {measured['blocks_requantised']:,} do not")
    lines += [f"note: {note}" for note in report["notes"]]
    if "decode" in measured:
        rate = report["projected"]["decode_tokens_per_second"]
        table = columns(
            "context",
            "prefill cycles",
            "decode cycles",
            "fabric busy",
            "within matrices",
            f"tokens/s at {report['projected']['clock_mhz']:g} MHz (projected)",
        )
        for context, at in measured["decode"].items():
            table.add_row(
                context,
                f"{measured['prefill'][context]:,}",
                f"{at['cycles']:,}",
                f"{at['busy']:.1%}",
                f"{at['busy_within_matrices']:.1%}",
                f"{rate[context]:,}",
            )
        lines += [table, f"simulated at {measured['simulated_cycles_per_second']:,} cycles/s"]
    return lines


def run_lines(figures: dict) -> list[str]:
    """Return the lines of ``run``: the comparison if there was one, and speeds."""
    measured = figures["measured"]
    lines = ["the context is full"] if figures["stopped_by"] == "context full" else []
    if "check" in figures:
        lines += difference_lines(figures["check"])
    n_tokens, rate = len(figures["tokens"]), measured["tokens_per_second"]
    if figures["backend"] != "rtl":
        return [*lines, f"{rate} tokens/s in {figures['backend']}, {n_tokens} tokens"]
    projected = figures["projected"]
    speed = f"{measured['simulated_cycles_per_second']:,} cycles/s"
    return [
        *lines,
        cycles_line(measured),
        f"{projected['tokens_per_second']:,} tokens/s at {projected['clock_mhz']:g} MHz (projected)",
        f"{rate} simulated tokens/s ({n_tokens} tokens, {speed})",
    ]


def adapter_lines(figures: dict) -> list[Line]:
    """Return the lines of ``lora pack``."""
    rank = f"rank {figures['rank']} of {figures['chip_rank']}"
    error = f"{figures['worst_block_error']:.1%}"
    return [
        f"{figures['folder']}: adapter {figures['slot']}, {rank}, on {', '.join(figures['targets'])}",
        f"{figures['sram_bits']:,} bits of SRAM, {figures['frame_words']:,} words to load it",
        f"worst block error: {error} of its row's rms weight, in {figures['worst_block_error_in']}",
    ]


def cost_lines(figures: dict) -> list[Line]:
    """Return the lines of ``lora cost``: cycles of a token by adapter."""
    table = columns("adapter", f"cycles at context {figures['context']}", "more")
    for name, cycles in figures["cycles"].items():
        more = figures["more"].get(name)
        table.add_row(name.replace("q_v", "q, v"), f"{cycles:,}", "" if more is None else f"{more:.2%}")
    lines: list[Line] = [
        f"rank {figures['chip_rank']}: {figures['multipliers']} multipliers and {figures['lora_multipliers']} for LoRA",
        f"{figures['sram_bits']:,} bits of SRAM for adapters",
        table,
    ]
    if (switching := figures["switching_cycles"]) is not None:
        lines.append(f"another adapter than the sequence before: {switching} cycles")
    return lines


def explain_lines(figures: dict) -> list[Line]:
    """Return the lines of ``explain``: cycles by unit, cycles by context, and the gain of more lanes."""
    decode, prefill = (figures["predicted"][kind] for kind in ("decode", "prefill"))
    units = columns("unit", "cycles of a token", "share", "without LM head", "share", "kind")
    for unit, cycles in decode["by_unit"].items():
        if cycles:
            units.add_row(unit, *_part(cycles, decode), *_part(prefill["by_unit"][unit], prefill), "predicted")
    units.add_row("all", *_part(decode["cycles"], decode), *_part(prefill["cycles"], prefill), "predicted")
    kinds = [f"{kind} {what}" for kind in ("decode", "prefill") for what in ("predicted", "measured", "difference")]
    contexts = columns("context", *kinds)
    for context, at in figures["contexts"].items():
        row = []
        for kind in ("decode", "prefill"):
            known, difference = at[kind]["measured"], at[kind]["difference"]
            row.append(f"{at[kind]['predicted']:,}")
            row += ["", ""] if known is None else [f"{known:,}", f"{difference:+.2%}"]
        contexts.add_row(context, *row)
    waits_for = f"{figures['waits_most_for']}, {decode['by_unit'][figures['waits_most_for']]:,}"
    lines: list[Line] = [
        f"a token at context {figures['context']}:",
        units,
        contexts,
        f"the fabric reads words in {figures['fabric']:.1%} of the cycles; of the others most go to {waits_for}",
    ]
    for chip in figures["instead"]:
        option = f"--{chip['lane'].replace('_', '-')} {chip['value']} instead of {chip['instead_of']}"
        lines.append(f"{option}: {chip['cycles']:,} cycles ({chip['more']:+.1%}), predicted")
    if figures["picture"]:
        lines.append(f"picture: {figures['picture']}")
    return lines


def _part(cycles: int, token: dict) -> tuple[str, str]:
    return f"{cycles:,}", f"{cycles / token['cycles']:.1%}"


def trace_lines(figures: dict) -> list[Line]:
    """Return the line of ``trace``."""
    what = f"{figures['unit']}, token {figures['token']} at position {figures['position']}"
    return [f"{figures['file']}: {what}, {figures['cycles']:,} cycles of two units of time, {figures['bytes']:,} bytes"]


def check_lines(figures: dict) -> list[Line]:
    """Return the lines of ``verify``: the first difference, counts, and cycles."""
    lines = difference_lines(figures)
    if (sample := figures.get("sample")) is not None:
        identical, compared = (sum(sample[kind].values()) for kind in ("n_identical_beats", "n_beats"))
        lines.append(
            f"{identical:,} of {compared:,} beats at {len(sample['n_beats'])} ports inside the chip identical to golden, "
            f"layers {', '.join(map(str, sample['layers']))}"
        )
    return [*lines, cycles_line(figures)]


def difference_lines(figures: dict) -> list[str]:
    """Return the lines of a comparison with golden."""
    lines = []
    if (first := figures["first_difference"]) is not None:
        where = "" if first.get("layer") is None else f"layer {first['layer']}, "
        if "unit" in first:
            where += f"unit {first['unit']}, "
        lines.append(
            f"DIFFERENT: prompt {first['prompt']!r}, position {first['position']}, {where}{first['what']}: "
            f"rtl {first['rtl']}, golden {first['golden']}"
        )
    n, total = figures["n_identical_logits"], figures["n_logits"]
    lines.append(f"{n:,} of {total:,} logits identical to golden")
    lines.append(f"{figures['n_identical_tokens']} of {figures['n_tokens']} tokens identical to golden")
    return lines


def cycles_line(figures: dict) -> str:
    """Return a line with the cycles of a token, and the share of them in which the fabric is busy."""
    return f"{figures['cycles_per_token']:,} cycles per token, fabric busy in {figures['busy']:.1%} of them"
