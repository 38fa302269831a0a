"""Run the synthesis tools.  They are WebAssembly programs in Python packages of YoWASP."""

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
"""A function that is called from time to time with one line about the progress of a tool."""

POLL_SECONDS = 0.5
"""Seconds between two looks at a running tool."""


class BuildError(HardwireError):
    """A tool fails, or a design does not fit its device, is too slow, or differs from its bitstream."""


def tool_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each Python package."""
    return {name: version(name) for name in packages}


def run_tool(module: str, function: str, arguments: Sequence[str], folder: Path, log: str, progress: Progress) -> None:
    """Run ``module.function(arguments)`` in a process of its own, and report its progress from its log.

    Parameters
    ----------
    module, function : str
        The Python package of the tool, and the function in it that runs the tool and returns its exit status.
    arguments : sequence of str
        The command line of the tool.
    folder : Path
        The working folder of the tool.  The tool cannot read files outside of it, not even through links, because it is
        WebAssembly.
    log : str
        The name of a file in ``folder`` for the output of the tool.
    progress : Progress
        It is called with each line that ``progress_of`` finds in the log.

    Raises
    ------
    BuildError
        The tool failed.  The message is the last line with "ERROR:" in its log, or the last line if none has it.
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
    """Return the last ``size`` bytes of a file as text."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")


def progress_of(log: str) -> str:
    """Return the progress of Yosys or nextpnr from the end ``log`` of its log, or "" if no line shows it."""
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
    """Return 24 hexadecimal digits of the SHA-256 of ``parts``.  A result is kept under the key of its whole input.

    A part that is not bytes counts as its ``str``.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:24]
