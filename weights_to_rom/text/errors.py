"""The error of this room."""

from collections.abc import Iterator
from contextlib import contextmanager

from weights_to_rom.errors import HardwireError


class TokenizerError(HardwireError):
    """A tokenizer cannot be read or used.  The message is one line: the file and the fault."""


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn everything that a library raises into TokenizerError, which begins with ``what``.

    The package ``tokenizers`` raises plain exceptions, and panics of Rust, which are no ``Exception``.
    """
    try:
        yield
    except TokenizerError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what}: {' '.join(str(error).split())}") from None
