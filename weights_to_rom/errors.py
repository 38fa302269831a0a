"""The base of every error that a user can cause."""


class HardwireError(ValueError):
    """Wrong input, told in one line: what is wrong, where, and what to do.

    The command line prints the line and ends; a program catches this class.  Any other exception is a defect of Hardwire.
    """
