"""Files that hold one JSON object: configurations of checkpoints, tokenizers and adapters."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from weights_to_rom.errors import HardwireError
from weights_to_rom.other_files import refuse_other_kind

# Parsed and checked JSON takes up to eighty times the memory of its text.  No configuration or index of a published model
# reaches 4 MB.
MAX_BYTES = 8 << 20


def read_json_object(path: Path, error: type[HardwireError], *, halves: Collection[str] = ()) -> dict[str, Any]:
    """Read the JSON object of a UTF-8 file.  The fields ``halves`` may hold lone surrogates, halves of a pair.

    Raises ``error``, which names the file, if the text is not JSON or not an object, or if it has more than 8 MiB.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise error(f"{path}: has {size} bytes: no configuration has more than {MAX_BYTES}")
    try:
        return parse_json_object(path.read_bytes(), str(path), error, halves=halves)
    except error:
        refuse_other_kind(path, error, text=True)
        raise


def parse_json_object(
    text: bytes, where: str, error: type[HardwireError], *, unique: bool = False, halves: Collection[str] = ()
) -> dict[str, Any]:
    """Parse a JSON object in UTF-8; with ``unique``, no object in it may have a key twice.

    An escape may stand for half of a pair, a lone surrogate.  Only the fields ``halves`` may hold one.

    Raises ``error``, which begins with ``where``, for anything else.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique if unique else None)
        if b"\\ud" in text.lower():
            # It is no text, and no library could take it.
            texts = {key: part for key, part in value.items() if key not in halves} if isinstance(value, dict) else value
            json.dumps(texts, ensure_ascii=False).encode("utf-8")
    except ValueError as reason:
        raise error(f"{where}: not JSON: {reason}") from None
    except RecursionError:
        raise error(f"{where}: not JSON of a configuration: its lists are nested too deeply") from None
    if not isinstance(value, dict):
        raise error(f"{where}: not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} occurs twice")
        found[key] = value
    return found
