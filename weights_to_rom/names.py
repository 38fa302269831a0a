"""Names that a person may have misspelt."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return ": did you mean NAME?" with the name that is most like ``word``, or "" if none is like it."""
    folded = {name.casefold(): name for name in names}
    near = get_close_matches(word.casefold(), folded, n=1)
    return f": did you mean {folded[near[0]]}?" if near else ""


def did_you_mean_path(path: Path, right: Callable[[Path], bool]) -> str:
    """Return ": did you mean PATH?" with the path in the same folder that is most like ``path``, among those that are ``right``."""
    try:
        names = [found.name for found in path.parent.iterdir() if right(found)]
    except (OSError, ValueError):  # no folder, or a name that no file can have
        return ""
    near = did_you_mean(path.name, names)
    return near and f": did you mean {path.parent / near.removeprefix(': did you mean ')}"
