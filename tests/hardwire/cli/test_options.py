"""The options of a chip, made from the fields of ChipConfig: every command has the same ones, and uses all of them."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from hardwire.compiler import compile_model
from hardwire.source import Source
from hdl.config import ChipConfig
from tests.support.cli import Hardwire, write_model


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model, and the same model compiled without its simulation."""
    folder = tmp_path_factory.mktemp("options")
    compile_model(Source.open(str(write_model(folder / "model"))), folder / "out", simulation=False)
    return folder


def test_a_chip_has_the_same_options_everywhere(hardwire):
    """Every command has the fields of ChipConfig and the width of the residual stream as options, with the same help."""
    panels = []
    for name in (("compile",), ("explain",), ("fpga", "build")):
        text = hardwire(*name, "--help").out
        panels.append(text[text.index("─ Chip ─") :].split("╰")[0])
        assert all(f"--{field.name.replace('_', '-')} " in panels[-1] for field in fields(ChipConfig))
    assert "--wide-bits " in panels[0] and panels[0] == panels[1] == panels[2]


def test_explain_takes_every_option_of_a_chip(hardwire, folder):
    """explain takes the chip that compile would make of a MODEL; a compiled model has its own options already."""
    given = ("--row-lanes", 4, "--block-lanes", 16, "--n-sinks", 4, "--lora-rank", 4, "--sampler-lanes", 2, "--n-sequences", 3)
    figures = json.loads(hardwire("explain", folder / "model", *given, "--wide-bits", 24, "--json").out)
    lanes = {"row_lanes": 4, "block_lanes": 16, "n_sinks": 4, "lora_rank": 4, "sampler_lanes": 2, "n_sequences": 3}
    expected = ChipConfig.for_model(Source.open(str(folder / "model")).format(24), **lanes)
    assert figures["lanes"] == expected.as_dict()
    for option in ("--row-lanes", "--wide-bits", "--n-sinks"):
        result = hardwire("explain", folder / "out", option, 24)
        assert result.code == 1 and f"is a chip with lanes of its own: leave {option} out" in result.err


def test_compile_takes_every_option_of_a_chip(hardwire, folder, tmp_path):
    given = ("--row-lanes", 4, "--multiplier", "booth", "--n-sinks", 4, "--lora-rank", 4, "--lora-lanes", 2, "--n-adapters", 3)
    result = hardwire("compile", folder / "model", "-o", tmp_path / "out", *given, "--no-simulation", "--json")
    lanes = {"row_lanes": 4, "multiplier": "booth", "n_sinks": 4, "lora_rank": 4, "lora_lanes": 2, "n_adapters": 3}
    expected = ChipConfig.for_model(Source.open(str(folder / "model")).format(), **lanes)
    assert json.loads(result.out)["derived"]["lanes"] == expected.as_dict()
