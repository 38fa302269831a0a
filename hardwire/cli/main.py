"""The ``hardwire`` command: each of its commands calls one stage and prints what that returns.

Text and figures go to stdout, everything else to stderr.  What takes long to import is imported where needed.
"""

import os
import signal
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hardwire.cli.console import say, write
from hardwire.cli.show import adapter_lines, check_lines, cost_lines, explain_lines, report_lines, run_lines, show, trace_lines
from sim.rtl.verilator import SimulationError

app = typer.Typer(
    name="hardwire",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="The open compiler that casts a Llama into silicon.  MODEL is a Hugging Face directory, a .gguf "
    "file, a llama2.c .bin or a known name (hardwire models); OUT is the folder of a compiled model.",
    epilog="A first chip:  hardwire compile stories-260k -o out\n\nthen:  hardwire run out --prompt 'Once upon a time'",
)


class Multiplier(StrEnum):
    """How a row lane multiplies a code with an activation (hdl/fabric/code_dot.py)."""

    booth = "booth"
    magic = "magic"
    plain = "plain"


class Backend(StrEnum):
    """What computes: the simulated chip, its integers in numpy, or the checkpoint in floating point."""

    rtl = "rtl"
    golden = "golden"
    float = "float"


Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout, and nothing else there.")]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="Hugging Face directory, .gguf file, llama2.c .bin, or a known name.",
    ),
]
OutFolder = Annotated[str, typer.Argument(metavar="OUT", show_default=False, help="Folder of a compiled model.")]
ModelOrOut = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|OUT",
        show_default=False,
        help="A compiled model, or a checkpoint, which is quantised in memory.",
    ),
]
TokenizerFile = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        show_default=False,
        help="A tokenizer that is not where the format puts it: tokenizer.json, tokenizer.model, or llama2.c's tokenizer.bin.",
    ),
]
Gptq = Annotated[
    Path | None,
    typer.Option(
        "--gptq",
        metavar="TEXT",
        show_default=False,
        help="Quantise by GPTQ, with this file as calibration text, instead of rounding to nearest; for float checkpoints.",
    ),
]
AdapterFolder = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="DIR",
        show_default=False,
        help="A LoRA adapter as peft writes it; a chip needs --lora-rank for it.",
    ),
]
BackendName = Annotated[
    Backend | None,
    typer.Option(
        show_default="rtl, or golden for a MODEL",
        help="The simulated chip, its integers in numpy, or floating point.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same text, on golden and chip alike."),
]
SaveFile = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FILE",
        show_default=False,
        help="Keep the simulated chip, with its KV cache and adapters, and the text in a file at the end.",
    ),
]
ResumeFile = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="FILE",
        show_default=False,
        help="Go on from a file that --save wrote, without reading its text again.",
    ),
]
Temperature = Annotated[
    float,
    typer.Option(min=0.0, max=100.0, help="0 takes the likeliest token; 1 samples the model's own distribution."),
]


@app.command("compile", epilog="Example:  hardwire compile stories-260k -o out --row-lanes 2 --max-context 128")
def compile_(
    model: ModelName,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            show_default=False,
            help="Folder to write; a compiled model that is there is replaced, anything else refused.",
        ),
    ],
    tokenizer: TokenizerFile = None,
    row_lanes: Annotated[int, typer.Option(help="Matrix rows computed at once; multipliers are row lanes times block lanes.")] = 1,
    block_lanes: Annotated[
        int,
        typer.Option(help="Elements of a 32-element block that a row lane takes a cycle: 4, 8, 16 or 32."),
    ] = 32,
    vector_lanes: Annotated[
        int | None,
        typer.Option(
            show_default="enough",
            help="Elements a cycle in the vector units: a power of two that divides head_dim.",
        ),
    ] = None,
    attention_heads: Annotated[
        int | None, typer.Option(show_default="enough", help="Query heads that attention works on at once.")
    ] = None,
    attention_lanes: Annotated[
        int | None,
        typer.Option(
            show_default="most",
            help="Elements of a head that attention multiplies a cycle; divides gcd(head_dim, 32).",
        ),
    ] = None,
    sampler_lanes: Annotated[
        int,
        typer.Option(show_default="vector lanes", help="Logits a cycle in the sampler; divides the vector lanes."),
    ] = 0,
    multiplier: Annotated[
        Multiplier,
        typer.Option(help="Circuit that multiplies codes with activations; the results are the same."),
    ] = Multiplier.plain,
    wide_bits: Annotated[int, typer.Option(help="Width of the residual stream and of sums: 32, or 24 for small boards.")] = 32,
    max_context: Annotated[
        int | None,
        typer.Option(show_default="as trained", help="Positions that the KV cache holds for a sequence."),
    ] = None,
    n_sequences: Annotated[int, typer.Option(help="Sequences that the KV cache holds.")] = 1,
    n_sinks: Annotated[
        int,
        typer.Option(
            help="Let the window slide: a full sequence forgets its oldest positions but for this many at its "
            "beginning (4 is usual), instead of refusing tokens."
        ),
    ] = 0,
    lora_rank: Annotated[
        int,
        typer.Option(help="Largest rank of a LoRA adapter, a power of two from 2 to 64; 0 leaves the adder out."),
    ] = 0,
    lora_lanes: Annotated[int, typer.Option(help="Rows of an adapter's A at once, with 32 multipliers each.")] = 1,
    n_adapters: Annotated[int, typer.Option(help="LoRA adapters in the chip's memory at once.")] = 2,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="One engine for everything, with eight multipliers, for an iCE40 UP5K: with --wide-bits 24, for heads of 8 "
            "elements, at most 256 positions, greedy.",
        ),
    ] = False,
    gptq: Gptq = None,
    no_simulation: Annotated[
        bool,
        typer.Option(
            "--no-simulation",
            help="Stop after the Verilog: do not build the simulation, and measure nothing with it.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compile a checkpoint: integer model, ROM images, Verilog, simulation and a measured report, in OUT."""
    from hardwire.compile import compile_model
    from hardwire.source import Source

    report = compile_model(
        Source.open(model, _name(tokenizer)),
        out,
        wide_bits=wide_bits,
        gptq_text=gptq,
        simulation=not no_simulation,
        row_lanes=row_lanes,
        block_lanes=block_lanes,
        vector_lanes=vector_lanes,
        attention_heads=attention_heads,
        attention_lanes=attention_lanes,
        multiplier=multiplier.value,
        max_context=max_context,
        n_sequences=n_sequences,
        n_sinks=n_sinks,
        lora_rank=lora_rank,
        lora_lanes=lora_lanes,
        n_adapters=n_adapters,
        sampler_lanes=sampler_lanes,
        shared=shared,
    )
    show(report, as_json, report_lines(report, out))


@app.command(
    epilog="Examples:\n\nhardwire run out --prompt 'Once upon a time' --tokens 200\n\n"
    "hardwire run smollm2-135m --backend golden --chat --prompt 'What is the capital of France?'"
)
def run(
    out: ModelOrOut,
    prompt: Annotated[
        str,
        typer.Option(
            show_default=False,
            help='The text to continue; token numbers, as in "1 2 3", for a model without a tokenizer.',
        ),
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most; a model may end its text sooner.")] = 128,
    backend: BackendName = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt to the model as a question, in its chat template.")] = False,
    adapter: AdapterFolder = None,
    ignore_end: Annotated[
        bool,
        typer.Option("--ignore-end", help="Go on after the model's end-of-text token, with whatever it says next."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Compare every token and logit of the chip with golden's afterwards; exit 1 if one differs.",
        ),
    ] = False,
    clock: Annotated[float, typer.Option(min=0.001, metavar="MHZ", help="Clock for which tokens a second are projected.")] = 50.0,
    save: SaveFile = None,
    resume: ResumeFile = None,
    tokenizer: TokenizerFile = None,
    as_json: Json = False,
) -> None:
    """Continue a prompt: text on stdout as it comes, figures on stderr."""
    from hardwire.run import run as run_model
    from hardwire.target import Target
    from sim.session import Sampling

    figures = run_model(
        Target(out, _name(tokenizer), adapter),
        prompt,
        tokens,
        backend=backend and backend.value,
        sampling=Sampling(temperature, seed),
        chat=chat,
        check=check,
        ignore_end=ignore_end,
        clock_mhz=clock,
        save_to=save,
        resume=resume,
        write=(lambda text: None) if as_json else write,
    )
    if as_json:
        show(figures, True)
    else:
        for line in run_lines(figures):
            say(line)
    if check and figures["check"]["first_difference"]:
        raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\nhardwire chat smollm2-135m\n\n"
    "hardwire chat out --save talk.saved\n\nhardwire chat out --resume talk.saved\n\nhardwire chat out --port auto"
)
def chat(
    out: ModelOrOut,
    backend: BackendName = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", show_default=False, help="What the model is told before you speak.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 256,
    adapter: AdapterFolder = None,
    port: Annotated[
        str | None,
        typer.Option(
            metavar="auto|DEVICE",
            show_default=False,
            help="Talk with a board that has OUT in it, at this serial port; auto looks for it.",
        ),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Talk with a simulated board, over the same serial protocol.")
    ] = False,
    noise: Annotated[
        float,
        typer.Option(min=0.0, max=0.05, help="With --simulate: probability that the line loses, doubles or changes a byte."),
    ] = 0.0,
    save: SaveFile = None,
    resume: ResumeFile = None,
    tokenizer: TokenizerFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as a line of JSON.")] = False,
) -> None:
    """Talk with a model: lines in, answers on stdout as they come, figures on stderr.  /help lists what else it does.

    A model without a chat template continues what you write.  Without a terminal, lines come from stdin as it is.
    """
    from hardwire.chat import chat as chat_with
    from hardwire.target import Target
    from sim.session import Sampling

    subject, board = Target(out, _name(tokenizer), adapter), None
    if noise and not simulate:
        raise typer.BadParameter("spoils the line of a simulated board: add --simulate", param_hint="--noise")
    if port is not None or simulate:
        from hardwire.board_session import board_session

        if (port is not None) + simulate + (backend is not None) > 1:
            raise typer.BadParameter("--port, --simulate and --backend are three ways: choose one")
        if adapter is not None:
            raise typer.BadParameter("is not sent to a board: use --backend rtl", param_hint="--adapter")
        board = partial(board_session, subject.compiled(), port, noise)
    chat_with(
        subject,
        backend=backend and backend.value,
        sampling=Sampling(temperature, seed),
        system=system,
        n_tokens=tokens,
        save_to=save,
        resume=resume,
        board=board,
        as_json=as_json,
    )


@app.command(
    epilog="Examples:\n\nhardwire verify out --tokens 200 --prompt 'Once upon a time' --prompt 'The little dog'\n\n"
    "hardwire verify out --sample --tokens 20    # which unit is wrong, in which layer"
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
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="Compare what every unit of the chip computes, too: the first one that differs is named.  Builds a second "
            "simulation, with the units' ports in sight.",
        ),
    ] = False,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            show_default="all", help="With --sample: only this layer's units, and those outside of layers; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the RTL with the integer model: every token and logit.  Exit 1 at the first difference."""
    from hardwire.check import verify as verify_model
    from hardwire.target import Target

    if layer and not sample:
        raise typer.BadParameter("says which layers --sample compares: add --sample", param_hint="--layer")
    figures = verify_model(Target(out, adapter=adapter), prompt or [], tokens, (layer or []) if sample else None, chat)
    show(figures, as_json, check_lines(figures))
    if figures["first_difference"]:
        raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\nhardwire explain out --context 256\n\nhardwire explain smollm2-135m --row-lanes 64 --png lanes.png"
)
def explain(
    out: Annotated[
        str,
        typer.Argument(metavar="MODEL|OUT", show_default=False, help="A compiled model, or a checkpoint that might become one."),
    ],
    context: Annotated[
        int | None,
        typer.Option(min=1, show_default="128, or all it holds", help="Positions of the token that is looked at, itself included."),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default="OUT/explain.png", help="Where the picture goes; of a MODEL only on demand."),
    ] = None,
    row_lanes: Annotated[int | None, typer.Option(show_default="1", help="Of a MODEL's chip, as in compile.")] = None,
    block_lanes: Annotated[int | None, typer.Option(show_default="32", help="The same.")] = None,
    vector_lanes: Annotated[int | None, typer.Option(show_default="enough", help="The same.")] = None,
    attention_heads: Annotated[int | None, typer.Option(show_default="enough", help="The same.")] = None,
    attention_lanes: Annotated[int | None, typer.Option(show_default="most", help="The same.")] = None,
    max_context: Annotated[int | None, typer.Option(show_default="as trained", help="The same.")] = None,
    as_json: Json = False,
) -> None:
    """Where a token's cycles go, unit by unit: predicted from shapes alone, beside what was measured; with a picture."""
    from hardwire.explain import explain as explain_chip

    figures = explain_chip(
        out,
        context,
        png,
        row_lanes=row_lanes,
        block_lanes=block_lanes,
        vector_lanes=vector_lanes,
        attention_heads=attention_heads,
        attention_lanes=attention_lanes,
        max_context=max_context,
    )
    show(figures, as_json, explain_lines(figures))


@app.command(epilog="Example:  hardwire trace out --token 5 --unit rmsnorm --prompt 'Once upon a time' -o rmsnorm.vcd")
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
    """Waves of one unit while the chip works on one token, for GTKWave or Surfer.  Builds a simulation for that unit."""
    from hardwire.target import Target
    from hardwire.trace import trace as trace_unit

    figures = trace_unit(Target(out, adapter=adapter), prompt, token, unit, file)
    show(figures, as_json, trace_lines(figures))


@app.command(epilog="Example:  hardwire perplexity smollm2-135m --text book.txt --tokens 4096 --backend float")
def perplexity(
    model: ModelOrOut,
    text: Annotated[Path, typer.Option(metavar="FILE", show_default=False, help="Plain text to predict.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to predict, from the beginning of the text.")] = 4096,
    backend: Annotated[
        Backend,
        typer.Option(help="golden is the chip's own perplexity, float what it approximates; rtl equals golden."),
    ] = Backend.golden,
    window: Annotated[int, typer.Option(min=1, help="Tokens of a window, each of which starts with an empty context.")] = 512,
    tokenizer: TokenizerFile = None,
    adapter: AdapterFolder = None,
    as_json: Json = False,
) -> None:
    """How well a model predicts a text, in floating point or on the chip's integers."""
    from hardwire.evaluate import evaluate
    from hardwire.target import Target

    if backend == Backend.rtl:
        raise typer.BadParameter("rtl computes what golden computes: measure that", param_hint="--backend")
    figures = evaluate(Target(model, _name(tokenizer), adapter), text, tokens, backend.value, window)
    how = f"{figures['tokens']} tokens, windows of {figures['window']}, {backend}, {figures['seconds']} s"
    show(figures, as_json, [f"perplexity {figures['perplexity']} ({how})"])


@app.command(epilog="Example:  hardwire respin out my-finetuned-stories")
def respin(
    out: OutFolder,
    model: Annotated[str, typer.Argument(metavar="NEW_MODEL", show_default=False, help="A model of the same shape.")],
    tokenizer: TokenizerFile = None,
    gptq: Gptq = None,
    as_json: Json = False,
) -> None:
    """Put new weights into a compiled model: its ROM images change, its Verilog does not."""
    from hardwire.compile import respin as respin_output
    from hardwire.source import Source

    report = respin_output(Path(out), Source.open(model, _name(tokenizer)), gptq)
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


lora = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="LoRA adapters for a compiled model.")
app.add_typer(lora, name="lora")


@lora.command(epilog="Example:  hardwire lora pack out models/stories-260k-pirates --slot 2")
def pack(
    out: OutFolder,
    adapter: Annotated[
        Path,
        typer.Argument(metavar="ADAPTER_DIR", show_default=False, help="A folder that peft's save_pretrained wrote."),
    ],
    slot: Annotated[int, typer.Option(min=1, help="Number under which the chip will know the adapter.")] = 1,
    as_json: Json = False,
) -> None:
    """Quantise a LoRA adapter for a compiled model, into OUT/adapters, with the frame that loads it."""
    from hardwire.adapters import pack as pack_adapter

    figures = pack_adapter(Path(out), adapter, slot)
    show(figures, as_json, adapter_lines(figures))


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


fpga = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Bitstreams for boards with an FPGA.")
app.add_typer(fpga, name="fpga")


@fpga.command(epilog="Example:  hardwire fpga build stories-260k --board ulx3s-85f")
def build(
    name: ModelOrOut,
    board: Annotated[str, typer.Option(show_default=False, help="One of those that hardwire boards lists.")],
    clock: Annotated[
        float | None, typer.Option(min=1.0, metavar="MHZ", show_default="the estimate", help="The chip's clock.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed places the design differently.")] = 1,
    allow_timing_fail: Annotated[
        bool, typer.Option("--allow-timing-fail", help="Write the bitstream even if it is too slow for its clock.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", show_default="build/MODEL-BOARD", help="Where a checkpoint is compiled to."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a bitstream: of a compiled model with the lanes it has, of a checkpoint with the fastest that fit.

    Place and route takes minutes.  Bitstream, reports and report.json come to OUT/fpga/BOARD.
    """
    from hardwire.boards import build as build_bitstream
    from hardwire.boards import build_lines

    report = build_bitstream(name, board, clock_mhz=clock, seed=seed, allow_timing_fail=allow_timing_fail, out=out)
    show(report, as_json, build_lines(report))


@fpga.command(epilog="Example:  hardwire fpga flash build/stories-260k-ulx3s-85f --board ulx3s-85f")
def flash(out: OutFolder, board: Annotated[str, typer.Option(show_default=False, help="The board that is plugged in.")]) -> None:
    """Load the bitstream that ``hardwire fpga build`` made into a board, by openFPGALoader."""
    from hardwire.boards import flash as load_bitstream

    say(f"{load_bitstream(out, board)} is in {board}")


@fpga.command("verify", epilog="Example:  hardwire fpga verify build/stories-260k-ulx3s-85f --board ulx3s-85f")
def verify_bitstream(
    out: OutFolder, board: Annotated[str, typer.Option(show_default=False, help="One that a bitstream was built for.")]
) -> None:
    """Read the block RAMs back out of the finished bitstream, and compare every bit with the model's ROMs."""
    from hardwire.boards import verify as compare

    for line in compare(out, board):
        say(line)


@app.command()
def boards(as_json: Json = False) -> None:
    """The boards that bitstreams can be built for."""
    from hardwire.boards import boards as known_boards

    rows = known_boards()
    table = Table(*(heading.replace("_", " ") for heading in rows[0]), box=None)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    show(rows, as_json, [table])


@app.command()
def models(as_json: Json = False) -> None:
    """The models known by name: where each comes from, and whether it is here."""
    from weights_to_rom.readers.known_models import known_models

    rows = known_models()
    table = Table("name", "what it is", "where it comes from", "here", box=None)
    for name, description, origin, path in rows:
        table.add_row(name, description, origin, "yes" if path else "no")
    show(
        [
            {"name": name, "description": description, "origin": origin, "path": path and str(path)}
            for name, description, origin, path in rows
        ],
        as_json,
        [table],
    )


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def main() -> None:
    """Run the command; what is wrong with its input is one line on stderr."""
    usage_error = typer.BadParameter.__base__
    # As an exit, so that the tools which a command has started end with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "hardwire"
        say(f"error: {error.format_message()} (see {command} --help)")
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read stdout has seen enough; Python would complain again when it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, SimulationError, MemoryError) as error:
        say(f"error: {_one_line(error)}")
        sys.exit(1)
    if code == 130:
        say("interrupted")
    sys.exit(code or 0)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
