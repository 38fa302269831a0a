"""Options and arguments that several commands share, and the options of a chip, which the fields of ChipConfig describe."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from enum import Enum, StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from hdl.config import ChipConfig


class Backend(StrEnum):
    """The three backends: the simulated chip, its integers in numpy, the checkpoint in floating point."""

    rtl = "rtl"
    golden = "golden"
    float = "float"


class NumpyBackend(StrEnum):
    """The backends of commands that need no chip: its integers in numpy, the checkpoint in floating point."""

    golden = "golden"
    float = "float"


Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout, and nothing else there.")]
ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", show_default=False, help="Hugging Face directory, .gguf file, llama2.c .bin, or a known name."),
]
OutFolder = Annotated[str, typer.Argument(metavar="OUT", show_default=False, help="Folder of a compiled model.")]
ModelOrOut = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|OUT", show_default=False, help="A compiled model, or a checkpoint, which is quantised in memory."
    ),
]
TokenizerFile = Annotated[
    str | None,
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
Temperature = Annotated[
    float,
    typer.Option(min=0.0, max=100.0, help="0 takes the likeliest token; 1 samples the model's own distribution."),
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

WIDE_BITS = "Width of the residual stream and of sums: 32, or 24 for small boards."


def chip_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of a chip: --wide-bits, and one for each field of ChipConfig.

    The command takes them as keyword arguments ``**chip``; an option that is not given is None.  The help shows them in a panel
    of their own, below the command's other options.
    """
    signature = inspect.signature(command)
    own = [of for of in signature.parameters.values() if of.kind is not inspect.Parameter.VAR_KEYWORD]
    chip = [_parameter("wide_bits", int, WIDE_BITS, "32"), *map(_of_field, fields(ChipConfig))]

    @wraps(command)
    def with_chip(**given: Any) -> None:
        command(**{name: value.value if isinstance(value, Enum) else value for name, value in given.items()})

    with_chip.__signature__ = signature.replace(parameters=[*own, *chip])  # type: ignore[attr-defined]
    return with_chip


def _of_field(field: Field) -> inspect.Parameter:
    about = field.metadata
    kind = StrEnum(field.name, {name: name for name in about["choices"]}) if about["choices"] else field.type
    shown = about["shown"] or ("" if field.default is False or field.default is MISSING else str(field.default))
    return _parameter(field.name, kind, about["help"], shown)


def _parameter(name: str, kind: Any, text: str, shown: str) -> inspect.Parameter:
    """Make an option that is None unless it is given; its help shows ``shown`` as the default."""
    names = [f"--{name.replace('_', '-')}"] if kind is bool else []
    about = typer.Option(*names, show_default=shown or False, help=text, rich_help_panel="Chip")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, about])
