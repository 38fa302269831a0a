"""The files and modules of the house."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]

BUILT = {ROOT / name for name in ("build", "out", "sim_build")}

ROOMS = ("weights_to_rom", "hdl", "sim", "synth", "fpga", "hardwire")


def files(pattern: str = "*") -> list[Path]:
    """Files of the checkout whose path from its root matches ``pattern``, in order; not those that were built or installed."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__")) and not name.endswith(".egg-info") and (here / name) not in BUILT
        )
        found += [here / name for name in sorted(names) if (here / name).relative_to(ROOT).match(pattern)]
    return found


def module_of(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in files("*.py") if path.relative_to(ROOT).parts[0] in ROOMS}
"""Files by dotted name."""
