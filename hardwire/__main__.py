"""The ``hardwire`` command as a program: ``hardwire``, or ``python -m hardwire``."""

import signal
import sys


def main() -> None:
    """Run a command.  Ctrl-C ends the process without a traceback even while modules are imported, and at its very end."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from hardwire.cli.main import main as run

    try:
        run()
    except KeyboardInterrupt:  # between the last step of the command and its end
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
