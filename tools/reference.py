"""Print the pages of docs/reference from the code: commands, JSON, Python API, ports, ROMs.

    python tools/reference.py            write cli.md, json.md, python-api.md, rom-layout.md, and the printed parts of ports.md
    python tools/reference.py --check    name the pages that are out of date; exit 1 if there are any

A printed part stands between `<!-- printed: NAME -->` and `<!-- end -->`.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from types import FunctionType

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs/reference"
sys.path.insert(0, str(ROOT))

import typer.core  # noqa: E402
import typer.main  # noqa: E402

import hardwire  # noqa: E402
from hardwire.cli import vocabulary  # noqa: E402
from hardwire.cli.main import app  # noqa: E402
from hdl import interface  # noqa: E402
from tools.printed import out_of_date, write_or_check  # noqa: E402
from weights_to_rom.rom_map import rom_map_page  # noqa: E402

MEMBERS = (FunctionType, classmethod, property, cached_property)

CLI_HEAD = """\
# The command line

`make setup` puts the command into `.venv/bin`. Text and figures go to stdout, and everything else to stderr. An error of
the input is one line that begins with `error:`, with exit status 1; a wrong option exits with status 2.

Printed from the code by `tools/reference.py`.
"""


def plain(text: str) -> str:
    """Join the lines of each paragraph, and escape the characters that would end a table cell."""
    paragraphs = (" ".join(part.split()) for part in text.replace("\b", "").split("\n\n"))
    return "\n\n".join(paragraphs).replace("``", "`").replace("|", "\\|").replace("<", "&lt;")


def default(option: typer.core.TyperOption) -> str:
    """Print the default of an option, if it has one."""
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return option.show_default
    if not option.show_default or option.default is None or option.default is False or callable(option.default):
        return ""
    return f"`{getattr(option.default, 'value', option.default)}`"


def values(option: typer.core.TyperOption) -> str:
    """Print the value of an option: a word, or one of some choices.  A flag has none."""
    if option.is_flag:
        return ""
    choices = getattr(option.type_descriptor.annotation, "__members__", None)
    if choices:
        return " " + "\\|".join(str(member.value) for member in choices.values())
    name = (option.metavar or "").replace("|", "\\|") or getattr(option.type_descriptor.annotation, "__name__", "value").upper()
    return " " + {"INT": "N", "FLOAT": "X", "STR": "TEXT", "PATH": "PATH"}.get(name, name)


def command_page(command: typer.core.TyperCommand, name: str, level: str) -> Iterator[str]:
    """Print a command: usage, help, a table of its options, its example."""
    arguments = [p for p in command.params if isinstance(p, typer.core.TyperArgument)]
    options = [p for p in command.params if isinstance(p, typer.core.TyperOption) and not p.hidden and "--help" not in p.opts]
    words = [argument.metavar or argument.name.upper() for argument in arguments]
    words = [word if argument.required else f"[{word}]" for argument, word in zip(arguments, words, strict=True)]
    cells = [word.replace("|", "\\|") for word in words]
    yield f"{level} {name}\n"
    yield f"    {name} {' '.join([*words, '[OPTIONS]' if options else '']).strip()}\n"
    yield plain(command.help or "").replace("\\|", "|") + "\n"
    rows = [
        f"| `{word}` | {plain(argument.help or '')} | |" for argument, word in zip(arguments, cells, strict=True) if argument.help
    ]
    for option in options:
        given = ", ".join(f"`{spelling}{values(option)}`" for spelling in option.opts)
        rows.append(f"| {given} | {plain(option.help or '')} | {default(option)} |")
    if rows:
        yield "| | meaning | default |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    if command.epilog:
        lines = [re.sub(r"^(Examples?|then|A first chip): *", "", line.strip()) for line in command.epilog.split("\n")]
        if examples := [line for line in lines if line]:
            yield "Example:\n\n" + "\n".join(f"    {line}" for line in examples) + "\n"


def commands(command: typer.core.TyperCommand, name: str, level: str) -> Iterator[str]:
    """Print a command and its subcommands."""
    if level != "#":
        yield from command_page(command, name, level)
    for word, below in sorted(getattr(command, "commands", {}).items()):
        yield from commands(below, f"{name} {word}", level + "#")


def cli_page() -> str:
    """The page of the command line."""
    root = typer.main.get_command(app)
    head = [CLI_HEAD]
    shared = [p for p in root.params if "--help" not in p.opts]
    if shared:
        rows = [f"| `{', '.join(option.opts)}` | {plain(option.help or '')} |" for option in shared]
        head.append("Options of every command, given before its name:\n\n| | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join([*head, *commands(root, "hardwire", "#")])


API_HEAD = """\
# Python API

    import hardwire

    chip = hardwire.compile("stories-260k", "out", row_lanes=2)
    session = chip.session("golden")
    for reply in hardwire.generate(session, [1, 403], 20):
        print(reply.token)

`hardwire.compile` and `hardwire.open` return a `hardwire.Chip`: a compiled model with sessions and verification. The token
numbers 1 and 403 are a prompt; `chip.tokenizer` makes such numbers from text.

`import hardwire` is quick: it loads numpy and Amaranth only when a function needs them. The command line is one user of these
functions. Printed from the docstrings by `tools/reference.py`.
"""


def docstring(text: str) -> Iterator[str]:
    """Print a docstring: its sections of parameters and errors as tables, its other paragraphs as they are."""
    for part in re.split(r"\n\n(?! )", inspect.cleandoc(text)):
        title = re.match(r"(\w+)\n-+\n", part)
        if title is None:
            yield part.replace("``", "`") + "\n"
            continue
        rows: list[list[str]] = []
        for line in part[title.end() :].splitlines():
            entry = re.match(r"(\S+(?:, \S+)*)(?: : (.*?))?(?: {2,}(.*))?$", line)
            if entry:
                rows.append([entry[1], entry[2] or "", entry[3] or ""])
            else:
                rows[-1][2] = f"{rows[-1][2]} {line.strip()}".strip()
        cells = [(f"`{name}`", plain(kind), plain(meaning).replace("``", "`")) for name, kind, meaning in rows]
        yield f"| {title[1]} | | |\n|---|---|---|\n" + "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def annotation(kind: object) -> str:
    """Write an annotation without the modules of its names."""
    return re.sub(r"\b(?:[a-z_]\w*\.)+(\w+)", r"\1", inspect.formatannotation(kind)).replace("'", "")


def signature(name: str, function: Callable) -> str:
    """Print a signature as code, a parameter a line if it is long."""
    written = inspect.signature(function)
    words: list[str] = []
    for parameter in written.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        kind = "" if parameter.annotation is parameter.empty else f": {annotation(parameter.annotation)}"
        value = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        value = " = ..." if inspect.isfunction(parameter.default) else value
        words.append(stars + parameter.name + kind + value)
    given = written.return_annotation
    returned = "" if given in (written.empty, None) else f" -> {annotation(given)}"
    line = f"    {name}({', '.join(words)}){returned}"
    if len(line) > 100:
        line = f"    {name}(\n" + "".join(f"        {word},\n" for word in words) + f"    ){returned}"
    return line + "\n"


def members(kind: type) -> dict[str, object]:
    """The members of a class by name: its own first, then those that it inherits."""
    found: dict[str, object] = {}
    for base in kind.__mro__:
        for word, member in vars(base).items():
            found.setdefault(word, member)
    return found


def api_page() -> str:
    """The page of the Python API: every name in `hardwire.__all__`, with the public members of classes."""
    lines = [API_HEAD]
    for name in hardwire.__all__:
        thing = getattr(hardwire, name)
        lines += [f"## hardwire.{name}\n"]
        if not issubclass(thing, Exception) if inspect.isclass(thing) else True:
            lines.append(signature(f"hardwire.{name}", thing))
        lines += docstring(thing.__doc__ or "")
        for word, member in members(thing).items() if inspect.isclass(thing) else ():
            function = getattr(member, "__func__", member)
            if word.startswith("_") or not getattr(function, "__doc__", None) or not isinstance(member, MEMBERS):
                continue
            lines.append(f"### {name}.{word}\n")
            if not isinstance(member, property | cached_property):
                lines.append(signature(word, getattr(thing, word)))
            lines += docstring(function.__doc__)
    return "\n".join(lines)


def described(body: list[ast.stmt]) -> dict[str, str]:
    """Map each assigned name to the docstring that follows the assignment."""
    texts = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            value = following.value if isinstance(following, ast.Expr) else None
            texts[statement.targets[0].id] = value.value if isinstance(value, ast.Constant) else ""
    return texts


SOURCE = ast.parse(Path(interface.__file__).read_text()).body


def layout_table(name: str) -> str:
    """A payload of the chip: its docstring, and its fields from bit 0 up."""
    layout = getattr(interface, name)
    rows, offset = [], 0
    for (field, of), width in zip(layout.fields, layout.widths.values(), strict=True):
        bits = str(offset) if width == 1 else f"{offset + width - 1}:{offset}"
        kind = f"`{of.__name__}`" if isinstance(of, type) else "unsigned"
        rows.append(f"| `{field}` | {bits} | {width} | {kind} |")
        offset += width
    text = plain(described(SOURCE)[name]).replace("``", "`")
    return f"{text}\n\n| field | bits | width | |\n|---|---|--:|---|\n" + "\n".join(rows)


def status_table(codes: type[IntEnum]) -> str:
    """Print a table of codes with their values and meanings."""
    body = next(node.body for node in SOURCE if isinstance(node, ast.ClassDef) and node.name == codes.__name__)
    texts = described(body)
    if silent := [code.name for code in codes if code and not texts[code.name]]:
        raise ValueError(f"{codes.__name__}: {', '.join(silent)} without a docstring")
    rows = [f"| {code.value} | `{code.name}` | {plain(texts[code.name]) if code else 'accepted'} |" for code in codes]
    return "| value | name | meaning |\n|--:|---|---|\n" + "\n".join(rows)


def parts() -> dict[str, str]:
    """The printed parts of pages, by name."""
    return {
        "COMMAND": layout_table("COMMAND"),
        "REPLY": layout_table("REPLY"),
        "LOAD_WORD": layout_table("LOAD_WORD"),
        "LOAD_REPLY": layout_table("LOAD_REPLY"),
        "Status": status_table(interface.Status),
        "LoadStatus": status_table(interface.LoadStatus),
    }


def pages() -> dict[Path, str]:
    """The contents of every printed page, by path."""
    printed = parts()
    found = {
        FOLDER / "cli.md": cli_page(),
        FOLDER / "json.md": vocabulary.page(),
        FOLDER / "rom-layout.md": rom_map_page(),
        FOLDER / "python-api.md": api_page(),
    }
    for path in sorted(FOLDER.glob("*.md")):
        text = path.read_text()
        new = re.sub(
            r"<!-- printed: (\w+) -->\n.*?<!-- end -->",
            lambda part: f"<!-- printed: {part[1]} -->\n{printed[part[1]]}\n<!-- end -->",
            text,
            flags=re.DOTALL,
        )
        if path not in found and "<!-- printed:" in text:
            found[path] = new
    return found


def differing() -> dict[Path, str]:
    """The pages that are out of date, with their new contents."""
    return out_of_date(pages())


if __name__ == "__main__":
    sys.exit(write_or_check(__file__, differing(), sys.argv[1:]))
