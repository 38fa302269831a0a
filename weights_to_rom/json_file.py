"""Files that hold one JSON object: configurations of checkpoints, tokenizers and adapters."""

import json
from pathlib import Path
from typing import Any

from weights_to_rom.errors import HardwireError


def read_json_object(path: Path, error: type[HardwireError]) -> dict[str, Any]:
    """Read the JSON object of a UTF-8 file.

    Raises ``error``, which names the file, if the text is not JSON or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as reason:
        raise error(f"{path}: not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise error(f"{path}: not a JSON object")
    return value
