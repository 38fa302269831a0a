"""The one line that a person gets for a wrong command or a wrong input."""

import errno
from typing import Any

from weights_to_rom.names import did_you_mean


def usage_line(error: Any) -> str:
    """Return the line for an error of typer, or "" for a command without arguments, which has shown its help instead."""
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    if not message:
        return ""
    if near := getattr(error, "possibilities", None):
        message = f"{error.message}{did_you_mean(error.option_name, near)}"
    elif " is not one of " in message:
        given, _, choices = message.rpartition(": ")[2].partition(" is not one of ")
        message = message.rstrip(".") + did_you_mean(given.strip("'"), choices.rstrip(".").replace("'", "").split(", "))
    command = error.ctx.command_path if error.ctx else "hardwire"
    return f"error: {message} (see {command} --help)"


def error_line(error: Exception) -> str:
    """Return the line for an error of input.  An error without a message of its own is named by its type."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: {error.filename}: {error.strerror or type(error).__name__}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"error: standard output: {error.strerror}"
    return f"error: {' '.join(str(error).split()) or type(error).__name__}"
