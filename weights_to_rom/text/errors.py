"""The error of this room."""

from weights_to_rom.errors import HardwireError


class TokenizerError(HardwireError):
    """A tokenizer cannot be read or used.  The message is one line: the file and the fault."""
