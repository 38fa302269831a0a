"""chip_axis: the chip with AXI4-Stream ports, driven by cocotbext-axi, gives golden's tokens and logits."""

import pickle
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hdl
from hdl.axi_stream import AXI_TOP, axi_stream_verilog, tdata_bits
from hdl.config import ChipConfig
from hdl.interface import COMMAND, LOAD_REPLY, REPLY, Layout, LoadStatus
from hdl.verilog import chip_verilog
from sim.cocotb.runner import build, run
from sim.rtl.verilator import verilator
from tests.chip.plan import Command, GoldenChip, Tokens, random_adapters
from tests.support.models import random_model
from weights_to_rom.adapters.lora import load_image
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.pack.rom_image import rom_images, write_rom_images

WAIVERS = Path(hdl.__file__).with_name("lint.vlt")
LANES = {"row_lanes": 4, "block_lanes": 32, "vector_lanes": 4}
SEED = 5


def conversation(model: IntegerModel, config: ChipConfig) -> list[tuple]:
    """Commands with golden's replies, and the packets of loads with the loader's replies."""
    rng = random.Random(SEED)
    chip, tokens = GoldenChip(model, config), Tokens(model.format, config, rng)
    adapters = random_adapters(model, config, SEED)
    exchanges: list[tuple] = []

    def say(numbers: list[int], count: int) -> None:
        for _ in range(count):
            exchanges.extend(("command", command, chip.token(command)) for command in tokens.next(numbers))

    def image(adapter: int, number: int) -> bytearray:
        words = load_image(adapters[adapter], model.format, number, config.lora_lanes, config.vector_lanes)
        return bytearray(words.astype("<u4").tobytes())

    exchanges += [("command", command, chip.token(command)) for command in tokens.refusals()]
    exchanges.append(("load", [image(0, 1)], [(1, LoadStatus.OK)]))
    chip.adapters[1] = adapters[0]
    say([0, 1], 3)
    # A packet that ends early, then a whole one for the same adapter.
    exchanges.append(("load", [image(1, 2)[:40], image(1, 2)], [(2, LoadStatus.INCOMPLETE), (2, LoadStatus.OK)]))
    chip.adapters[2] = adapters[1]
    say([2], 2)
    damaged = image(2, 1)
    damaged[20] ^= 1
    exchanges.append(("load", [damaged], [(1, LoadStatus.BAD_CHECKSUM)]))
    del chip.adapters[1]
    say([1, 2], 3)
    # A packet with too many words: the loader drops the words after the image.
    exchanges.append(("load", [image(3, 1) + bytes(12), image(4, 2)], [(1, LoadStatus.OK), (2, LoadStatus.OK)]))
    chip.adapters |= {1: adapters[3], 2: adapters[4]}
    say([1, 2], 3)
    return exchanges


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The sources and ROM images of a chip with adapters, a vocabulary that does not fill the last beat, and a conversation."""
    path = tmp_path_factory.mktemp("axi")
    model = random_model(seed=SEED, wide_bits=24, n_layers=1, vocab_size=50)
    config = ChipConfig.for_model(model.format, **LANES, max_context=8, n_sequences=2, lora_rank=4, n_adapters=2)
    for side in ("left", "right"):
        (path / f"{side}_axis.v").write_text(axi_stream_verilog(model.format, replace(config, prefix=side)))
    (path / "chip.v").write_text(chip_verilog(model.format, config))
    (path / "chip_axis.v").write_text(axi_stream_verilog(model.format, config))
    write_rom_images(rom_images(model, **LANES), path / "rom")
    alone = Command(7, sequence=1)
    talk = {
        "seed": SEED,
        "exchanges": conversation(model, config),
        "alone": (alone, GoldenChip(model, config).token(alone)),
    }
    samples = [reply.token for kind, _, reply in talk["exchanges"] if kind == "command" and reply.logits is not None]
    assert len(set(samples)) > 3
    (path / "talk.pickle").write_bytes(pickle.dumps(talk))
    return path


def ports(verilog: str) -> list[str]:
    """The names in the list of ports of chip_axis."""
    listed = re.search(rf"^module {AXI_TOP}\((.*?)\);", verilog, re.MULTILINE | re.DOTALL)
    assert listed
    return [name.strip() for name in listed[1].split(",")]


def test_the_bench_of_cocotbext_axi_passes(folder, runtime):
    """Tokens, logits, loads, resets and the rules of the streams: tests/support/axi_bench.py."""
    both = folder / "both.v"
    both.write_text("".join((folder / name).read_text() for name in ("chip.v", "chip_axis.v")))
    names = ports((folder / "chip_axis.v").read_text())
    simulation = build(both, AXI_TOP, names, folder, runtime=runtime)
    run(simulation, AXI_TOP, "tests.support.axi_bench", folder, seed=SEED)


def test_verilators_linter_is_content(folder):
    verilator("--lint-only", "-Wall", "--top-module", AXI_TOP, *map(str, (WAIVERS, folder / "chip_axis.v", folder / "chip.v")))


def test_two_wrapped_chips_fit_into_one_design(folder):
    """Each wrapper instantiates its own chip, and no two modules have the same name."""
    sources = [folder / "two.v"]
    # The ports of the chip are enough: tests/hdl/test_verilog.py tests the prefix of its modules.
    text = (folder / "chip.v").read_text()
    head, body = re.search(r"^module chip(\(.*?\);)(.*?)^endmodule", text, re.MULTILINE | re.DOTALL).groups()
    declared = re.findall(r"^  (?:input|output) .*;\n", body, re.MULTILINE)
    for side in ("left", "right"):
        chip = folder / f"{side}.v"
        chip.write_text(f"module {side}_chip{head}\n{''.join(declared)}endmodule\n")
        sources += [chip, folder / f"{side}_axis.v"]
    ports = ".aclk(clk), .aresetn(1'b1), .m_axis_reply_tready(1'b1), .m_axis_load_reply_tready(1'b1)"
    instances = "".join(f"  {side}_chip_axis {side}({ports});\n" for side in ("left", "right"))
    sources[0].write_text(f"module two(input clk);\n{instances}endmodule\n")
    verilator("--lint-only", "-Wno-PINMISSING", "--top-module", "two", *map(str, (WAIVERS, *sources)))
    modules = [name for path in sources for name in re.findall(r"^module (\S+?)[\s(]", path.read_text(), re.MULTILINE)]
    assert len(modules) == len(set(modules)) == 13


def test_a_chip_without_adapters_has_no_ports_for_them():
    model = random_model(n_layers=1)
    plain = axi_stream_verilog(model.format, ChipConfig.for_model(model.format, **LANES))
    stream = ("tdata", "tvalid", "tready")
    expected = {"aclk", "aresetn", "m_axis_reply_tlast"}
    expected |= {f"{port}_{signal}" for port in ("s_axis_command", "m_axis_reply") for signal in stream}
    expected |= {f"m_axis_logits_{signal}" for signal in ("tdata", "tkeep", "tvalid", "tlast")}
    assert set(ports(plain)) == expected
    assert "_load" not in plain


@pytest.mark.parametrize(("size", "bits"), [(1, 8), (8, 8), (9, 16), (17, 32), (32, 32), (84, 128), (103, 128), (129, 256)])
def test_tdata_is_a_power_of_two_of_bytes(size, bits):
    assert tdata_bits(Layout((("field", size),))) == bits


def test_the_comment_gives_the_place_of_every_field(folder):
    """A word with one field set, at the bits that the comment says, is unpacked as that field."""
    text = (folder / "chip_axis.v").read_text()
    for port, layout in {"s_axis_command": COMMAND, "m_axis_reply": REPLY, "m_axis_load_reply": LOAD_REPLY}.items():
        block = re.search(rf"^// {port}_tdata \[(\d+):0\]\n((?://   .*\n)+)", text, re.MULTILINE)
        assert block and int(block[1]) == tdata_bits(layout) - 1
        places = {name: (int(low or top), int(top)) for top, low, name in re.findall(r"\[(\d+)(?::(\d+))?\]  (\w+)", block[2])}
        assert list(places) == list(layout.widths)
        for name, (low, top) in places.items():
            ones = (1 << top - low + 1) - 1
            assert layout.unpack(ones << low) == dict.fromkeys(layout.widths, 0) | {name: ones}


def test_the_text_depends_on_the_format_alone():
    one, other = (random_model(seed=seed, n_layers=1) for seed in (1, 2))
    assert not np.array_equal(one.matrices["embed"].q, other.matrices["embed"].q)
    texts = {axi_stream_verilog(m.format, ChipConfig.for_model(m.format, **LANES)) for m in (one, other)}
    assert len(texts) == 1 and "src =" not in texts.pop()
