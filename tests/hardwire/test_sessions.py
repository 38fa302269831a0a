"""Sessions of every backend of one model: they agree, and a session that cannot be opened is refused."""

from pathlib import Path

import pytest

from hardwire.compiled import CompiledError
from hardwire.compiler import compile_model
from hardwire.sessions import rtl_session, session
from hardwire.source import Source
from hardwire.target import Target
from tests.support.cli import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model, and the same model compiled, with a window that slides."""
    folder = tmp_path_factory.mktemp("sessions")
    source = Source.open(str(write_model(folder / "model")))
    compile_model(source, folder / "out", simulation=False, max_context=16, n_sinks=2)
    return folder


def test_golden_and_float_have_the_window_of_the_chip(folder):
    for name, max_context, slides in (("model", 24, False), ("out", 16, True)):
        for backend in ("golden", "float"):
            made = session(Target(folder / name), backend)
            assert (made.max_context, made.slides, made.vocab_size, made.position) == (max_context, slides, 41, 0)


def test_golden_of_a_checkpoint_and_of_its_chip_agree(folder):
    ours, theirs = (session(Target(folder / name), "golden") for name in ("model", "out"))
    for token in (3, 1, 4, 1, 5):
        assert (ours.step(token).logits == theirs.step(token).logits).all()


def test_a_target_of_a_compiled_model_that_is_open(folder):
    compiled = Target(folder / "out").compiled()
    assert Target(compiled).compiled() is compiled and Target(compiled).name == str(folder / "out")


def test_what_cannot_be_made_is_refused(folder):
    with pytest.raises(CompiledError, match="is not compiled"):
        rtl_session(Target(folder / "model"))
    with pytest.raises(CompiledError, match="backend must be one of rtl, golden, float, not 'gpu'"):
        session(Target(folder / "out"), "gpu")
