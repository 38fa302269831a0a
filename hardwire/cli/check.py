"""Commands that look at a model or a chip: verify, explain, trace, perplexity, models."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hardwire.cli.options import AdapterFolder, Json, ModelOrOut, NumpyBackend, OutFolder, TokenizerFile, chip_options
from hardwire.cli.show import Line, check_lines, columns, explain_lines, show, trace_lines

commands = typer.Typer()


@commands.command(
    epilog="Examples:\n\nhardwire verify out --tokens 200 --prompt 'Once upon a time' --prompt 'The little dog'\n\n"
    "hardwire verify out --units --tokens 20    # which unit is wrong, in which layer\n\n"
    "hardwire verify out --verilog netlist.v --verilog cells.v --tokens 20    # is a netlist still the model?"
)
def verify(
    out: OutFolder,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            show_default="three openings of stories",
            help="A text to start from; give it several times for several texts.",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write after each prompt, as far as the context reaches.")] = 100,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompts to the model as questions, in its chat template.")] = False,
    adapter: AdapterFolder = None,
    units: Annotated[
        bool,
        typer.Option(
            "--units",
            help="Compare the results of every unit of the chip, too, and name the first unit that differs.  This builds a "
            "second simulation, which shows the units' ports.",
        ),
    ] = False,
    sample: Annotated[bool, typer.Option("--sample", hidden=True)] = False,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            show_default="all", help="With --units: only this layer's units, and those outside of layers; may be repeated."
        ),
    ] = None,
    verilog: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            show_default="OUT/chip.v",
            help="Compare this Verilog instead: an edited chip.v, or the netlist of a synthesis tool.  Repeat it for the "
            "models of the netlist's cells.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the RTL with the integer model: every token and logit.  Exit 1 at the first difference."""
    from hardwire.check import verify as verify_model
    from hardwire.target import Target

    units |= sample
    if layer and not units:
        raise typer.BadParameter("says which layers --units compares: add --units", param_hint="--layer")
    figures = verify_model(
        Target(out, adapter=adapter), prompt or [], tokens, (layer or []) if units else None, chat, verilog or []
    )
    show(figures, as_json, check_lines(figures))
    if figures["first_difference"]:
        raise typer.Exit(1)


@commands.command(
    epilog="Examples:\n\nhardwire explain out --context 256\n\nhardwire explain smollm2-135m --row-lanes 64 --png lanes.png"
)
@chip_options
def explain(
    out: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|OUT",
            show_default=False,
            help="A compiled model, or a checkpoint, for a chip with the options below.",
        ),
    ],
    context: Annotated[
        int | None,
        typer.Option(min=1, show_default="128, or all it holds", help="Positions of the token that is looked at, itself included."),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default="OUT/explain.png", help="Where the picture goes; of a MODEL only on demand."),
    ] = None,
    as_json: Json = False,
    **chip: Any,
) -> None:
    """Show the cycles of a token, unit by unit: predicted from shapes alone, and measured; with a picture."""
    from hardwire.explain import explain as explain_chip

    figures = explain_chip(out, context, png, **chip)
    show(figures, as_json, explain_lines(figures))


@commands.command(epilog="Example:  hardwire trace out --token 5 --unit rmsnorm --prompt 'Once upon a time' -o rmsnorm.vcd")
def trace(
    out: OutFolder,
    token: Annotated[
        int, typer.Option(min=0, metavar="K", show_default=False, help="The position, of prompt and continuation, to look at.")
    ],
    unit: Annotated[
        str,
        typer.Option(
            metavar="UNIT", show_default=False, help="rmsnorm, rope, attention ..., or a part of one, as in matvec.lane_00."
        ),
    ],
    prompt: Annotated[
        str, typer.Option(show_default="the opening of a story", help="The text that the chip continues, greedily.")
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE.vcd", show_default="OUT/traces/UNIT-K.vcd", help="Where the waves go."),
    ] = None,
    adapter: AdapterFolder = None,
    as_json: Json = False,
) -> None:
    """Write the waves of one unit while the chip works on one token, for GTKWave or Surfer.

    This builds a simulation for that unit.
    """
    from hardwire.target import Target
    from hardwire.trace import trace as trace_unit

    figures = trace_unit(Target(out, adapter=adapter), prompt, token, unit, file)
    show(figures, as_json, trace_lines(figures))


@commands.command(
    epilog="Examples:\n\nhardwire perplexity smollm2-135m --text book.txt --tokens 4096 --backend float\n\n"
    "hardwire perplexity smollm2-135m --text book.txt --against float    # what the chip's integers cost"
)
def perplexity(
    model: ModelOrOut,
    text: Annotated[Path, typer.Option(metavar="FILE", show_default=False, help="Plain text to predict.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to predict, from the beginning of the text.")] = 4096,
    backend: Annotated[
        NumpyBackend,
        typer.Option(help="golden gives the chip's own perplexity, float the one that it approximates; rtl equals golden."),
    ] = NumpyBackend.golden,
    against: Annotated[
        NumpyBackend | None,
        typer.Option(
            show_default=False,
            help="Compare with this backend, too: mean KL divergence in nats, and the share of tokens for which both have the "
            "same likeliest token.",
        ),
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Tokens of a window; each starts with an empty context.")] = 512,
    tokenizer: TokenizerFile = None,
    adapter: AdapterFolder = None,
    as_json: Json = False,
) -> None:
    """Measure how well a model predicts a text, in floating point or on the chip's integers, and how far these two are apart."""
    from hardwire.evaluate import evaluate
    from hardwire.target import Target

    if against == backend:
        raise typer.BadParameter(f"must be another backend than {backend}", param_hint="--against")
    figures = evaluate(Target(model, tokenizer, adapter), text, tokens, backend.value, window, against and against.value)
    how = f"{figures['n_tokens']} tokens, windows of {figures['window']}, {backend}, {figures['seconds']} s"
    lines: list[Line] = [f"perplexity {figures['perplexity']} ({how})"]
    if against:
        lines += [
            f"perplexity {figures['against_perplexity']} in {against}",
            f"KL divergence from {against}: {figures['kl_divergence']} nats a token",
            f"the same first choice as {against}: {figures['same_first_choice']:.2%} of the tokens",
        ]
    show(figures, as_json, lines)


@commands.command()
def models(as_json: Json = False) -> None:
    """List the models known by name: where each comes from, and whether it is here."""
    from weights_to_rom.readers.known_models import known_models

    rows = known_models()
    texts = ("what it is", "where it comes from")
    table = columns("name", *texts, "here", folded=texts)
    for name, description, origin, path in rows:
        table.add_row(name, description, origin, "yes" if path else "no")
    figures = [
        {"name": name, "description": description, "origin": origin, "path": path and str(path)}
        for name, description, origin, path in rows
    ]
    show({"models": figures}, as_json, [table])
