"""The functions of a simulation's library (harness.cpp, observe.cpp, trace.cpp), with the types of their arguments."""

import ctypes
from pathlib import Path

from weights_to_rom.schedule import Step

POINTER, COUNT, TEXT = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p


class Statistics(ctypes.Structure):
    """The harness's counts during a token.  The fields are those of ``struct Statistics`` in harness.cpp."""

    _fields_ = (("cycles", COUNT), ("busy", COUNT * len(Step)), ("within", COUNT * len(Step)), ("logits", COUNT))


FUNCTIONS = {
    "new": (POINTER, [TEXT]),
    "reason": (TEXT, []),
    "delete": (None, [POINTER]),
    "token": (ctypes.c_int, [POINTER, POINTER, POINTER, POINTER, COUNT, COUNT, ctypes.POINTER(Statistics)]),
    "load": (ctypes.c_int, [POINTER, POINTER, COUNT, POINTER, COUNT]),
    "state": (COUNT, [POINTER, POINTER, COUNT]),
    "restore": (None, [POINTER, POINTER, COUNT]),
    "tap": (ctypes.c_int, [POINTER, TEXT, TEXT, TEXT, TEXT, ctypes.c_uint32]),
    "recorded": (COUNT, [POINTER, ctypes.c_int]),
    "take": (None, [POINTER, ctypes.c_int, POINTER]),
    "trace": (ctypes.c_int, [POINTER, TEXT]),
    "trace_end": (ctypes.c_int, [POINTER]),
}
"""Types of the result and the arguments of each ``simulation_<name>``.

A library has only the functions that its kind of chip needs: ``load``, for example, only with LoRA.
"""


def open_library(path: Path) -> ctypes.CDLL:
    """Open a simulation's library and declare the types of the functions that it has."""
    library = ctypes.CDLL(str(path.resolve()))
    for name, (result, arguments) in FUNCTIONS.items():
        if (function := getattr(library, f"simulation_{name}", None)) is not None:
            function.restype, function.argtypes = result, arguments
    return library
