"""``compile --shared``: the chip equals golden, and options that do not fit it are refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from hardwire.check import verify
from hardwire.compiled import CompiledError, CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from hardwire.target import Target
from hdl.axi_stream import axi_stream_verilog
from hdl.interface import Status
from sim.backends import RtlSession
from sim.session import Sampling, SessionError
from tests.support.models import RandomCheckpoint, random_config


def compiled(folder, **changes):
    source = Source(RandomCheckpoint(random_config(**changes)), "random", None)
    compile_model(source, folder / "out", wide_bits=24, shared=True, max_context=16, simulation=False)
    return folder / "out"


def test_a_chip_on_the_shared_engine(tmp_path):
    out = CompiledModel(compiled(tmp_path))
    assert out.config.shared
    assert out.format.sine_bits == 8
    assert {"weights_00", "rows", "gain", "norm", "freq", "constant"} == set(out.manifest)
    assert "module spram" in (out.folder / "chip.v").read_text()
    assert (out.folder / "chip_axis.v").read_text() == axi_stream_verilog(out.format, out.config)


def test_a_damaged_wrapper_is_found(tmp_path):
    out = compiled(tmp_path)
    (out / "chip_axis.v").write_text("module chip_axis; endmodule\n")
    with pytest.raises(CompiledError, match=r"chip_axis\.v is not the file that was compiled: compile it again"):
        CompiledModel(out)


def test_a_large_epsilon(tmp_path):
    """The engine reads an epsilon as a signed word: the residual stream is scaled so that the word holds it."""
    model = CompiledModel(compiled(tmp_path, norm_eps=5.0)).model
    assert model.residual_shift == -1
    assert {norm.eps_q for norm in model.norms.values()} == {32 * 5 * 2**24 // 4}


def test_units_that_cannot_be_looked_at(tmp_path):
    with pytest.raises(ValueError, match="has one engine for all units, and no ports between them to look at: leave out --units"):
        verify(Target(str(compiled(tmp_path))), [], 1, layers=[])


def test_a_temperature():
    refusal = SimpleNamespace(status=Status.NO_NOISE, logits=np.zeros(0), token=0, end=False)
    session = RtlSession(SimpleNamespace(token=lambda *args, **kwargs: refusal), 50, 16)
    with pytest.raises(SessionError, match="takes the likeliest token: leave the temperature at 0"):
        session.step(1, Sampling(0.5))
