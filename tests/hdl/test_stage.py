# amaranth: UnusedElaboratable=no
"""A chain of stages equals golden to the bit, and each stage holds only its part of the model."""

import pickle
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.config import ChipConfig
from hdl.lib.streams import stage_beat, vector_beat
from hdl.stage import Stage
from hdl.units import asked, stage_units
from hdl.verilog import convert, whole_verilog
from sim.cocotb.runner import build, run
from sim.golden.embedding import embedding
from sim.golden.llama import GoldenLlama
from tests.support.models import RandomBlocks, random_config
from weights_to_rom.compile import quantise_checkpoint
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.pack.rom_image import stage_images, write_rom_images
from weights_to_rom.rom_map import stage_roms

pytestmark = pytest.mark.xdist_group("stage")  # one worker, so that the stages are built once

SHAPE = {"dim": 40, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "ffn_dim": 72, "vocab_size": 61}
LANES = {"row_lanes": 4, "block_lanes": 8, "vector_lanes": 4}
N_TOKENS = 5
CHAIN = ({"layers": range(1), "head": False, "prefix": "s0_"}, {"layers": range(1, 2), "head": True, "prefix": "s1_"})


@cache
def model_and_config() -> tuple[IntegerModel, ChipConfig]:
    model = quantise_checkpoint(RandomBlocks(random_config(**SHAPE), 3))
    return model, ChipConfig.for_model(model.format, **LANES, max_context=16)


class Chain(wiring.Component):
    """Two stages and the link between them, on which a beat moves only while ``link_open`` is high."""

    def __init__(self, model, config, chain=CHAIN):
        self.stages = [Stage(model=model, config=config, **part) for part in chain]
        first, last = self.stages
        super().__init__(
            {
                "i": In(stream.Signature(first.i.payload.shape())),
                "logits": Out(stream.Signature(last.logits.payload.shape())),
                "link_open": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.first, m.submodules.last = first, last = self.stages
        connect(m, flipped(self.i), first.i)
        connect(m, last.logits, flipped(self.logits))
        m.d.comb += [
            last.i.valid.eq(first.o.valid & self.link_open),
            last.i.payload.eq(first.o.payload),
            first.o.ready.eq(last.i.ready & self.link_open),
        ]
        return m


def vectors(model: IntegerModel, config: ChipConfig, tokens: list[int]) -> list[int]:
    """The beats in which the embedded tokens enter the first stage, with their contexts."""
    f, vl = model.format, config.vector_lanes
    (stage,) = [Stage(model=f, config=config)]
    layout = stage.i.payload.shape()
    assert layout == stage_beat(vl, f.wide_bits, layout["context"].shape)
    beats = []
    embedded = embedding(model.matrices["embed"], np.array(tokens), model.residual_shift, f.wide_bits)
    for position, h in enumerate(embedded):
        padded = np.pad(h, (0, f.dim_padded - len(h))).reshape(-1, vl).tolist()
        context = {"sequence": 0, "position": position, "place": position, "whole": 0, "adapter": 0, "sample": 1}
        for n, elements in enumerate(padded):
            last = int(n == len(padded) - 1)
            beats.append(layout.const({"data": elements, "context": context, "last": last}).as_bits())
    return beats


def logits(model: IntegerModel, config: ChipConfig, tokens: list[int]) -> list[int]:
    """The beats in which golden's logits must leave the last stage; the last beat of a token is filled up with zeros."""
    f, vl = model.format, config.vector_lanes
    layout, beats = vector_beat(vl, f.wide_bits), []
    for row in GoldenLlama(model).extend(tokens):
        padded = np.pad(row, (0, -len(row) % vl)).reshape(-1, vl).tolist()
        for n, elements in enumerate(padded):
            beats.append(layout.const({"data": elements, "last": int(n == len(padded) - 1)}).as_bits())
    return beats


def write_images(model: IntegerModel, folder, chain=CHAIN) -> None:
    """The ROM images of each stage of the chain."""
    for part in chain:
        write_rom_images(stage_images(model, **LANES, **part), folder / "rom")


@pytest.fixture(scope="module")
def chain(tmp_path_factory, runtime):
    """A simulation of the chain, and its folder with plan and images."""
    folder = tmp_path_factory.mktemp("chain")
    model, config = model_and_config()
    roms = [rom for part in CHAIN for rom in stage_roms(model.format, **LANES, **part).values()]
    (folder / "chain.v").write_text(whole_verilog(Chain(model.format, config), "chain", roms))
    ports = ["clk", "rst", "link_open", *(f"{s}__{part}" for s in ("i", "logits") for part in ("valid", "ready", "payload"))]
    simulation = build(folder / "chain.v", "chain", ports, folder, runtime=runtime)
    write_images(model, folder)
    tokens = np.random.default_rng(0).integers(model.format.vocab_size, size=N_TOKENS).tolist()
    plan = {"vectors": vectors(model, config, tokens), "logits": logits(model, config, tokens), "seed": 0}

    def simulate(stall: float) -> None:
        (folder / "beats.pickle").write_bytes(pickle.dumps(plan | {"stall": stall}))
        run(simulation, "chain", "tests.support.stage_bench", folder, seed=0)

    return simulate, folder


@pytest.mark.parametrize("stall", [0, 0.4])
def test_two_stages_of_a_layer_each_equal_goldens_two_layers(chain, stall):
    """Several tokens, some of them in both stages at once; with a stall, on every port and on the link."""
    simulate, _ = chain
    simulate(stall)


def test_swapped_prefixes_are_caught(chain):
    """Each stage with the other's layer: the shapes of the layers' ROMs fit, the logits do not."""
    simulate, folder = chain
    model, _ = model_and_config()
    swapped = [part | {"layers": other["layers"]} for part, other in zip(CHAIN, reversed(CHAIN), strict=True)]
    write_images(model, folder, swapped)
    with pytest.raises(AssertionError, match="beat 0 of the logits is wrong"):
        simulate(0)
    write_images(model, folder)
    simulate(0)


@pytest.mark.parametrize(("layers", "of_cache"), [(range(1), 1), (range(3), 3), ((2,), 1)])
def test_a_stage_holds_only_its_part(layers, of_cache):
    """The depths of the cache, of the ROMs and of adapter memory are those of the stage's layers, in Verilog too."""
    f = replace(model_and_config()[0].format, n_layers=3)
    config = ChipConfig.for_model(f, **LANES, lora_rank=4)
    stage = Stage(model=f, config=config, layers=layers, head=False, prefix="p_")
    roms = stage_roms(f, **LANES, layers=layers, head=False, prefix="p_")
    units = asked(stage_units(stage.model, config, head=False))
    assert units["lora"].component.words * 3 == asked(stage_units(f, config))["lora"].component.words * of_cache
    text = convert(stage, "stage", roms.values())
    assert set(re.findall(r"rom_(\w+) rom ", text)) == {*roms}
    positions = config.max_context * f.n_kv_heads * f.head_dim // config.attention_lanes
    depths = {int(n) for n in re.findall(rf"ram_{8 * config.attention_lanes + 8}x(\d+)\w* ", text)}
    assert of_cache * positions in depths and 3 * positions not in depths - {of_cache * positions}


def test_lanes_that_differ_are_modules_of_their_own(chain):
    """The head's rows have more terms: its stage's lanes are wider than those of the first, and no stage gets the other's."""
    (model, config), (_, folder) = model_and_config(), chain
    text = (folder / "chain.v").read_text()
    instances = {name: len(re.findall(rf"^  {name} lane_\d+ ", text, re.MULTILINE)) for name in ("row_lane", "row_lane_2")}
    deep = replace(model.format, head_bits=8, embed_bits=8, dim=1024)
    wide = convert(Chain(deep, config), "chain")
    apart = {name: len(re.findall(rf"^  {name} lane_\d+ ", wide, re.MULTILINE)) for name in ("row_lane", "row_lane_2")}
    assert (instances, apart) == ({"row_lane": 8, "row_lane_2": 0}, {"row_lane": 4, "row_lane_2": 4})


@pytest.mark.parametrize("layers", [(), (2,), (-1,), (0, 5)])
def test_layers_that_the_model_does_not_have_are_refused(layers):
    model, config = model_and_config()
    with pytest.raises(ValueError, match="layers must be some of 0 to 1, not"):
        Stage(model=model.format, config=config, layers=layers)
