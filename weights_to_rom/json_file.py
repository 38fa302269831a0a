"""Files that hold one JSON object: configurations of checkpoints, tokenizers and adapters."""

import json
from pathlib import Path
from typing import Any

from weights_to_rom.errors import HardwireError
from weights_to_rom.other_files import refuse_other_kind

# Parsed JSON takes up to thirty times the memory of its text.  No configuration or index of a published model reaches 4 MB.
MAX_BYTES = 32 << 20


def read_json_object(path: Path, error: type[HardwireError]) -> dict[str, Any]:
    """Read the JSON object of a UTF-8 file.

    Raises ``error``, which names the file, if the text is not JSON or not an object, or if it has more than 32 MiB.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise error(f"{path}: has {size} bytes: no configuration has more than {MAX_BYTES}")
    try:
        return parse_json_object(path.read_bytes(), str(path), error)
    except error:
        refuse_other_kind(path, error, text=True)
        raise


def parse_json_object(text: bytes, where: str, error: type[HardwireError], *, unique: bool = False) -> dict[str, Any]:
    """Parse a JSON object in UTF-8; with ``unique``, no object in it may have a key twice.

    Raises ``error``, which begins with ``where``, for anything else.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique if unique else None)
        if b"\\ud" in text.lower():
            # An escape may stand for half of a pair, which is no text; no library could take it.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
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
