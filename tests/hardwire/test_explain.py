"""Predicted cycles against those of simulated chips, and ``hardwire explain``."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.explain import alternatives, explain
from hardwire.picture import colour
from hardwire.source import Source
from hdl.config import ChipConfig
from hdl.cycles.predict import predict_token
from hdl.cycles.token import FABRIC, UNITS, token_cycles
from hdl.mx import Mx
from hdl.residual import Residual
from hdl.swiglu import SwiGLU
from hdl.verilog import chip_verilog
from sim.rtl.chip import RtlChip, harness_defines
from sim.rtl.verilator import build_library
from tests.support.cli import Hardwire, write_model
from tests.support.models import RandomBlocks, random_config
from weights_to_rom.compile import quantise_checkpoint
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.pack.rom_image import rom_images, write_rom_images

pytestmark = pytest.mark.xdist_group("explain")  # one worker, so that its chips are built once


@dataclass(frozen=True)
class Case:
    """The shape of a random model, the chip's lanes, and the bits of the codes of matrices that are quantised already."""

    shape: Mapping
    lanes: Mapping
    bits: Mapping[str, int] = field(default_factory=dict)


# Shapes in which most of the reasons why a beat waits occur, and change the cycles of a token.
CASES = {
    "attention_waits": Case(
        {"dim": 24, "n_heads": 9, "n_kv_heads": 3, "ffn_dim": 48, "vocab_size": 7},
        {
            "row_lanes": 8,
            "block_lanes": 8,
            "vector_lanes": 4,
            "attention_heads": 3,
            "attention_lanes": 2,
            "n_sequences": 2,
            "sampler_lanes": 1,
        },
    ),
    "rope_waits": Case(
        {"n_layers": 1, "n_heads": 6, "n_kv_heads": 3, "head_dim": 24, "ffn_dim": 33, "vocab_size": 70, "tied": False},
        {"row_lanes": 4, "vector_lanes": 8, "attention_heads": 2, "attention_lanes": 4, "sampler_lanes": 2},
        {"o": 8, "down": 8, "embed": 8, "head": 4},
    ),
    "a_beat_is_eight_groups": Case(
        {"dim": 24, "n_layers": 3, "n_heads": 3, "n_kv_heads": 3, "head_dim": 16, "ffn_dim": 33, "vocab_size": 7},
        {"row_lanes": 1, "block_lanes": 8, "vector_lanes": 8, "attention_heads": 1, "attention_lanes": 4, "lora_rank": 2},
    ),
}


def build(case: Case, folder: Path) -> tuple[RtlChip, ModelFormat, ChipConfig]:
    model = quantise_checkpoint(RandomBlocks(random_config(**case.shape), 0, case.bits))
    config = ChipConfig.for_model(model.format, max_context=24, n_sinks=4, **case.lanes)
    (folder / "chip.v").write_text(chip_verilog(model.format, config))
    lanes = {lane: getattr(config, lane) for lane in ("row_lanes", "block_lanes", "vector_lanes")}
    write_rom_images(rom_images(model, **lanes), folder / "rom")
    library = build_library(folder / "chip.v", folder / "simulation", harness_defines(model.format, config))
    return RtlChip(library, folder / "rom", model.format, config), model.format, config


def compare(chip: RtlChip, model: ModelFormat, config: ChipConfig) -> None:
    """Compare every context, with and without LM head, and some tokens more if the window slides; sequences alternate."""
    for sample in (False, True):
        for position in range(config.max_context + 3 * (config.n_sinks > 0)):
            for sequence in range(config.n_sequences):
                reply = chip.token(position % model.vocab_size, sequence=sequence, restart=position == 0, sample=sample)
                predicted = token_cycles(model, config, min(position + 1, config.max_context), sample=sample)
                assert (position, reply.cycles) == (position, predicted.total)
                assert list(reply.busy) == [predicted.by_unit[unit] for unit in FABRIC]


@pytest.mark.parametrize("name", CASES)
def test_prediction_equals_the_simulated_chip(name, tmp_path):
    compare(*build(CASES[name], tmp_path))


SMOLLM2 = ModelFormat(
    dim=576, n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64, ffn_dim=1536, vocab_size=49152, max_seq_len=8192, tied=True
)
MEASURED = [
    # context: (prefill, decode), as ``hardwire compile`` measured them
    ("stories-tiny", {}, {1: (849, 1036), 128: (1323, 1510), 256: (1835, 2022)}),
    ("stories-260k", {}, {1: (8911, 11030), 128: (10986, 13105), 256: (13546, 15665)}),
    ("stories-260k", {"row_lanes": 2}, {1: (5101, 6196), 16: (5176, 6271), 512: (15066, 16161)}),
    ("stories-260k", {"row_lanes": 4, "block_lanes": 8}, {1: (8893, 11011), 256: (13528, 15646)}),
    (
        "stories-260k",
        {"row_lanes": 8, "vector_lanes": 4, "attention_heads": 2, "lora_rank": 8},
        {1: (2451, 2780), 128: (4736, 5065)},
    ),
    ("stories-260k", {"row_lanes": 8, "vector_lanes": 4, "attention_heads": 8}, {1: (2281, 2609), 128: (2916, 3244)}),
    (
        "stories-260k",
        {"row_lanes": 8, "vector_lanes": 4, "attention_heads": 1, "attention_lanes": 2},
        {1: (2931, 3259), 128: (22726, 23054)},
    ),
    ("stories-260k", {"row_lanes": 16}, {1: (1590, 1778), 64: (1905, 2093), 128: (2225, 2413)}),
    (
        "stories-260k",
        {"n_sinks": 4, "n_sequences": 2, "lora_rank": 8, "max_context": 256},
        {1: (8946, 11066), 256: (13581, 15701)},
    ),
    (SMOLLM2, {"row_lanes": 32, "max_context": 512}, {1: (124990, 180556)}),
]


@pytest.mark.parametrize(("model", "lanes", "cycles"), MEASURED)
def test_prediction_equals_what_was_measured(model, lanes, cycles):
    fmt = model if isinstance(model, ModelFormat) else Source.open(model).format()
    config = ChipConfig.for_model(fmt, **lanes)
    predicted = {n: tuple(token_cycles(fmt, config, n, sample=sample).total for sample in (False, True)) for n in cycles}
    assert predicted == cycles


def test_a_layer_is_accounted_for():
    fmt = Source.open("stories-260k").format()
    for context in (1, 100):
        token = token_cycles(fmt, ChipConfig.for_model(fmt, row_lanes=4), context)
        assert all(b.start == a.end + 1 for a, b in zip(token.path, token.path[1:], strict=False))
        ends = {span.unit: span.end for span in token.work}
        # No unit works outside of the layer, and the unit that a cycle is spent on works in that cycle.  The fabric's pipeline is
        # not shown.
        assert min(span.start for span in token.work) >= token.path[0].start
        assert max(span.end for span in token.work) == ends["down"] <= token.path[-1].end
        for span in token.path:
            if span.unit in ("matvec", "attention"):
                continue
            assert any(work.unit == span.unit and work.start <= span.end and span.start <= work.end for work in token.work)


def test_context_is_checked():
    fmt = Source.open("stories-tiny").format()
    for context in (0, 9):
        with pytest.raises(ValueError, match=rf"context must be 1 to max_context \(8\), not {context}"):
            token_cycles(fmt, ChipConfig.for_model(fmt, max_context=8), context)


SHARED = Case({"dim": 32, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "head_dim": 8, "ffn_dim": 40, "vocab_size": 11}, {})


def test_prediction_equals_the_simulated_shared_engine(tmp_path):
    """Compare the total and the words of each matrix at every context that a small chip holds, with and without LM head."""
    model = quantise_checkpoint(RandomBlocks(random_config(**SHARED.shape), 0, {}), wide_bits=24)
    config = ChipConfig.for_model(model.format, shared=True, max_context=16, n_sequences=2)
    (tmp_path / "chip.v").write_text(chip_verilog(model.format, config))
    write_rom_images(rom_images(model, row_lanes=1, block_lanes=8, vector_lanes=1), tmp_path / "rom")
    library = build_library(tmp_path / "chip.v", tmp_path / "simulation", harness_defines(model.format, config))
    chip = RtlChip(library, tmp_path / "rom", model.format, config)
    for sample in (False, True):
        for position in range(config.max_context):
            for sequence in range(config.n_sequences):
                reply = chip.token(position % model.format.vocab_size, sequence=sequence, restart=position == 0, sample=sample)
                predicted = predict_token(model.format, config, position + 1, sample=sample)
                assert (position, reply.cycles) == (position, predicted.total)
                # The fabric reads a weight word in four of the five words of a term.
                assert [5 * n for n in reply.busy] == [4 * predicted.by_unit[unit] for unit in FABRIC]


def test_a_layer_of_the_shared_engine_is_accounted_for():
    fmt = Source.open("stories-tiny").format(wide_bits=24)
    config = ChipConfig.for_model(fmt, shared=True, max_context=32)
    for context in (1, 32):
        token = predict_token(fmt, config, context)
        assert all(b.start == a.end + 1 for a, b in zip(token.path, token.path[1:], strict=False))
        assert (token.path[0].unit, token.path[-1].unit, token.work) == ("norm", "control", token.path)
        for unit in ("qkv", "o", "gate_up", "down", "attention", "swiglu"):  # these work in layers alone
            in_layer = sum(span.end - span.start + 1 for span in token.path if span.unit == unit)
            assert in_layer * fmt.n_layers == token.by_unit[unit] > 0


def test_explain_predicts_the_shared_engine(tmp_path):
    figures = explain("stories-tiny", None, tmp_path / "shared.png", wide_bits=24, shared=True, max_context=16)
    assert is_png(tmp_path / "shared.png")
    assert figures["instead"] == []
    for kind in ("decode", "prefill"):
        assert figures["predicted"][kind]["cycles"] == sum(figures["predicted"][kind]["by_unit"].values())


def test_every_unit_has_a_colour():
    for unit in (*UNITS, "identity", "a new unit"):
        assert re.fullmatch("#[0-9a-f]{6}", colour(unit))


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``model``, and ``out`` with its simulated chip."""
    folder = tmp_path_factory.mktemp("explain")
    write_model(folder / "model")
    compile_model(Source.open(str(folder / "model")), folder / "out", row_lanes=2, block_lanes=8)
    return folder


def test_the_check_sees_a_wrong_latency(folder, monkeypatch):
    output = CompiledModel(folder / "out")
    compare(output.chip(), output.format, output.config)
    for unit in (Residual, SwiGLU, Mx):
        with monkeypatch.context() as patch:
            patch.setattr(unit, "latency", unit.latency + 1)
            with pytest.raises(AssertionError):
                compare(output.chip(), output.format, output.config)


def test_explain(hardwire, folder):
    result = hardwire("explain", folder / "out", "--json")
    figures, report = json.loads(result.out), CompiledModel(folder / "out").report
    assert result.code == 0 and figures["context"] == 24
    for token in figures["predicted"].values():
        assert list(token["by_unit"]) == list(UNITS) and sum(token["by_unit"].values()) == token["cycles"]
    measured = report["measured"]
    assert set(figures["contexts"]) == set(measured["decode"]) == set(measured["prefill"])
    for n, kinds in figures["contexts"].items():
        cycles = {"decode": measured["decode"][n]["cycles"], "prefill": measured["prefill"][n]}
        assert kinds == {kind: {"predicted": cycles[kind], "measured": cycles[kind], "difference": 0.0} for kind in kinds}
    assert figures["predicted"]["decode"]["cycles"] == measured["decode"]["24"]["cycles"]
    assert figures["fabric"] == measured["decode"]["24"]["busy"]
    assert figures["picture"] == str(folder / "out" / "explain.png")

    text = hardwire("explain", folder / "out", "--context", 5).out
    table = {words[0]: words[1:] for line in text.splitlines() if (words := line.split()) and words[-1] == "predicted"}
    assert "at context 5:" in text and {*FABRIC, "attention", "norm", "all"} <= set(table)
    by_unit = [int(row[0].replace(",", "")) for unit, row in table.items() if unit in UNITS]
    assert sum(by_unit) == int(table["all"][0].replace(",", ""))
    assert "+0.00%" in text and f"picture: {folder / 'out' / 'explain.png'}" in text


def test_a_difference_is_shown(hardwire, folder):
    """The report has other cycles than predicted, as if a unit had changed."""
    path = folder / "out" / "report.json"
    whole = path.read_text()
    report = json.loads(whole)
    report["measured"]["decode"]["16"]["cycles"] = cycles = report["measured"]["decode"]["16"]["cycles"] * 5 // 4
    path.write_text(json.dumps(report))
    try:
        at = json.loads(hardwire("explain", folder / "out", "--json").out)["contexts"]["16"]["decode"]
    finally:
        path.write_text(whole)
    assert at["measured"] == cycles and at["difference"] == pytest.approx(-0.2, abs=2e-3)


def test_explain_before_compiling(hardwire, folder):
    """The cycles of a checkpoint's chip, and those that it lists for more lanes, which equal the cycles of a chip with these."""
    asked = {"row_lanes": "--row-lanes", "vector_lanes": "--vector-lanes"}
    options, lanes = ("--block-lanes", 8, "--context", 20, "--json"), {"--row-lanes": 2, "--vector-lanes": 4}

    def explain(**more: int) -> dict:
        words = {**lanes, **{asked[lane]: value for lane, value in more.items()}}
        return json.loads(hardwire("explain", folder / "model", *options, *sum(words.items(), ())).out)

    now = explain()
    measured = CompiledModel(folder / "out").report["measured"]["decode"]
    assert {n: at["decode"]["predicted"] for n, at in now["contexts"].items() if n != "20"} == {
        n: at["cycles"] for n, at in measured.items()
    }
    assert now["picture"] is None and all(at["decode"]["measured"] is None for at in now["contexts"].values())
    assert now["instead"] == sorted(now["instead"], key=lambda chip: chip["cycles"])
    assert set(asked) <= {chip["lane"] for chip in now["instead"]}
    for chip in now["instead"]:
        if chip["lane"] in asked:
            assert explain(**{chip["lane"]: chip["value"]})["predicted"]["decode"]["cycles"] == chip["cycles"]
            assert chip["more"] == round(chip["cycles"] / now["predicted"]["decode"]["cycles"] - 1, 4) < 0


@pytest.mark.parametrize("name", ["stories-tiny", "stories-260k"])
def test_default_lanes_are_those_that_explain_advises(name):
    """Whatever matrix lanes a chip has: the first advice is never to have more of the lanes that were filled in."""
    model = Source.open(name).format()
    for row_lanes, block_lanes in product((1, 2, 4, 8, 16, 32), (8, 32)):
        config = ChipConfig.for_model(model, row_lanes=row_lanes, block_lanes=block_lanes)
        first = [advice["lane"] for advice in alternatives(model, config, 128)][:1]
        assert first in ([], ["row_lanes"], ["block_lanes"])


def is_png(path: Path) -> bool:
    data = path.read_bytes()
    return data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82") and len(data) > 10_000


def test_the_picture_is_there_whole_or_as_it_was(hardwire, folder, tmp_path, monkeypatch):
    for subject in ("out", "model"):
        png = tmp_path / f"{subject}.png"
        assert hardwire("explain", folder / subject, "--png", png).code == 0
        assert is_png(png)
    before = png.read_bytes()

    def disk_is_full(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", disk_is_full)
    result = hardwire("explain", folder / "model", "--png", png)
    assert (result.code, result.out) == (1, "") and "No space left on device" in result.err
    assert png.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == ["model.png", "out.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ("nowhere", 1, "nowhere: no such file"),
        ("{folder}/out --context 25", 1, "a context is 1 to 24 positions there, not 25"),
        ("{folder}/out --context 0", 2, "--context"),
        ("{folder}/out --row-lanes 4", 1, "leave --row-lanes out"),
        ("{folder}/out --png {folder}", 1, "is a folder: name a file"),
        ("{folder}/out --png {folder}/no/x.png", 1, "no/x.png: its folder is not there"),
        ("{folder}/model --block-lanes 5", 1, "block_lanes must be 4, 8, 16 or 32, not 5"),
        ("{folder}/model --max-context 25", 1, "max_context (25) is beyond the 24"),
    ],
)
def test_bad_input_is_one_line(hardwire, folder, arguments, code, complaint):
    result = hardwire("explain", *(word.format(folder=folder) for word in arguments.split()))
    assert result.code == code and result.out == ""
    assert result.err.startswith("error: ") and complaint in result.err
    assert result.err.count("\n") == 1 and "Traceback" not in result.err


def test_only_the_picture_needs_matplotlib(folder):
    code = f"""
import sys
from hardwire.explain import explain
explain({str(folder / "model")!r}, None, None)
print("matplotlib" in sys.modules)
explain({str(folder / "out")!r}, None, None)
print("matplotlib" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]
