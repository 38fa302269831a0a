"""The base of every error that a user can cause."""


class HardwireError(ValueError):
    """The input is wrong.  The message is one line: the place, the fault and its remedy.

    The command line prints the line and ends; a program catches this class.  Any other exception is a defect of Hardwire.
    """
