"""Adapters as integers, in memory and in frames, and `hardwire lora pack`: against docs/arithmetic.md read slowly."""

import json
import shutil
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import hardwire.adapters
import hdl.verilog
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from sim.golden.lora import lora
from sim.golden.mx import mx
from tests.data.generators.make_peft_reference import FOLDER
from tests.support.adapters import CONFIG_ODD, random_lora_blocks, random_peft_adapter, write_adapter
from tests.support.cli import SHAPE, Hardwire, write_model
from weights_to_rom.adapters.lora import (
    IntegerAdapter,
    LoraBlocks,
    adapter_bits,
    adapter_memory,
    adapter_words,
    layout_word,
    load_image,
    matrix_shape,
    quantise_adapter,
)
from weights_to_rom.adapters.peft import MODULES, WEIGHTS, AdapterError, LoraPair, PeftAdapter
from weights_to_rom.model_format import ModelFormat

FMT = ModelFormat.of(CONFIG_ODD)


# ---------------------------------------------------------------------------------------------------- integers


def slow_block(values: list[float]) -> tuple[list[int], int]:
    """Mantissas and exponent of a block, by trying exponents in exact arithmetic."""
    largest = max(abs(Fraction(v)) for v in values)
    if largest == 0:
        return [0] * len(values), 0
    e = -64
    while largest > 127 * Fraction(2) ** e:
        e += 1
    return [round(Fraction(v) / Fraction(2) ** e) for v in values], e


@pytest.mark.parametrize("rank", [2, 4, 32, 64])
def test_integers(rank):
    adapter = random_peft_adapter(rank=min(rank, 3) if rank < 64 else 37)
    shift, head = 3, FMT.head_dim
    integers = quantise_adapter(adapter, FMT, shift, rank)
    assert sorted(integers.matrices) == sorted(adapter.matrices)
    for name, pair in adapter.matrices.items():
        blocks, kind, nb = integers.matrices[name], name.rpartition(".")[2], min(32, rank)
        rows, n_blocks = matrix_shape(FMT, kind)
        factor = {"q": np.log2(np.e) / np.sqrt(head), "o": 2.0**shift, "down": 2.0**shift}.get(kind, 1.0) * pair.scale
        for i in range(rank):
            row = pair.a[i].tolist() if i < pair.rank else []
            row += [0.0] * (32 * n_blocks - len(row))
            for b in range(n_blocks):
                mant, e = slow_block(row[32 * b : 32 * b + 32])
                assert (blocks.a_mant[i, b].tolist(), blocks.a_exp[i, b]) == (mant, e)
        for r in range(rows):
            theirs = r
            if kind in ("q", "k"):
                within, j = r - r % head, r % head
                theirs = within + j // 2 + (head // 2 if j % 2 else 0)
            row = (pair.b[theirs].astype(np.float64) * factor).tolist() if r < len(pair.b) else []
            row += [0.0] * (rank - len(row))
            for c in range(rank // nb):
                mant, e = slow_block(row[nb * c : nb * c + nb])
                assert (blocks.b_mant[r, c].tolist(), blocks.b_exp[r, c]) == (mant, e)


def one_value(value: float, scale: float = 1.0) -> LoraBlocks:
    """An adapter of layers.0.up whose A holds one value."""
    a = np.zeros((1, 40), np.float32)
    a[0, 5] = value
    adapter = PeftAdapter("tests/adapter", {"layers.0.up": LoraPair(a, np.ones((52, 1), np.float32), scale)})
    return quantise_adapter(adapter, FMT, 0, 2).matrices["layers.0.up"]


@pytest.mark.parametrize(
    ("value", "mant", "e"),
    [
        (127.0, 127, 0),
        (-127.0, -127, 0),
        (float(np.nextafter(np.float32(127), np.float32(128))), 64, 1),  # 63.5 and a bit: rounded up
        (128.0, 64, 1),
        (1.0, 64, -6),
        (127 * 2.0**63, 127, 63),
        (127 * 2.0**-64, 127, -64),
        (2.0**-64, 1, -64),
        (2.0**-65, 0, -64),  # a tie, to even
        (1.5 * 2.0**-64, 2, -64),
        (2.0**-100, 0, -64),
        (0.0, 0, 0),
    ],
)
def test_exponents_at_their_ends(value, mant, e):
    blocks = one_value(value)
    assert (blocks.a_mant[0, 0, 5], blocks.a_exp[0, 0]) == (mant, e)
    assert (blocks.a_exp[1] == 0).all() and (blocks.a_exp[0, 1] == 0)


@pytest.mark.parametrize(("value", "scale", "where"), [(128 * 2.0**63, 1.0, "A of layers.0.up"), (1.0, 2.0**70, "B of layers.0.up"),
                                                       (1.0, 1e308 * 10, "B of layers.0.up")])  # fmt: skip
def test_too_large(value, scale, where):
    with pytest.raises(AdapterError, match=f"tests/adapter: {where}: reaches .* less than 127"):
        one_value(value, scale)


def test_steps_and_report():
    for kinds, steps, targets in (
        (("q",), 1, ["q"]),
        (("v", "o"), 3, ["v", "o"]),
        (("up",), 4, ["up"]),
        (("gate", "down"), 12, ["gate", "down"]),
        (tuple(MODULES), 15, list(MODULES)),
    ):
        integers = quantise_adapter(random_peft_adapter(kinds=kinds), FMT, 0, 4)
        assert (integers.steps, integers.report["targets"], integers.report["rank"]) == (steps, targets, 3)
    layers = {"layers.1.k": random_peft_adapter().matrices["layers.1.k"]}
    assert quantise_adapter(PeftAdapter("x", layers), FMT, 0, 4).steps == 1


def test_worst_block_error():
    """rms error of a block over the rms of its row, the padding left out; the worst of A and B."""
    adapter, worst = random_peft_adapter(), (0.0, "")
    for name, blocks in quantise_adapter(adapter, FMT, 0, 4).matrices.items():
        if name[-2:] in (".q", ".k"):
            continue  # other row order; q and k are not the worst
        pair = adapter.matrices[name]
        a = np.ldexp(blocks.a_mant.astype(float), blocks.a_exp[..., None].astype(int)).reshape(4, -1)[:3, : pair.a.shape[1]]
        b = np.ldexp(blocks.b_mant.astype(float), blocks.b_exp[..., None].astype(int)).reshape(-1, 4)[: len(pair.b), :3]
        for part, exact, got, size in (("A", pair.a, a, 32), ("B", pair.b * pair.scale, b, 4)):
            for row, row_got in zip(exact.astype(float), got, strict=True):
                for first in range(0, len(row), size):
                    block = slice(first, first + size)
                    error = np.sqrt(np.mean((row[block] - row_got[block]) ** 2)) / np.sqrt(np.mean(row**2))
                    worst = max(worst, (error, f"{name}, {part}"))
    report = quantise_adapter(adapter, FMT, 0, 4).report
    assert report["worst_block_error"] == pytest.approx(worst[0], rel=1e-6)
    assert report["worst_block_error_in"] == worst[1]


@pytest.mark.parametrize("kind", ["q", "v", "down"])
def test_the_adder_gives_what_the_adapter_says(kind):
    """golden on the quantised blocks, against scale * B (A x) with the constants of the specification's section 2."""
    adapter, rng = random_peft_adapter(rank=8), np.random.default_rng(5)
    pair, name = adapter.matrices[f"layers.1.{kind}"], f"layers.1.{kind}"
    integers = quantise_adapter(adapter, FMT, 2, 8).matrices[name]
    rows, n_blocks = matrix_shape(FMT, kind)
    x = np.zeros((20, 32 * n_blocks))
    x[:, : pair.a.shape[1]] = rng.normal(size=(20, pair.a.shape[1]))
    got = lora(np.zeros((20, rows), int), *mx(np.rint(x * 2**12).astype(int), -12, 32), integers, 32) * 2.0**-12
    want = pair.scale * (x[:, : pair.a.shape[1]] @ pair.a.T.astype(float) @ pair.b.T.astype(float))
    if kind == "q":
        want = want.reshape(20, -1, 2, 4).swapaxes(2, 3).reshape(20, -1) * np.log2(np.e) / np.sqrt(8)
    if kind == "down":
        want *= 4
    assert np.sqrt(np.mean((got[:, : want.shape[1]] - want) ** 2)) < 0.03 * np.sqrt(np.mean(want**2))
    assert not got[:, want.shape[1] :].any()


def test_refused_ranks():
    with pytest.raises(AdapterError, match=r"tests/adapter: layers.0.q has rank 5, the chip's adder only 4: .*--lora-rank"):
        quantise_adapter(random_peft_adapter(rank=5), FMT, 0, 4)
    for rank in (0, 1, 3, 128):
        with pytest.raises(ValueError, match=f"rank must be a power of two from 2 to 64, not {rank}"):
            quantise_adapter(random_peft_adapter(rank=1), FMT, 0, rank)
    with pytest.raises(AdapterError, match=r"layers.0.q has rank 65, and no chip has more than 64: train a smaller"):
        quantise_adapter(random_peft_adapter(rank=65), FMT, 0, 64)


@pytest.mark.parametrize("scale", [1e300, 1e308, -1e308])
def test_a_scale_beyond_all_numbers(scale):
    adapter = random_peft_adapter(rank=2, scale=scale)
    for pair in adapter.matrices.values():
        pair.b[0, 0] = 1e38
    with pytest.raises(AdapterError, match=r"B of layers.0.q: reaches .*, scale and constants folded in; the chip holds"):
        quantise_adapter(adapter, FMT, 0, 2)


def same(one: IntegerAdapter, other: IntegerAdapter) -> None:
    assert (one.rank, one.report, sorted(one.matrices)) == (other.rank, other.report, sorted(other.matrices))
    for name, blocks in one.matrices.items():
        for part in LoraBlocks.__dataclass_fields__:
            kept = getattr(other.matrices[name], part)
            assert kept.dtype == np.int8
            np.testing.assert_array_equal(getattr(blocks, part), kept)


def test_save_and_load(tmp_path):
    integers = quantise_adapter(random_peft_adapter(kinds=("q", "down")), FMT, 1, 4)
    path = tmp_path / "adapter.safetensors"
    integers.save(path)
    same(integers, IntegerAdapter.load(path))
    content = path.read_bytes()
    integers.save(path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    for length in (0, 10, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(AdapterError, match="cannot be read as an integer adapter"):
            IntegerAdapter.load(path)
    with pytest.raises(AdapterError, match="cannot be read"):
        IntegerAdapter.load(tmp_path / "none")
    with pytest.raises(AdapterError, match="is not a 'hardwire adapter 1' file"):
        IntegerAdapter.load(FOLDER / "peft_qv" / WEIGHTS)


# ------------------------------------------------------------------------------------------- memory and frames


def slow_crc(data: bytes) -> int:
    """CRC-32 of ISO-HDLC, bit by bit: polynomial 0x04c11db7 reflected, all ones in, all ones out."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            feedback = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0xEDB88320 if feedback else 0)
    return crc ^ 0xFFFFFFFF


def slow_words(adapter: IntegerAdapter, fmt: ModelFormat, lanes: int, vector_lanes: int):
    """Each word of adapter memory as a Python int, [address][lane], from section 6 sentence by sentence."""
    rank = adapter.rank
    nb = min(32, rank)
    per_word = 32 // nb

    def word(mantissas, exponents):
        bits = 0
        for j, m in enumerate(mantissas):
            bits |= (int(m) & 255) << (8 * j)
        for j, e in enumerate(exponents):
            bits |= (int(e) & 255) << (8 * (32 + j))
        return bits

    memory = []
    for layer in range(fmt.n_layers):
        for kinds in (("k", "v", "q"), ("o",), ("gate", "up"), ("down",)):
            parts = [adapter.matrices.get(f"layers.{layer}.{kind}") for kind in kinds]
            for kind, part in zip(kinds, parts, strict=True):
                for group in range(rank // lanes):
                    for block in range(matrix_shape(fmt, kind)[1]):
                        rows = range(lanes * group, lanes * group + lanes)
                        memory.append([word(part.a_mant[i, block], [part.a_exp[i, block]]) if part else 0 for i in rows])
            stacked = [(part, r) for kind, part in zip(kinds, parts, strict=True) for r in range(matrix_shape(fmt, kind)[0])]
            if kinds == ("gate", "up"):
                half = len(stacked) // 2
                turns = [list(range(first, first + vector_lanes)) for first in range(0, half, vector_lanes)]
                stacked = [stacked[r] for turn in turns for r in turn + [half + r for r in turn]]
            words = []
            if rank == 64:
                for part, r in stacked:
                    words += [word(part.b_mant[r, c], [part.b_exp[r, c]]) if part else 0 for c in range(2)]
            else:
                for first in range(0, len(stacked), per_word):
                    rows = [(part, r) for part, r in stacked[first : first + per_word]]
                    mant = [m for part, r in rows for m in (part.b_mant[r, 0] if part else [0] * nb)]
                    words.append(word(mant, [part.b_exp[r, 0] if part else 0 for part, r in rows]))
            words += [0] * (-len(words) % lanes)
            memory += [words[first : first + lanes] for first in range(0, len(words), lanes)]
    return memory


def random_integers(rank: int, fmt: ModelFormat = FMT, without=()) -> IntegerAdapter:
    """Every mantissa and exponent at random, padding too: nothing that moves goes unseen."""
    rng = np.random.default_rng(rank)
    return IntegerAdapter(rank, {
        f"layers.{i}.{kind}": random_lora_blocks(rng, rank, matrix_shape(fmt, kind)[1], matrix_shape(fmt, kind)[0],
                                            lambda shape: rng.integers(-64, 64, shape))
        for i in range(fmt.n_layers) for kind in MODULES if f"{i}.{kind}" not in without})  # fmt: skip


@pytest.mark.parametrize(
    ("rank", "lora_lanes", "vector_lanes"),
    [(2, 1, 4), (2, 2, 2), (4, 1, 8), (4, 4, 4), (8, 1, 4), (8, 2, 8), (8, 8, 2), (16, 1, 4), (16, 4, 4), (32, 2, 8), (64, 1, 4),
     (64, 4, 8), (64, 32, 4)],
)  # fmt: skip
def test_frame_word_by_word(rank, lora_lanes, vector_lanes):
    adapter = random_integers(rank, without=("0.q", "1.gate", "0.down", "1.down"))
    words = load_image(adapter, FMT, 3, lora_lanes, vector_lanes)
    assert words.dtype == np.uint32
    memory = slow_words(adapter, FMT, lora_lanes, vector_lanes)
    word_bits = 256 + 8 * 32 // min(32, rank)
    want = [3 | 0b0111 << 8, layout_word(FMT, rank, lora_lanes, vector_lanes)]
    for address in memory:
        for word in address:
            assert word < 1 << word_bits
            want += [word >> 32 * i & 0xFFFFFFFF for i in range(-(-word_bits // 32))]
    crc = slow_crc(b"".join(w.to_bytes(4, "little") for w in want))
    assert words.tolist() == [*want, crc]
    assert crc == zlib.crc32(words[:-1].astype("<u4").tobytes())
    # The sizes that hardware is built with.
    assert adapter_words(FMT, rank, lora_lanes) == len(memory)
    assert adapter_bits(FMT, rank, lora_lanes) == len(memory) * lora_lanes * word_bits
    assert adapter_memory(adapter, FMT, lora_lanes, vector_lanes).shape == (len(memory), lora_lanes, word_bits // 8)


def test_layout_word():
    """It depends on all that decides where a number lies, and on nothing else."""
    base = layout_word(FMT, 8, 2, 4)
    words = {base, layout_word(FMT, 16, 2, 4), layout_word(FMT, 8, 1, 4), layout_word(FMT, 8, 2, 8)}
    changes = ({"n_layers": 3}, {"dim": 48}, {"n_heads": 4}, {"n_kv_heads": 3}, {"head_dim": 16}, {"ffn_dim": 51})
    words |= {layout_word(replace(FMT, **change), 8, 2, 4) for change in changes}
    assert len(words) == 4 + len(changes)
    assert all(0 <= word < 1 << 32 for word in words)
    for change in ({"wide_bits": 24}, {"vocab_size": 99}, {"max_seq_len": 128}, {"o_bits": 8}):
        assert layout_word(replace(FMT, **change), 8, 2, 4) == base


def test_refused_frames():
    adapter = random_integers(8)
    for number in (0, 256, -1):
        with pytest.raises(ValueError, match=f"number must be 1 to 255, not {number}"):
            load_image(adapter, FMT, number, 1, 4)
    for lanes in (0, 3, 16):
        with pytest.raises(ValueError, match=rf"lora_lanes must divide the rank \(8\), not be {lanes}"):
            load_image(adapter, FMT, 1, lanes, 4)
    for change in ({"n_layers": 1}, {"ffn_dim": 99}):
        with pytest.raises(AdapterError, match=r"the adapter of layers\..* has another shape than the chip's"):
            load_image(adapter, replace(FMT, **change), 1, 1, 4)


# -------------------------------------------------------------------------------------------- hardwire lora pack


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """Chips with and without LoRA (all but their Verilog), and an adapter of q and v; not to be written to."""
    folder = tmp_path_factory.mktemp("lora")
    model = write_model(folder / "model")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: "// takes ten seconds, and no adapter needs it\n")
        adder = {"lora_rank": 8, "lora_lanes": 2, "n_adapters": 3}
        compile_model(Source.open(str(model)), folder / "out", simulation=False, **adder)
        compile_model(Source.open(str(model)), folder / "plain", simulation=False)
    write_adapter(folder / "pirates", random_peft_adapter(4, SHAPE, ("q", "v"), 2.0))
    return folder


@pytest.fixture
def out(compiled, tmp_path) -> Path:
    return shutil.copytree(compiled / "out", tmp_path / "out")


@pytest.fixture
def hardwire_command(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


def test_pack(hardwire_command, compiled, out):
    result = hardwire_command("lora", "pack", out, compiled / "pirates", "--slot", 2, "--json")
    assert (result.code, result.err) == (0, "")
    figures, folder = json.loads(result.out), out / "adapters" / "pirates"
    assert sorted(p.name for p in folder.iterdir()) == ["adapter.safetensors", "frame.bin", "report.json"]
    assert [p.name for p in folder.parent.iterdir()] == ["pirates"]
    assert json.loads((folder / "report.json").read_text()) | {"schema": 1} == figures
    output = CompiledModel(out)
    integers = quantise_adapter(
        random_peft_adapter(4, SHAPE, ("q", "v"), 2.0), output.format, output.model.residual_shift, 8)  # fmt: skip
    loaded = IntegerAdapter.load(folder / "adapter.safetensors")
    same(integers, loaded)
    words = np.fromfile(folder / "frame.bin", "<u4")
    np.testing.assert_array_equal(words, load_image(loaded, output.format, 2, 2, output.config.vector_lanes))
    # 4 + 2 + 2 heads of 8, dim 32, ffn 40 in 64: one or two blocks; L = 2 rows of A, L * 32 / 8 = 8 rows of B an address
    addresses = (3 * 4 + 8) + (4 + 4) + (2 * 4 + 16) + (4 * 2 + 4)
    assert figures["sram_bits"] == addresses * 2 * (256 + 32)
    assert figures["frame_words"] == len(words) == addresses * 2 * 9 + 3
    assert figures["layout"] == f"{layout_word(output.format, 8, 2, output.config.vector_lanes):08x}"
    expected = {"name": "pirates", "slot": 2, "rank": 4, "chip_rank": 8, "targets": ["q", "v"], "steps": ["qkv"]}
    assert expected.items() <= figures.items()
    assert figures["worst_block_error"] == integers.report["worst_block_error"]


def test_pack_for_a_person(hardwire_command, compiled, out):
    result = hardwire_command("lora", "pack", out, compiled / "pirates")
    first, second, third = result.out.splitlines()
    assert first == f"{out}/adapters/pirates: adapter 1, rank 4 of 8, on q, v"
    assert second == "36,864 bits of SRAM, 1,155 words to load it"
    assert third.startswith("worst block error: ") and third.rpartition(", in layers.0.")[2] in ("q, A", "q, B", "v, A", "v, B")


def test_pack_again_replaces(hardwire_command, compiled, out):
    hardwire_command("lora", "pack", out, compiled / "pirates")
    assert hardwire_command("lora", "pack", out, compiled / "pirates", "--slot", 3).code == 0
    assert np.fromfile(out / "adapters/pirates/frame.bin", "<u4")[0] & 255 == 3


def test_whole_or_not_at_all(hardwire_command, compiled, out, monkeypatch):
    hardwire_command("lora", "pack", out, compiled / "pirates")
    folder = out / "adapters" / "pirates"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device", "report.json")

    monkeypatch.setattr(hardwire.adapters, "write_json", full)
    result = hardwire_command("lora", "pack", out, compiled / "pirates", "--slot", 2)
    assert result.code == 1 and result.err.startswith(f"error: {folder}: No space left on device: ") and result.err.count("\n") == 1
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["pirates"]


def test_refused(hardwire_command, compiled, out, tmp_path):
    def refused(message, chip=out, adapter=compiled / "pirates", *options):
        result = hardwire_command("lora", "pack", chip, adapter, *options)
        assert result.code == 1
        assert result.err.startswith("error: ") and result.err.count("\n") == 1
        assert message in result.err, result.err
        assert not (Path(chip) / "adapters").exists() or not any(Path(chip, "adapters").iterdir())

    plain = compiled / "plain"
    refused(f"has no LoRA adder (build one with: hardwire compile {compiled / 'model'} -o {plain} --lora-rank 8)", plain)
    refused("no compiled model", tmp_path)
    refused("its chip holds adapters 1 to 3, not 4", out, compiled / "pirates", "--slot", 4)
    refused("adapter_config.json is missing", out, tmp_path / "nothing")
    write_adapter(tmp_path / "large", random_peft_adapter(9, SHAPE, ("o",)))
    refused("layers.0.o has rank 9, the chip's adder only 8", out, tmp_path / "large")
    write_adapter(tmp_path / "wide", random_peft_adapter(2, replace(SHAPE, dim=64), ("k",)))
    refused("has shape (2, 64), not (2, 32)", out, tmp_path / "wide")


def test_does_not_replace_what_it_did_not_write(hardwire_command, compiled, out):
    (out / "adapters" / "pirates").mkdir(parents=True)
    (out / "adapters" / "pirates" / "treasure").touch()
    result = hardwire_command("lora", "pack", out, compiled / "pirates")
    assert result.code == 1 and "pirates: is in the way, and no packed adapter" in result.err
    assert (out / "adapters" / "pirates" / "treasure").exists()
