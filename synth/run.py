"""Run the synthesis tools, which YoWASP ships as WebAssembly in Python packages."""

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from weights_to_rom.errors import HardwireError

Progress = Callable[[str], None]
"""Is called now and then with a line that tells how far a tool has come."""

POLL_SECONDS = 0.5


class BuildError(HardwireError):
    """A tool refuses a design, or the design does not fit its device, or it is too slow."""


def tool_versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each Python package."""
    return {name: version(name) for name in packages}


def run_tool(module: str, function: str, arguments: Sequence[str], folder: Path, log: str, progress: Progress) -> None:
    """Run ``module.function(arguments)`` in a process of its own, and report its progress while its log grows.

    Parameters
    ----------
    module, function : str
        The Python package of the tool, and its entry point, which returns an exit status.
    arguments : sequence of str
        The command line of the tool.
    folder : Path
        Where the tool runs.  WebAssembly sees nothing outside of it, and follows no link out of it.
    log : str
        A file in ``folder`` that gets the output of the tool.
    progress : Progress
        Is called with what ``progress_of`` finds in the log.

    Raises
    ------
    BuildError
        The tool failed.  The message is the tool's own last line with "ERROR:", or the last line of its log.
    """
    program = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
    with (folder / log).open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], cwd=folder, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                if line := progress_of(_end_of(folder / log)):
                    progress(line)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        text = (folder / log).read_text(errors="replace")
        errors = [line for line in text.splitlines() if "ERROR:" in line]  # Yosys puts the file and line in front of "ERROR:"
        raise BuildError(
            f"{log.removesuffix('.log')}: {(errors or text.strip().splitlines() or ['no message'])[-1]} (see {folder / log})"
        )


def _end_of(path: Path, size: int = 4000) -> str:
    """The last ``size`` bytes of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")


def progress_of(log: str) -> str:
    """Return how far Yosys or nextpnr has come when its log ends with ``log``, or "" if no line tells."""
    found = ""
    for line in log.splitlines():
        if match := re.match(r"[\d.]+\. Executing (\w+)", line):
            found = f"pass {match[1]}"
        elif match := re.search(r"at iteration #(\d+), .*wirelen solved = (\d+)", line):
            found = f"placing: iteration {match[1]}, wires {int(match[2]):,}"
        elif match := re.search(r"at iteration #(\d+): temp.*wirelen = (\d+)", line):
            found = f"refining: iteration {match[1]}, wires {int(match[2]):,}"
        elif match := re.match(r"Info:\s+(\d+) \|\s+(\d+)\s+(\d+) \|\s+\d+\s+\d+ \|\s+(\d+)", line):
            found = f"routing: {int(match[4]):,} arcs left"
        elif match := re.match(r"Info: (Packing|Creating|Running|Routing|Promoting|Checksum)[^:]*", line):
            found = match[0].removeprefix("Info: ").rstrip(" .")[:60].lower()
    return found


def key_of(*parts: object) -> str:
    """Return 24 hexadecimal digits of the SHA-256 of ``parts``: the name under which a result of them is kept.

    A part is text, bytes, or anything whose ``str`` is all that matters of it.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:24]
