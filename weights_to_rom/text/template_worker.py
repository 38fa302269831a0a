"""The process that renders chat templates: a request on each line of stdin, its answer on a line of stdout.

A request is JSON, ``[template, variables, characters, seconds]``, and an answer ``[text, error]``; one of the two is empty.  A
template that takes more than its seconds of the processor ends the process by SIGPROF, which also ends a long call of the
interpreter's own code, such as the power of two large numbers.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class Generation(jinja2.ext.Extension):
    """``{% generation %} ... {% endgeneration %}`` around the assistant's words.  Training marks them; a prompt just has them."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse a block; as in transformers it is a call block, whose variables are its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("words"), [], [], body).set_lineno(line)

    def words(self, caller: Callable[[], str]) -> str:
        """Return the text of the block."""
        return caller()


class _Dict:
    """``dict`` in a template.  It is no class, so that a template gets at no attributes of one."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """``namespace`` in a template.  It refuses names that begin with an underscore, which Python itself could look up."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may use the name self
        self, *values = args
        attributes = dict(*values, **kwargs)
        for name in attributes:
            _check_public(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


def _check_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no names that begin with an underscore, such as {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters, and a prompt must not have such escapes.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(maxsize=4)
def compiled(source: str) -> jinja2.Template:
    """Compile a template in an environment that is as strict as that of transformers 5, and offers the same."""
    extensions = [Generation, jinja2.ext.loopcontrols]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment.from_string(source)


def rendered(source: str, variables: Mapping[str, Any], characters: int) -> tuple[str, str]:
    """Return the text that the template writes and "", or "" and one line about the exception that it raised."""
    try:
        pieces, length = [], 0
        for piece in compiled(source).generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > characters:
                return "", f"writes more than {characters} characters"
        text = "".join(pieces)
        text.encode()
        return text, ""
    except jinja2.TemplateError as error:
        return "", _line(str(error)) or type(error).__name__
    except MemoryError:
        return "", "needs too much memory"
    except RecursionError:
        return "", "is nested too deeply"
    except UnicodeEncodeError as error:
        return "", f"its text is not Unicode: {_line(str(error))}"
    except Exception as error:
        return "", _line(f"{type(error).__name__}: {error}")


def _line(text: str) -> str:
    return " ".join(text.encode(errors="backslashreplace").decode().split())[:500]


def main() -> None:
    """Answer requests until stdin ends.  The first argument is the limit of memory in megabytes."""
    limit, most = int(sys.argv[1]) << 20, resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for request in sys.stdin.buffer:
        source, variables, characters, seconds = json.loads(request)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = rendered(source, variables, characters)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
