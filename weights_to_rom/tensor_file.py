"""Write arrays to a safetensors file."""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a file.  It takes its name when it is complete, so that no reader meets half a file.

    Raises OSError, if the disk is full for example.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, metadata)
    except SafetensorError as error:
        # The library keeps the system's error as text alone: "I/O error: No space left on device (os error 28)".
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None
    temporary.replace(path)
