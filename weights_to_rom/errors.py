"""The base of every error that a user can cause."""


class HardwireError(ValueError):
    """The input is wrong.  The message is one line: the place, the fault and its remedy.

    The command line prints the line and ends; a program catches this class.  Any other exception is a defect of Hardwire.

    Parameters
    ----------
    message : str   Line ends, control characters and lone surrogates in it are escaped, because names and texts of damaged
                    files are quoted in messages.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in str(message)))
