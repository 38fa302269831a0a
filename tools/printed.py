"""Files that a script of this folder prints from code or from reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def out_of_date(printed: Mapping[Path, str]) -> dict[Path, str]:
    """Return the files of ``printed`` that do not exist or have other contents."""
    return {path: text for path, text in printed.items() if not path.exists() or path.read_text() != text}


def write_or_check(script: str, files: Mapping[Path, str], arguments: Sequence[str]) -> int:
    """Write the files that are out of date; with ``--check`` name them instead.  Returns the exit status.

    Parameters
    ----------
    script : str     ``__file__`` of the script that prints the files
    files : Mapping  the files that are out of date, with their new contents
    arguments : Sequence[str]   of the script
    """
    if "--check" in arguments:
        for path in files:
            print(f"{path.relative_to(ROOT)}: is not what tools/{Path(script).name} prints")
        return bool(files)
    for path, text in files.items():
        path.write_text(text)
    return 0
