"""A checkpoint that is quantised: its numbers are compared with the chip's range, and a person is told."""

import json
from dataclasses import replace

import numpy as np
import pytest

import hdl.verilog
from hardwire.compiled import CompiledModel
from hardwire.source import N_RANGE_TOKENS, Source
from tests.support.checkpoints import hugging_face_name, random_weights, write_hugging_face
from tests.support.cli import SHAPE, Hardwire
from weights_to_rom.readers.base import CheckpointError


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def write_scaled(folder, scales, config=SHAPE):
    """Write a random model.  ``scales`` multiplies matrices, by the last part of their names."""
    weights = random_weights(config, 3)
    tensors = {}
    for name, w in weights.items():
        kind = name.rpartition(".")[2]
        scale = 1 if w.ndim == 1 or kind == "embed" else 1.5 / np.sqrt(w.shape[1])
        tensors[hugging_face_name(name)] = w * np.float32(scale * scales.get(kind, 1))
    write_hugging_face(folder, config, tensors=tensors)
    return folder


@pytest.mark.parametrize("backend", ["golden", "float"])
def test_a_large_residual_gives_the_text_of_the_model_without_the_factor(hardwire, tmp_path, backend):
    """The head is the embedding of the plain model; a factor of 2**24 takes the residual stream out of 32 bits."""
    config = replace(SHAPE, tied=False)
    texts = []
    for exponent in (0, 24):
        stream = dict.fromkeys(("embed", "o", "down"), 2.0**exponent)
        model = write_scaled(tmp_path / f"times_{exponent}", stream, config)
        result = hardwire("run", model, "--prompt", "1 5 7", "--tokens", 12, "--backend", backend)
        assert result.code == 0 and "warning" not in result.err
        texts.append(result.out)
    assert texts[0] == texts[1]


def test_a_compiled_model_holds_a_large_residual_and_says_so(hardwire, tmp_path, monkeypatch):
    monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: "")
    model = write_scaled(tmp_path / "model", dict.fromkeys(("o", "down"), 2.0**19))
    result = hardwire("compile", model, "-o", tmp_path / "out", "--no-simulation", "--max-context", 16)
    assert result.code == 0 and "warning" not in result.err
    out = CompiledModel(tmp_path / "out")
    shift = out.model.residual_shift
    assert shift < 0
    assert f"note: the residual stream is scaled by 2^{shift} instead of 2^0, so that the chip's range holds it" in result.out
    measured = out.report["measured"]["ranges"]
    assert (measured["n_tokens"], measured["residual_shift"]) == (SHAPE.max_seq_len, shift)
    assert 1 / 8 <= measured["residual_peak"] < 1 / 4 and set(measured["saturated"].values()) == {0}
    assert json.loads((out.folder / "rom/manifest.json").read_text())["constant"]


def test_other_numbers_out_of_range_are_a_warning_wherever_the_model_is_used(hardwire, tmp_path, monkeypatch):
    monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: "")
    model, out = write_scaled(tmp_path / "model", {"v": 1e7}), tmp_path / "out"
    result = hardwire("compile", model, "-o", out, "--no-simulation", "--max-context", 16)
    assert result.code == 0
    (said,) = CompiledModel(out).warnings
    assert said.startswith(f"the chip's answers may be wrong: on {SHAPE.max_seq_len} tokens its numbers saturate (")
    measured = CompiledModel(out).report["measured"]["ranges"]
    assert f"{measured['saturated']['results']:,} results" in said and measured["first_saturated"] == "layers.0.v"
    for command in (("run", model), ("run", out, "--backend", "golden")):
        assert hardwire(*command, "--prompt", "1 2", "--tokens", 2).err.count(f"warning: {said}\n") == 1
    assert result.err.count("warning: ") == 1 and f"warning: {said}\n" in result.err


def test_numbers_that_no_chip_holds_are_refused(hardwire, tmp_path):
    model = write_scaled(tmp_path / "model", {"q": 1e13})
    for command in (("compile", model, "-o", tmp_path / "out"), ("run", model, "--prompt", "1 2")):
        result = hardwire(*command)
        assert result.code == 1 and not result.out
        assert result.err.startswith(f"error: {model}: the weights of layers.0.q are larger than blocks of integers hold")
    assert not (tmp_path / "out").exists()
    model = write_scaled(tmp_path / "other", dict.fromkeys(("o", "down"), 1e10))
    result = hardwire("compile", model, "-o", tmp_path / "out")
    assert result.code == 1 and result.err.count("\n") == 1
    assert result.err.startswith(f"error: {model}: the residual stream grows beyond 32 bits")
    with pytest.raises(CheckpointError):
        Source.open(str(write_scaled(tmp_path / "third", {"gate": 1e-14}))).quantise()


def test_the_tokens_that_are_read():
    """A model with a tokenizer reads a text first."""
    source = Source.open("stories-tiny")
    ranges = source.quantise().report["ranges"]
    assert ranges["n_tokens"] == N_RANGE_TOKENS and not ranges["first_saturated"] and not source.checkpoint.warnings
