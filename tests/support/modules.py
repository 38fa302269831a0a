"""The modules of the house, as git knows them."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

ROOMS = ("weights_to_rom", "hdl", "sim", "synth", "fpga", "hardwire")


def tracked(*patterns: str) -> list[Path]:
    """Files that git tracks and that are there."""
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, text=True, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()]


def module_of(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in tracked("*.py") if path.relative_to(ROOT).parts[0] in ROOMS}
"""Files by dotted name."""
