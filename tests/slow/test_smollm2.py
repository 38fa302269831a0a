# amaranth: UnusedElaboratable=no
"""SmolLM2-135M whole, in RTL: `make test-smollm2` (about ten minutes).  `make test` leaves it out."""

from dataclasses import replace

import pytest

from hardwire.check import verify
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.run import run
from hardwire.source import Source
from hardwire.target import Target
from hdl.cycles.token import token_cycles
from sim.rtl.observe import ObservedChip
from sim.session import Sampling
from tests.support.packer import packed_wrong

pytestmark = pytest.mark.smollm2

PROMPT = "What are three tips for staying healthy?"
LAYER = 17


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("smollm2") / "out"
    return out, compile_model(Source.open("smollm2-135m"), out, row_lanes=32, max_context=512)


@pytest.fixture(scope="module")
def out(report):
    return report[0]


def test_every_logit_of_an_answer_is_goldens(out):
    figures = verify(Target(str(out)), [PROMPT], 32, chat=True)
    assert figures["first_difference"] is None
    assert figures["n_tokens"] == figures["n_identical_tokens"] == figures["n_prompt_tokens"] + 31
    assert figures["n_logits"] == figures["n_identical_logits"] == figures["n_tokens"] * 49152


def test_cycles_are_those_that_shapes_predict(report):
    out, figures = report
    output, measured = CompiledModel(out), figures["measured"]
    assert set(measured["decode"]) >= {"1"}
    for context, at in measured["decode"].items():
        assert at["cycles"] == token_cycles(output.format, output.config, int(context)).total
    for context, cycles in measured["prefill"].items():
        assert cycles == token_cycles(output.format, output.config, int(context), sample=False).total


def changed(model, name, part, change):
    """A model with ``change`` applied to a copy of an array of a matrix."""
    matrix = model.matrices[name]
    array = getattr(matrix, part).copy()
    change(array)
    return replace(model, matrices={**model.matrices, name: replace(matrix, **{part: array})})


def broken_weight(model):
    def change(codes):
        codes[100, 3, 7] ^= 8

    return changed(model, f"layers.{LAYER}.up", "q", change)


def broken_exponent(model):
    def change(exponents):
        exponents[200] += 1

    return changed(model, f"layers.{LAYER}.o", "e", change)


def broken_table(model):
    """One entry of a norm's table of gains."""
    name = f"layers.{LAYER}.ffn_norm"
    gain_q = model.norms[name].gain_q.copy()
    gain_q[300] ^= 1 << 10
    return replace(model, norms={**model.norms, name: replace(model.norms[name], gain_q=gain_q)})


@pytest.fixture(scope="module")
def observed(out):
    """Copies of ``out`` then find the simulation that looks at every port ready."""
    CompiledModel(out).chip(kind=ObservedChip).close()
    return out


@pytest.mark.parametrize(
    ("spoil", "unit", "what"),
    [(broken_weight, "matvec", "up[100]"), (broken_exponent, "matvec", "o[200]"), (broken_table, "rmsnorm", "ffn_norm[300]")],
)
def test_a_broken_rom_is_found_and_located(observed, tmp_path, spoil, unit, what):
    wrong = Target(str(packed_wrong(observed, tmp_path / "wrong", spoil)))
    assert verify(wrong, ["The little dog was"], 4)["first_difference"]["what"].startswith("logit of token")
    first = verify(wrong, ["The little dog was"], 4, [LAYER])["first_difference"]
    assert (first["unit"], first["layer"]) == (unit, LAYER) and first["what"].startswith(what)
    assert first["rtl"] != first["golden"]


def test_an_answer_goes_on_from_a_file(out, tmp_path):
    def continued(prompt, n, **files):
        return run(Target(str(out)), prompt, n, sampling=Sampling(), **files)["tokens"]

    file = tmp_path / "saved"
    whole = continued("Once upon a time", 8)
    assert continued("Once upon a time", 4, save_to=file) + continued("", 4, resume=file) == whole
    assert file.stat().st_size < 10e6  # the cache, and not the ROMs


def test_the_sampler_draws_goldens_tokens(out):
    figures = run(Target(str(out)), "The", 4, sampling=Sampling(1.0, 7), check=True)["check"]
    assert figures["n_identical_tokens"] == 4 and figures["n_identical_logits"] == 4 * 49152
