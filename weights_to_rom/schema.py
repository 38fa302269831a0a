"""Fields of files that anybody may have written: their types, lengths and ranges are checked before a field is used.

A kind of file has one ``Schema``, a pydantic model in strict mode.  Every type below carries the words that a message uses.
"""

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from weights_to_rom.errors import HardwireError

INT32_MAX = 2**31 - 1

Count = Annotated[int, Field(ge=1, le=INT32_MAX, description=f"an integer from 1 to {INT32_MAX}")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a positive finite number")]
Finite = Annotated[float, Field(allow_inf_nan=False, description="a finite number")]
Flag = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="a text")]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX, description="a token number")]
TokenIds = Annotated[int | list[int], Field(description="a token number or a list of them")]
Texts = Annotated[list[str], Field(fail_fast=True, description="a list of texts")]
TextOrTexts = Annotated[str | list[str], Field(description="a text or a list of texts")]
Numbers = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]], Field(fail_fast=True, description="a list of finite numbers")
]


class Schema(BaseModel):
    """The fields of one kind of file.  A field that is null counts as absent; fields that a schema lacks are not looked at."""

    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())


S = TypeVar("S", bound=Schema)


def checked(schema: type[S], raw: Mapping[str, Any], where: str, error: type[HardwireError]) -> S:
    """Check the fields of ``raw``, and return them as the schema's members.

    Raises ``error``, which begins with ``where`` and names the first field that is missing, or of a wrong type or range.
    """
    try:
        return schema.model_validate({key: value for key, value in raw.items() if value is not None})
    except ValidationError as reason:
        place = reason.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
    key, value = str(place[0]), raw.get(str(place[0]))
    if value is None:
        raise error(f"{where}: {key} is missing")
    entry = ""
    if isinstance(value, list) and isinstance(place[-1], int):
        value, entry = value[place[-1]], f" (entry {place[-1]})"
    words = next(_words(field) for name, field in schema.model_fields.items() if (field.alias or name) == key)
    raise error(f"{where}: {key} must be {words}, not {short(value)}{entry}")


def _words(field: FieldInfo) -> str:
    """The description of a field's type; that of an optional field is in the first member of the union."""
    inner = (m for arg in get_args(field.annotation) for m in getattr(arg, "__metadata__", ()) if isinstance(m, FieldInfo))
    return field.description or next(m.description for m in inner if m.description)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxother = 3, 120, 12, 12, 120


def short(value: object) -> str:
    """Shorten the ``repr`` of a value to 60 characters for a message."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
