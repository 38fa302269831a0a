"""``hardwire trace``: its VCD files are read back, and compared with golden."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import sim.rtl.trace
from hardwire.cli.vocabulary import SCHEMA
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from hdl.fabric.interface import TAG_BITS, result_beat
from sim.golden.llama import GoldenLlama
from tests.support.cli import SHAPE, Hardwire, write_model
from weights_to_rom.schedule import Step

pytestmark = pytest.mark.xdist_group("trace")  # one worker, so that its chip is built once

PROMPT = (7, 9, 30)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    model = write_model(folder / "model", config=replace(SHAPE, max_seq_len=8))
    compile_model(Source.open(str(model)), folder / "out", simulation=False, row_lanes=2)
    return folder / "out"


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def read_vcd(text: str) -> tuple[set[str], dict[str, list[int]]]:
    """Return the scopes that hold signals, and the values at each time of the signals of the outermost scope."""
    scope, scopes, names = [], set(), {}
    declarations, changes = text.split("$enddefinitions $end", 1)
    for line in declarations.splitlines():
        word = line.split()
        if word[:1] == ["$scope"]:
            scope.append(word[2])
        elif word[:1] == ["$upscope"]:
            scope.pop()
        elif word[:1] == ["$var"]:
            scopes.add(".".join(scope))
            names.setdefault(word[3], []).append((".".join(scope), word[4]))
    outermost = min(scopes, key=len)
    values = {name: [] for all_names in names.values() for where, name in all_names if where == outermost}
    now, time = {}, None

    def tick() -> None:
        for code, all_names in names.items():
            for where, name in all_names:
                if where == outermost:
                    values[name].append(now.get(code))

    for line in changes.splitlines():
        if line.startswith("#"):
            if time is not None:
                tick()
            assert int(line[1:]) == (0 if time is None else time + 1)
            time = int(line[1:])
        elif match := re.fullmatch(r"b([01]+) (\S+)|([01])(\S+)", line):
            now[match[2] or match[4]] = int(match[1] or match[3], 2)
    tick()
    return scopes, values


def golden_results(out, position: int) -> tuple[list[int], dict[Step, np.ndarray]]:
    """Return the tokens up to a position, and golden's results of the fabric at that position, rows in the chip's order."""
    output = CompiledModel(out)
    llama, tokens, seen = GoldenLlama(output.model), list(PROMPT), {}
    first = {"k": Step.QKV, "o": Step.O, "gate": Step.GATE_UP, "down": Step.DOWN, "embed": Step.HEAD}

    def observe(unit, layer, parts):
        if unit == "matvec":
            seen[first[next(iter(parts))]] = [part[0] for part in parts.values()]

    llama.observe = observe
    for here in range(position + 1):
        logits = llama.extend([tokens[here]])
        if here + 1 == len(tokens):
            tokens.append(int(np.argmax(logits[0])))
    lanes = output.config.vector_lanes
    rows = {step: np.concatenate(parts) for step, parts in seen.items()}
    rows[Step.GATE_UP] = np.stack([part.reshape(-1, lanes) for part in seen[Step.GATE_UP]], 1).reshape(-1)
    return tokens, rows


def test_the_waves_are_the_units_and_the_tokens(hardwire, out, tmp_path):
    """The fabric's result queue in a token of the continuation: cycles and scopes are right, and every beat equals golden's."""
    position = 5
    file = tmp_path / "waves.vcd"
    result = hardwire("trace", out, "--token", position, "--unit", "matvec.output", "--prompt", "7 9 30", "-o", file, "--json")
    assert result.code == 0 and [path.name for path in tmp_path.iterdir()] == ["waves.vcd"]
    figures = json.loads(result.out)
    tokens, rows = golden_results(out, position)
    chip = CompiledModel(out).chip(kind=sim.rtl.trace.traced("chip.core.stage.matvec.output"))
    replies = [chip.token(token, restart=here == 0) for here, token in enumerate(tokens[: position + 1])]
    chip.close()
    assert figures == {
        "file": str(file),
        "bytes": file.stat().st_size,
        "unit": "chip.core.stage.matvec.output",
        "position": position,
        "schema": SCHEMA,
        "token": tokens[position],
        "cycles": replies[-1].cycles,
    }

    scopes, values = read_vcd(file.read_text())
    assert min(scopes, key=len) == "TOP.chip.core.stage.matvec.output"
    assert all(scope.startswith("TOP.chip.core.stage.matvec.output") for scope in scopes)
    assert values["core_clk"] == [0, 1] * figures["cycles"] + [0]

    lanes = CompiledModel(out).config.vector_lanes
    layout = result_beat(lanes, 32, TAG_BITS)
    beats = {step: [] for step in Step}
    for valid, ready, payload in zip(*(values[f"o__{part}"][::2] for part in ("valid", "ready", "payload")), strict=True):
        if valid and ready:  # the values at the rising edge, which ends the low half
            beat = layout.from_bits(payload)
            beats[Step(beat["tag"])] += list(beat["data"])
    for step, expected in rows.items():
        assert beats[step][: len(expected)] == expected.tolist() and not any(beats[step][len(expected) :]), step


def test_tokens_of_the_prompt_and_the_files_place(hardwire, out):
    """A token of the prompt is traced with the existing build, into the compiled model's own folder."""
    result = hardwire("trace", out, "--token", 1, "--unit", "matvec.output", "--prompt", "7 9 30")
    file = out / "traces" / "matvec.output-1.vcd"
    cycles = (len(read_vcd(file.read_text())[1]["core_clk"]) - 1) // 2
    assert result.code == 0
    assert result.out == (
        f"{file}: chip.core.stage.matvec.output, token 9 at position 1, {cycles:,} cycles of two units of time, "
        f"{file.stat().st_size:,} bytes\n"
    )


def test_units_of_the_verilog(out):
    paths = sim.rtl.trace.units(CompiledModel(out).verilog.read_text())
    for name, path in (
        ("rmsnorm", "chip.core.stage.rmsnorm"),
        ("embedding", "chip.core.embedding"),
        ("lane_01", "chip.core.stage.matvec.lane_01"),
        ("attention.cache", "chip.core.stage.attention.cache"),
        ("stage", "chip.core.stage"),
        ("chip.core", "chip.core"),
    ):
        assert sim.rtl.trace.find_unit(name, paths) == path


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--token", 1, "--unit", "quack"), 1, "there is no unit quack: the chip has admission, constant, embedding, sampler,"),
        (("--token", 1, "--unit", "output"), 1, "there are several units output: attention.heads.output, matvec.output"),
        (("--token", 8, "--unit", "rope"), 1, "there is no token 8: the context holds 8"),
        (
            ("--token", 1, "--unit", "rope", "-o", "nowhere/x.vcd"),
            1,
            "nowhere/x.vcd: nowhere is not a folder that can be written to",
        ),
        (("--token", 1, "--unit", "rope", "-o", "x.fst"), 1, "x.fst: waves are written as VCD"),
        (("--token", 1, "--unit", "rope", "--prompt", "one"), 1, "has no tokenizer"),
        (("--token", -1, "--unit", "rope"), 2, "--token"),
        (("--token", 1), 2, "--unit"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_built(hardwire, out, monkeypatch, arguments, code, complaint):
    monkeypatch.setattr("sim.rtl.verilator.verilator", None)
    result = hardwire("trace", out, *arguments)
    assert result.code == code and complaint in result.err and result.err.count("\n") == 1 and result.out == ""


def test_a_file_that_cannot_be_written_whole(hardwire, out):
    """/dev/full takes no byte: the command reports the failure, and leaves no file."""
    from sim.rtl.verilator import SimulationError

    chip = CompiledModel(out).chip(kind=sim.rtl.trace.traced("chip.core.stage.matvec.output"))
    chip.trace("/dev/full")
    chip.token(1, restart=True)
    with pytest.raises(SimulationError, match="disk full"):
        chip.end_trace()
    chip.close()
