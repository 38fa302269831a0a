"""Commands that write a compiled model, or into one: compile, respin, lora pack, lora cost."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardwire.cli.options import Gptq, Json, ModelName, OutFolder, TokenizerFile, chip_options
from hardwire.cli.show import adapter_lines, cost_lines, next_step, report_lines, show

if TYPE_CHECKING:
    from hardwire.source import Source

commands = typer.Typer()
lora = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="LoRA adapters for a compiled model.")
commands.add_typer(lora, name="lora")


@commands.command("compile", epilog="Example:  hardwire compile stories-260k -o out --row-lanes 2 --max-context 128")
@chip_options
def compile_(
    model: ModelName,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            show_default=False,
            help="Folder to write.  A compiled model in it is replaced; anything else is refused.",
        ),
    ],
    tokenizer: TokenizerFile = None,
    gptq: Gptq = None,
    no_simulation: Annotated[
        bool,
        typer.Option("--no-simulation", help="Stop after the Verilog: neither build the simulation nor measure with it."),
    ] = False,
    as_json: Json = False,
    **chip: Any,
) -> None:
    """Compile a checkpoint: integer model, ROM images, Verilog, simulation and a measured report, in OUT."""
    from hardwire.compiler import compile_model
    from hardwire.source import Source

    wide_bits = chip.pop("wide_bits") or 32
    source = Source.open(model, tokenizer)
    report = compile_model(source, out, wide_bits=wide_bits, gptq_text=gptq, simulation=not no_simulation, **chip)
    show(report, as_json, report_lines(report, out))
    if no_simulation:
        next_step(as_json, f"hardwire verify {quote(str(out))}    # {out / 'chip.v'} reads the images in {out / 'rom'}")
    else:
        next_step(as_json, _run(out, source))


@commands.command(epilog="Example:  hardwire respin out my-finetuned-stories")
def respin(
    out: OutFolder,
    model: Annotated[str, typer.Argument(metavar="NEW_MODEL", show_default=False, help="A model of the same shape.")],
    tokenizer: TokenizerFile = None,
    gptq: Gptq = None,
    as_json: Json = False,
) -> None:
    """Put new weights into a compiled model: its ROM images change, its Verilog does not."""
    from hardwire.compiler import respin as respin_model
    from hardwire.source import Source

    source = Source.open(model, tokenizer)
    report = respin_model(Path(out), source, gptq)
    spun = report["respin"]
    show(
        report,
        as_json,
        [
            *report_lines(report, Path(out)),
            f"changed ROM images: {', '.join(spun['changed']) or 'none'}",
            f"unchanged: {', '.join(spun['unchanged']) or 'none'}",
            f"Verilog: generated anew, identical to the byte (SHA-256 {spun['verilog_sha256'][:16]}...)",
        ],
    )
    next_step(as_json, _run(Path(out), source))


def _run(out: Path, source: "Source") -> str:
    """Return a command that lets the model in ``out`` write; a model without a tokenizer takes token numbers."""
    return f"hardwire run {quote(str(out))} --prompt '{'1' if source.checkpoint.tokenizer is None else 'Once upon a time'}'"


@lora.command(epilog="Example:  hardwire lora pack out models/stories-260k-pirates --slot 2")
def pack(
    out: OutFolder,
    adapter: Annotated[
        Path,
        typer.Argument(metavar="ADAPTER_DIR", show_default=False, help="A folder that peft's save_pretrained wrote."),
    ],
    slot: Annotated[int, typer.Option(min=1, help="Number by which the chip knows the adapter.")] = 1,
    as_json: Json = False,
) -> None:
    """Quantise a LoRA adapter for a compiled model, into OUT/adapters, with the load image that the chip takes."""
    from hardwire.adapters import pack as pack_adapter

    figures = pack_adapter(Path(out), adapter, slot)
    show(figures, as_json, adapter_lines(figures))
    next_step(as_json, f"hardwire run {quote(out)} --adapter {quote(str(adapter))} --prompt 'Once upon a time'")


@lora.command(epilog="Example:  hardwire lora cost out --context 128")
def cost(
    out: OutFolder,
    context: Annotated[int, typer.Option(min=2, help="Positions of the token that is measured.")] = 128,
    as_json: Json = False,
) -> None:
    """Measure what adapters cost: cycles of a token without one, with one on q and v, with one on all seven projections."""
    from hardwire.adapters import cost as measure_cost

    figures = measure_cost(Path(out), context)
    show(figures, as_json, cost_lines(figures))
