"""Check two rules for files: none is larger than 2 MiB, and text that people write ends in exactly one newline.

    python tools/tidy.py FILE ...     name each file that breaks a rule; exit 1 if there is one

`.pre-commit-config.yaml` calls it with the files of a commit.
"""

import sys
from pathlib import Path

LARGEST = 2 << 20
WRITTEN = {".cpp", ".h", ".md", ".py", ".toml", ".txt", ".v", ".vlt", ".yaml", ".yml"}


def fault(path: Path) -> str | None:
    """Describe in one line the rule that a file breaks, or return None."""
    content = path.read_bytes()
    if len(content) > LARGEST:
        return f"{path}: has {len(content):,} bytes, more than the {LARGEST:,} that a file may have"
    if not content or path.suffix not in WRITTEN:
        return None
    if not content.endswith(b"\n"):
        return f"{path}: has no newline at its end"
    if content.endswith(b"\n\n"):
        return f"{path}: has empty lines at its end"
    return None


def main(names: list[str]) -> int:
    faults = [line for name in names if (path := Path(name)).is_file() and (line := fault(path))]
    print(*faults, sep="\n", end="\n" if faults else "")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
