"""A simulated chip that is saved and resumed: it equals a chip that was not interrupted, and golden; wrong files are refused."""

import hashlib
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

import hdl.verilog
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model, respin
from hardwire.run import run as run_model
from hardwire.saved import KIND, check_writable, load
from hardwire.source import Source
from hardwire.state import SavedError
from hardwire.target import Target
from hdl.interface import Status
from sim.golden.llama import GoldenLlama
from sim.session import Sampling
from tests.support.adapters import random_peft_adapter, write_adapter
from tests.support.cli import Hardwire, write_model, write_talker
from weights_to_rom.adapters.lora import load_image
from weights_to_rom.adapters.peft import PeftAdapter
from weights_to_rom.readers.open import open_checkpoint

pytestmark = pytest.mark.xdist_group("save")  # one worker, so that the chip is built once

WINDOW, N_SINKS = 40, 4


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def adapter_of(config, seed: int) -> PeftAdapter:
    return random_peft_adapter(2, config, ("q", "v", "down"), 0.5, seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``out``: a chip of ``talker`` with every memory that holds state; two adapters for it; ``saved``, after 12 tokens."""
    folder = tmp_path_factory.mktemp("save")
    talker = write_talker(folder / "talker")
    small = {"block_lanes": 4, "vector_lanes": 2, "attention_heads": 1, "attention_lanes": 4}
    state = {"max_context": WINDOW, "n_sinks": N_SINKS, "n_sequences": 2, "lora_rank": 2}
    compile_model(Source.open(str(talker)), folder / "out", **small, **state)
    for seed, name in enumerate(("adapter", "another")):
        write_adapter(folder / name, adapter_of(open_checkpoint(talker).config, seed))
    return folder


@pytest.fixture(scope="module")
def saved(folder) -> Path:
    run_model(Target(str(folder / "out")), "The dog", 12, sampling=Sampling(), ignore_end=True, save_to=folder / "saved")
    return folder / "saved"


def run(hardwire: Hardwire, *arguments: object) -> dict:
    result = hardwire("run", *arguments, "--ignore-end", "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def refused(hardwire: Hardwire, complaint: str, *arguments: object, stdin: str = "") -> None:
    result = hardwire(*arguments, stdin=stdin)
    assert result.code == 1 and not result.out
    assert result.err.startswith("error: ") and complaint in result.err and result.err.count("\n") == 1


def test_two_sequences_and_an_adapter(folder):
    """Tokens, logits and cycles of a restored chip equal those of the chip that went on; its logits equal golden's."""
    output, subject = CompiledModel(folder / "out"), Target(str(folder / "out"), adapter=folder / "adapter")
    integers, config = subject.integer_adapter, output.config
    chip, other = output.chip(), output.chip()
    goldens = GoldenLlama(output.model, WINDOW, N_SINKS), GoldenLlama(output.model, WINDOW, N_SINKS)
    chip.load(load_image(integers, output.format, 2, config.lora_lanes, config.vector_lanes))

    def go_on(chip, first: int, last: int) -> list:
        """Give both sequences a token alternately, the second with the adapter."""
        replies = []
        for i in range(first, last):
            for sequence in (0, 1):
                reply = chip.token((7 * i + 3 * sequence) % 64, sequence=sequence, adapter=2 * sequence, restart=i == 0)
                assert reply.status == Status.OK
                replies.append(reply)
        return replies

    go_on(chip, 0, 50)  # the windows have slid
    state = chip.state()
    expected = go_on(chip, 50, 55)
    for sequence, golden in enumerate(goldens):
        logits = golden.extend([(7 * i + 3 * sequence) % 64 for i in range(55)], adapter=integers if sequence else None)
        assert all(np.array_equal(a, b.logits) for a, b in zip(logits[50:], expected[sequence::2], strict=True))
    other.restore(state)
    assert np.array_equal(other.state(), state)
    chip.restore(state)
    for again in (other, chip):
        for reply, before in zip(go_on(again, 50, 55), expected, strict=True):
            assert (reply.token, reply.position, reply.cycles) == (before.token, before.position, before.cycles)
            assert np.array_equal(reply.logits, before.logits)
    chip.close()
    other.close()


@pytest.mark.parametrize("adapter", [None, "adapter"])
def test_a_resumed_run_is_the_uninterrupted_one(hardwire, folder, tmp_path, adapter):
    """A run in three parts, of which the second leaves the window; every logit is compared with golden's."""
    given = ("--adapter", folder / adapter) if adapter else ()
    options = (folder / "out", "--temperature", 0.8, "--seed", 5, *given)
    whole = run(hardwire, *options, "--prompt", "The dog", "--tokens", 70)
    parts, position = [], 0
    for number, n in enumerate((20, 40, 10)):
        goes_on = ("--resume", tmp_path / str(number)) if number else ("--prompt", "The dog")
        figures = run(hardwire, *options, *goes_on, "--tokens", n, "--save", tmp_path / str(number + 1), "--check")
        assert figures["position"] == position
        check = figures["check"]
        assert check["first_difference"] is None
        assert (check["n_identical_tokens"], check["n_identical_logits"]) == (n, n * 64)
        position += len(figures["prompt_tokens"]) + n - 1
        parts.append(figures)
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    assert "".join(part["text"] for part in parts) == whole["text"]
    assert [part["prompt_tokens"] for part in parts[1:]] == [part["tokens"][-1:] for part in parts[:-1]]
    if adapter:
        plain = run(hardwire, *options[:-2], "--prompt", "The dog", "--tokens", 70)
        assert plain["tokens"] != whole["tokens"]


def test_a_resumed_run_takes_a_prompt(hardwire, folder, saved):
    figures = run(hardwire, folder / "out", "--resume", saved, "--prompt", " He was", "--tokens", 10, "--check")
    said, model = load(saved, Target(str(folder / "out"))), CompiledModel(folder / "out")
    assert figures["prompt_tokens"] == [*said.pending, *model.tokenizer.encode(" He was", bos=False)]
    assert figures["position"] == len(said.read) and figures["check"]["first_difference"] is None
    golden = GoldenLlama(model.model, WINDOW, N_SINKS)
    text = [*said.read, *figures["prompt_tokens"]]
    for token in figures["tokens"]:
        assert token == np.argmax(golden.extend(text, last_only=True)[0])
        text = [token]


def test_an_adapter_stays_with_the_chip(hardwire, folder, tmp_path, saved):
    out, file = folder / "out", tmp_path / "file"
    given = ("--adapter", folder / "adapter")
    run(hardwire, out, *given, "--prompt", "The dog", "--tokens", 9, "--save", file)
    with_it = run(hardwire, out, *given, "--resume", file, "--tokens", 9, "--check")
    assert run(hardwire, out, "--resume", file, "--tokens", 9)["tokens"] == with_it["tokens"]
    refused(hardwire, "was saved with an adapter, and --check needs it", "run", out, "--resume", file, "--check")
    another = ("--adapter", folder / "another", "--resume", file)
    refused(hardwire, f"{file}: was saved with another adapter than the one that is given", "run", out, *another)
    refused(hardwire, f"{saved}: was saved without an adapter: leave --adapter out", "run", out, *given, "--resume", saved)


def test_no_rom_is_in_the_file(folder, saved):
    """The saved difference is zero in the bytes of the state that hold the weights."""
    output = CompiledModel(folder / "out")
    chip = output.chip()
    state = chip.state().tobytes()
    chip.close()
    difference = zlib.decompress(load(saved, Target(output)).difference)
    assert len(difference) == len(state)
    width = output.manifest["weights_00"]["width"]
    words = (folder / "out" / "rom" / "weights_00.hex").read_text().split()
    assert len(words) > 500
    n_bytes = 1 << (width - 1).bit_length() >> 3 if width <= 64 else -(-width // 32) * 4
    rom = b"".join(int(word, 16).to_bytes(n_bytes, "little") for word in words)
    at = state.find(rom)
    assert at >= 0 and difference[at : at + len(rom)] == bytes(len(rom))
    assert any(difference)


def test_a_damaged_file_is_refused(hardwire, folder, saved, tmp_path):
    content, target, file = saved.read_bytes(), Target(folder / "out"), tmp_path / "file"
    first = content.index(b"\n")
    rng = np.random.default_rng(1)
    damaged = [content[:n] for n in (0, 1, 20, first, first + 1, first + 40, len(content) - 1)]
    damaged += [content + b"\0", b"hardwire saved", b"\n", saved.parent.joinpath("out/chip.json").read_bytes()]
    for at in [*range(first + 2), *rng.integers(first, len(content), 200)]:
        changed = bytearray(content)
        changed[at] ^= 1 << rng.integers(8)
        damaged.append(bytes(changed))
    for bad in damaged:
        file.write_bytes(bad)
        with pytest.raises(SavedError, match=f"^{file}: [^\n]*$"):
            load(file, target)
    file.write_bytes(content[:-1])
    refused(hardwire, f"{file}: is damaged or cut off", "run", folder / "out", "--resume", file)
    refused(hardwire, f"{file}: is damaged or cut off", "chat", folder / "out", "--resume", file, stdin="Hi\n")
    file.write_bytes(content.replace(KIND + b" 1", KIND + b" 2", 1))
    refused(hardwire, "was saved by another version of hardwire", "run", folder / "out", "--resume", file)
    refused(hardwire, "is not a file that --save wrote", "run", folder / "out", "--resume", folder / "talker/config.json")
    refused(hardwire, "nowhere: No such file", "run", folder / "out", "--resume", "nowhere")


def test_another_chip_is_refused(hardwire, folder, saved, tmp_path, monkeypatch):
    """A chip with the same Verilog and other weights is refused, and so is a state of another build of the simulation."""
    out = shutil.copytree(folder / "out", tmp_path / "out")
    config = open_checkpoint(folder / "talker").config
    verilog = (out / "chip.v").read_text()  # the Verilog depends on the shape alone, and generating it again takes long
    monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: verilog)
    respin(out, Source.open(str(write_model(tmp_path / "model", 3, config))))
    refused(hardwire, f"{saved}: was saved with another chip than {out} (model.safetensors, rom", "run", out, "--resume", saved)
    head, about, packed = saved.read_bytes().split(b"\n", 2)
    wrong_state = json.dumps(json.loads(about) | {"state_sha256": "0" * 64}).encode()
    too_short = zlib.compress(zlib.decompress(packed)[:-1])
    for body in (wrong_state + b"\n" + packed, about + b"\n" + too_short):
        other = tmp_path / "other"
        other.write_bytes(b" ".join([*head.split()[:3], hashlib.sha256(body).hexdigest().encode()]) + b"\n" + body)
        refused(hardwire, f"{other}: was saved with another build of the simulation", "run", folder / "out", "--resume", other)


def test_a_file_is_written_whole_or_not_at_all(hardwire, folder, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"kept")

    def broken(self, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", broken)
    result = hardwire("run", folder / "out", "--prompt", "The", "--tokens", 2, "--save", file)
    assert result.code == 1 and result.err.splitlines()[-1] == f"error: {file}: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and file.read_bytes() == b"kept"


def test_where_it_cannot_be_written_is_said_before_the_run(hardwire, folder, tmp_path):
    out = folder / "out"
    refused(hardwire, f"{tmp_path}/no/x: {tmp_path}/no is no folder", "run", out, "--prompt", "A", "--save", tmp_path / "no/x")
    refused(hardwire, f"{tmp_path}: is a folder", "run", out, "--prompt", "A", "--save", tmp_path)
    for option in ("--save", "--resume"):
        complaint = "x: only the simulated chip is saved and resumed: that takes backend rtl, not golden"
        refused(hardwire, complaint, "run", out, "--prompt", "A", "--backend", "golden", option, tmp_path / "x")
        refused(hardwire, complaint, "run", "stories-260k", "--prompt", "A", option, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def chat(hardwire: Hardwire, *arguments: object, lines: str) -> list[dict]:
    result = hardwire("chat", *arguments, "--tokens", 10, "--json", stdin=lines)
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def test_a_chat_goes_on(hardwire, folder, tmp_path):
    """A chat on the chip, saved by /save and by --save, gives the answers that golden gives without an interruption."""
    out, file, end = folder / "out", tmp_path / "file", tmp_path / "end"
    whole = chat(hardwire, out, "--backend", "golden", lines="Hi\nSo?\nNo\nYes\n")
    parts = chat(hardwire, out, "--save", end, lines=f"Hi\nSo?\n/save {file}\nNo\n")
    assert not any(answer["read_again"] for answer in whole)

    def said(answers: list[dict]) -> list:
        return [(answer["prompt_tokens"], answer["tokens"], answer["text"]) for answer in answers]

    assert said(parts) == said(whole[:3])
    assert said(chat(hardwire, out, "--resume", file, lines="No\nYes\n")) == said(whole[2:])
    assert said(chat(hardwire, out, "--resume", end, lines="Yes\n")) == said(whole[3:])
    refused(hardwire, "leave one of them out", "chat", out, "--resume", end, "--system", "Be a dog.")
    # A run resumes the file of a chat, and a chat resumes the file of a run.
    options = ("--chat", "--tokens", 10, "--check", "--json")
    figures = json.loads(hardwire("run", out, *options, "--resume", end, "--prompt", "Yes", "--save", file).out)
    assert (figures["prompt_tokens"], figures["tokens"]) == said(whole)[3][:2]
    assert figures["check"]["first_difference"] is None
    more = chat(hardwire, out, "--resume", file, lines="Hm\n")
    assert more == [more[0] | {"read_again": False}]


def test_a_text_that_is_no_chat_is_read_again_as_one(hardwire, folder, saved):
    answers = chat(hardwire, folder / "out", "--resume", saved, lines="Hi\nSo?\n")
    alone = chat(hardwire, folder / "out", "--backend", "golden", lines="Hi\nSo?\n")
    assert [answer["read_again"] for answer in answers] == [True, False]
    assert [answer["tokens"] for answer in answers] == [answer["tokens"] for answer in alone]


def test_a_name_that_no_file_can_have(tmp_path):
    check_writable(tmp_path / "caf\udce9", "rtl")  # bytes that are not UTF-8 make a good name
    for name in ("a\0b", "\ud800"):
        with pytest.raises(SavedError, match="no file can have this name"):
            check_writable(tmp_path / name, "rtl")
