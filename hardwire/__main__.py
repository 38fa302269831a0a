"""``python -m hardwire`` is the ``hardwire`` command."""

from hardwire.cli.main import main

if __name__ == "__main__":
    main()
