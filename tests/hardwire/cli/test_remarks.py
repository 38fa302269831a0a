"""Remarks on stderr: characters that a vocabulary lacks, and how to go on after a command."""

from pathlib import Path

import pytest

import hdl.verilog
from hardwire import adapters, boards, compiler
from tests.support.cli import Hardwire, write_model, write_talker


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def test_characters_that_the_vocabulary_lacks_are_said_once(hardwire, tmp_path):
    result = hardwire("run", "stories-tiny", "--prompt", "\u00c9 9 \u00c9", "--tokens", 2)
    assert result.code == 0 and "warning: the vocabulary lacks '\u00c9', '9': the model does not see them\n" in result.err
    result = hardwire("chat", write_talker(tmp_path / "talker"), "--tokens", 2, stdin="Hi 9\nYes 9\nNo 8\n")
    assert result.code == 0 and result.err.count("warning: the vocabulary lacks") == 2
    assert "lacks '9': the model does not see it" in result.err and "lacks '8': the model does not see it" in result.err
    assert "lacks" not in hardwire("run", "stories-tiny", "--prompt", "Once upon a time", "--tokens", 2).err


def test_compile_says_how_to_go_on(hardwire, tmp_path, monkeypatch):
    monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: "")
    model, out = write_model(tmp_path / "model"), tmp_path / "my out"
    result = hardwire("compile", model, "-o", out, "--no-simulation")
    assert result.code == 0
    said = f"next: hardwire verify '{out}'    # {out}/chip.v reads the images in {out}/rom"
    assert result.err.splitlines()[-1] == said and "next:" not in result.out
    assert "next:" not in hardwire("compile", model, "-o", out, "--no-simulation", "--json").err
    monkeypatch.setattr(compiler, "ON_THE_SIMULATION", ())
    monkeypatch.setattr(compiler, "STEPS", compiler.STEPS[:3])
    for command in (("compile", model, "-o", out), ("respin", out, model)):
        result = hardwire(*command)
        assert result.code == 0 and result.err.splitlines()[-1] == f"next: hardwire run '{out}' --prompt '1'"
    assert hardwire("compile", "stories-tiny", "-o", out).err.endswith(f"next: hardwire run '{out}' --prompt 'Once upon a time'\n")


def test_the_commands_of_boards_say_how_to_go_on(hardwire, monkeypatch):
    report = {"bitstream": "build/x/fpga/icebreaker/top.bin"}
    monkeypatch.setattr(boards, "build", lambda *arguments, **options: report)
    monkeypatch.setattr(boards, "build_lines", lambda report: [])
    said = hardwire("fpga", "build", "stories-tiny", "--board", "icebreaker").err
    assert said == "next: hardwire fpga flash build/x --board icebreaker\n"
    monkeypatch.setattr(boards, "flash", lambda *arguments: {"board": "icebreaker", "bitstream": "build/x/top.bin"})
    result = hardwire("fpga", "flash", "build/x", "--board", "icebreaker")
    assert result.err == "next: hardwire chat build/x --port auto\n" and result.out == "build/x/top.bin is in icebreaker\n"
    assert hardwire("fpga", "flash", "build/x", "--board", "icebreaker", "--json").err == ""


def test_pack_says_how_to_go_on(hardwire, monkeypatch):
    figures = dict.fromkeys(("name", "folder", "slot", "rank", "chip_rank", "worst_block_error_in"), "x")
    figures |= {"targets": ["q"], "sram_bits": 1, "frame_words": 1, "worst_block_error": 0.5}
    monkeypatch.setattr(adapters, "pack", lambda out, adapter, slot: figures)
    said = hardwire("lora", "pack", "out", Path("a dir")).err
    assert said == "next: hardwire run out --adapter 'a dir' --prompt 'Once upon a time'\n"


def test_memories_of_a_bitstream(hardwire, monkeypatch):
    figures = {"board": "icebreaker", "bitstream": "x"}
    figures |= {"memories": [{"name": "a", "words": 1024, "bits": 8, "block_rams": 2}], "logic": ["b", "c"]}
    monkeypatch.setattr(boards, "verify", lambda *arguments: figures)
    lines = hardwire("fpga", "verify", "out", "--board", "icebreaker").out.splitlines()
    assert lines == ["a: 1,024 words of 8 bits in 2 block RAMs: equal", "logic, which is not read back: b, c"]
    assert hardwire("fpga", "verify", "out", "--board", "icebreaker", "--json").code == 0
