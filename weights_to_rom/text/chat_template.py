"""Chat templates: programs in the language of jinja2 that come with a model and turn messages into a prompt."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from weights_to_rom.text.errors import TokenizerError


class ChatTemplate:
    """One template, rendered as ``render_jinja_template`` in transformers renders it.

    Parameters
    ----------
    source : str   the template's text
    """

    def __init__(self, source: str) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"chat template: {error}") from None

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, special: Mapping[str, str]) -> str:
        """Return the text of ``messages``; ``special`` are the texts of bos_token, eos_token, ...  Raises TokenizerError."""
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **special,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TokenizerError(f"chat template: {error}") from None


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes HTML characters, and a prompt must not have such escapes.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
