"""Commands that write text: run, chat."""

from functools import partial
from typing import Annotated

import typer

from hardwire.cli.console import say, write
from hardwire.cli.options import (
    AdapterFolder,
    BackendName,
    Json,
    ModelOrOut,
    ResumeFile,
    SaveFile,
    Seed,
    Temperature,
    TokenizerFile,
)
from hardwire.cli.show import run_lines, show

commands = typer.Typer()


@commands.command(
    epilog="Examples:\n\nhardwire run out --prompt 'Once upon a time' --tokens 200\n\n"
    "hardwire run smollm2-135m --backend golden --chat --prompt 'Give me three tips for staying healthy.'"
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
        Target(out, tokenizer, adapter),
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
        say=say,
    )
    if as_json:
        show(figures, True)
    else:
        for line in run_lines(figures):
            say(line)
    if check and figures["check"]["first_difference"]:
        raise typer.Exit(1)


@commands.command(
    epilog="Examples:\n\nhardwire chat smollm2-135m\n\n"
    "hardwire chat out --save talk.saved\n\nhardwire chat out --resume talk.saved\n\nhardwire chat out --port auto"
)
def chat(
    out: ModelOrOut,
    backend: BackendName = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", show_default=False, help="A message to the model that comes first."),
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
    """Talk with a model: lines in, answers on stdout as they come, figures on stderr.  /help lists the other commands.

    A model without a chat template continues what you write.  Without a terminal, lines come from stdin as it is.
    """
    from hardwire.cli.chat import chat as chat_with
    from hardwire.target import Target
    from sim.session import Sampling

    target, board = Target(out, tokenizer, adapter), None
    if noise and not simulate:
        raise typer.BadParameter("spoils the line of a simulated board: add --simulate", param_hint="--noise")
    if port is not None or simulate:
        from hardwire.board_session import board_session

        if (port is not None) + simulate + (backend is not None) > 1:
            raise typer.BadParameter("--port, --simulate and --backend are three ways: choose one")
        board = partial(board_session, target.compiled(), port, noise, target.integer_adapter)
    chat_with(
        target,
        backend=backend and backend.value,
        sampling=Sampling(temperature, seed),
        system=system,
        n_tokens=tokens,
        save_to=save,
        resume=resume,
        board=board,
        as_json=as_json,
    )
