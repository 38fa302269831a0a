"""Changed models and adapters: GGUF, safetensors, config.json, and peft's two files."""

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import bases, formats, values
from tests.fuzz.kind import check_finite, use_checkpoint
from tests.support.checkpoints import write_llama2c
from weights_to_rom.adapters.lora import quantise_adapter
from weights_to_rom.adapters.peft import open_peft
from weights_to_rom.errors import HardwireError
from weights_to_rom.json_file import parse_json_object, read_json_object
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.readers.gguf_header import read_header
from weights_to_rom.readers.open import open_checkpoint

# GGUF

_GGUF_KEYS = ["llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.expert_count", "split.count", "split.no",
              "general.type", "general.alignment", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id",
              "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.add_space_prefix",
              "tokenizer.ggml.add_eos_token", "llama.attention.value_length", "llama.vocab_size", "tokenizer.ggml.pre",
              "llama.attention.causal"]  # fmt: skip
_READ_NUMBERS = (
    "llama.rope.freq_base",
    "llama.attention.layer_norm_rms_epsilon",
    "tokenizer.ggml.scores",
    "llama.rope.scaling.factor",
)


def _change_field(rng: random.Random, file: formats.Gguf) -> None:
    fields = file.fields
    one = rng.choice(fields)
    what = rng.randrange(12)
    if what < 3:
        one.value = values.near(rng, one.value)
    elif what < 5:
        one.value = rng.choice(values.NUMBERS) if one.kind != formats.STRING else rng.choice(values.TEXTS)
    elif what < 7:
        one.kind = rng.randrange(13)
        one.element = rng.choice([formats.UINT32, formats.INT32, formats.FLOAT32, formats.STRING, formats.ARRAY, 13])
    elif what == 7 and isinstance(one.value, list) and one.value:
        one.value[rng.randrange(len(one.value))] = rng.choice([*values.NUMBERS, *values.TEXTS])
    elif what == 8:
        fields.remove(one)
    elif what == 9:
        kind = rng.choice([formats.UINT32, formats.INT32, formats.FLOAT32, formats.BOOL, formats.STRING, formats.ARRAY])
        value = rng.choice([*values.NUMBERS, *values.TEXTS])
        fields.append(
            formats.Field(rng.choice(_GGUF_KEYS), kind, value, rng.choice([formats.FLOAT32, formats.STRING, formats.INT32]))
        )
    elif what == 10:
        fields.append(formats.Field(one.key, one.kind, one.value, one.element) if rng.random() < 0.3 else
                      formats.Field("x" + str(one.key), one.kind, one.value, one.element))  # fmt: skip
    else:
        one.key = rng.choice([str(one.key) + "x", b"\xff\xfe", rng.choice(_GGUF_KEYS)]) if rng.random() < 0.3 else one.key
        one.value = values.near(rng, one.value)


def _change_tensor(rng: random.Random, file: formats.Gguf) -> None:
    one = rng.choice(file.tensors)
    what = rng.randrange(9)
    if what == 0:
        one.kind = rng.choice([0, 1, 2, 3, 6, 7, 8, 12, 14, 20, 24, 28, 30, 31, 36, 39, 41, 42, 99])
    elif what == 1:
        sizes = list(one.shape)
        sizes[rng.randrange(len(sizes))] = rng.choice([0, 1, 16, 31, 32, 64, 2**31, 2**62, 2**63])
        one.shape = tuple(sizes)
    elif what == 2:
        one.shape = rng.choice([one.shape[::-1], (), (1,) * 5, (*one.shape, 1), (1, *one.shape)])
    elif what == 3:
        one.offset = rng.choice([0, 1, 32, 2**32, 2**63, 2**64 - 1])
    elif what == 4:
        one.name = rng.choice(
            [one.name + "x", rng.choice(file.tensors).name, "rope_freqs.weight", "blk.0.attn_q.bias", "output.weight"]
        )
    elif what == 5:
        file.tensors.remove(one)
    elif what == 6:
        extra = rng.choice(
            ["blk.0.attn_q.bias", "rope_freqs.weight", "output.weight", "blk.9.attn_q.weight", "blk.0.attn_q.weight.lora_a"]
        )
        file.tensors.append(
            formats.TensorInfo(extra, 0, (32,), struct.pack("<32f", *(rng.choice([0.0, 1.0, 8.0, math.nan]) for _ in range(32))))
        )
    else:
        at = rng.randrange(0, max(1, len(one.data) - 4), 4)
        bad = rng.choice(
            [
                struct.pack("<f", math.nan),
                struct.pack("<f", math.inf),
                b"\xff\xff\xff\xff",
                b"\x00\x7c\x00\xfc",
                b"\x01\x7c\x01\x7c",
                b"\x01\x00\x80\x7f",
                rng.randbytes(4),
            ]
        )
        one.data = one.data[:at] + bad + one.data[at + 4 :]


def make_gguf(rng: random.Random, folder: Path) -> bool:
    """A GGUF file, with fields, tensors, counts or bytes changed."""
    file = bases.model_gguf(rng.choice(["llama", "gpt2", "none"]), rng.choice([0, 8]))
    for _ in range(rng.randint(1, 3)):
        (_change_field if rng.random() < 0.65 else _change_tensor)(rng, file)
        if not file.fields or not file.tensors:
            break
    what = rng.random()
    if what < 0.03:
        file.counts = rng.choice([(2**63, None), (None, 2**63), (0, None), (None, 0), (len(file.tensors) + 1, None)])
    elif what < 0.05:
        one = rng.choice(file.fields)
        one.length = rng.choice([2**63, 2**32, 2**22, 1000])
    elif what < 0.06:
        file.version = rng.choice([0, 1, 2, 4, 3 << 24, 2**32 - 1])
    data = file.bytes()
    (folder / "model.gguf").write_bytes(values.flipped(rng, data) if what > 0.93 else data)
    try:
        # The reader itself says which numbers the file holds in the end, because a changed type changes them.
        fields = read_header(folder / "model.gguf")[0]
    except HardwireError:
        return False
    has_tokenizer = fields.get("tokenizer.ggml.model") == "llama" and "tokenizer.ggml.tokens" in fields
    return any(values.has_nonfinite(fields.get(key)) for key in _READ_NUMBERS if has_tokenizer or key != "tokenizer.ggml.scores")


def first_gguf(folder: Path) -> object:
    return read_header(folder / "model.gguf")


def use_gguf(folder: Path) -> None:
    use_checkpoint(open_checkpoint(folder / "model.gguf"))


# safetensors

_NAMES = ["lm_head.weight", "model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.up_proj.lora_A.weight",
          "module.model.norm.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.mlp.down_proj.qweight",
          "__metadata__"]  # fmt: skip


def make_safetensors(rng: random.Random, folder: Path) -> bool:
    """A Hugging Face model whose weights, their header or their index are changed."""
    config, tensors = bases.hugging_face()
    (folder / "config.json").write_text(json.dumps(config))
    if rng.random() < 0.1:
        prefix = rng.choice(["module.", "_orig_mod.", "base_model.model.", "x."])
        tensors = {prefix + name: array for name, array in tensors.items()}
    dtypes = {name: rng.choice(["F32", "F16"]) for name in tensors} if rng.random() < 0.5 else {}
    if rng.random() < 0.2:
        name = rng.choice(list(tensors))
        tensors[name] = np.array(tensors[name])
        tensors[name].flat[rng.randrange(tensors[name].size)] = rng.choice([math.nan, math.inf, -math.inf])
    if rng.random() < 0.1:
        tensors[rng.choice(_NAMES)] = np.full((32,), rng.choice([0.0, 1.0, math.nan]), np.float32)
    file = formats.Safetensors.of(tensors, dtypes)
    what = rng.random()
    if what < 0.65:
        file.header = values.tree(rng, file.header, _NAMES, 2)
    elif what < 0.75:
        name = rng.choice(list(file.header))
        entry = file.header[name]
        entry[rng.choice(["shape", "data_offsets"])] = rng.choice(
            [[32, 32], [0, 0], [-1, 1], [2**40, 2**40], [1], [0, 2**63], [[1], 2]]
        )
        entry["dtype"] = rng.choice(["F32", "F64", "U8", "F8_E4M3", "I4", "BF16", "", "F32"])
    elif what < 0.78:
        file.length = rng.choice([0, 1, 2**31, 2**63, len(json.dumps(file.header)) - 1, 40 << 20])
    data = file.bytes()
    sharded = rng.random() < 0.2
    name = "a.safetensors" if sharded else "model.safetensors"
    (folder / name).write_bytes(values.flipped(rng, data) if what > 0.95 else data)
    if sharded:
        index = {"metadata": {}, "weight_map": dict.fromkeys(file.header if isinstance(file.header, dict) else tensors, name)}
        (folder / "model.safetensors.index.json").write_bytes(values.encoded(rng, values.tree(rng, index, most=1)))
    return False


def first_safetensors(folder: Path) -> object:
    index = folder / "model.safetensors.index.json"
    return read_json_object(index, HardwireError) if index.is_file() else _first_header(folder / "model.safetensors")


def _first_header(path: Path) -> object:
    """The header lies in the file, and is JSON."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise HardwireError("truncated")
    return parse_json_object(data[8 : 8 + length], str(path), HardwireError)


def use_folder(folder: Path) -> None:
    use_checkpoint(open_checkpoint(folder))


# config.json

_CONFIG_KEYS = ["rope_scaling", "rope_parameters", "rope_theta", "quantization_config", "quantization", "attention_bias",
                "sliding_window", "num_local_experts", "partial_rotary_factor", "tie_word_embeddings", "head_dim",
                "num_key_value_heads", "original_max_position_embeddings", "architectures", "bos_token_id",
                "eos_token_id"]  # fmt: skip
_ROPES = [{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64},
          {"type": "linear", "factor": 1.0}, {"rope_type": "default", "rope_theta": 10000.0},
          {"type": "yarn", "factor": 2.0}]  # fmt: skip


def make_config(rng: random.Random, folder: Path) -> bool:
    """A Hugging Face model whose config.json and generation_config.json are changed."""
    config, tensors = bases.hugging_face()
    if rng.random() < 0.5:
        config[rng.choice(["rope_scaling", "rope_parameters"])] = dict(rng.choice(_ROPES))
    (folder / "model.safetensors").write_bytes(formats.Safetensors.of(tensors).bytes())
    changed = values.tree(rng, config, _CONFIG_KEYS)
    (folder / "config.json").write_bytes(values.encoded(rng, changed, 0.04))
    if rng.random() < 0.4:
        generation = {"bos_token_id": 1, "eos_token_id": [2, 3], "temperature": 0.6}
        (folder / "generation_config.json").write_bytes(values.encoded(rng, values.tree(rng, generation, ["eos_token_id"], 2)))
    try:
        written = read_json_object(folder / "config.json", HardwireError)
    except HardwireError:
        return False
    ropes = [written[key] for key in ("rope_scaling", "rope_parameters") if isinstance(written.get(key), dict)]
    read = [written.get("rms_norm_eps"), written.get("rope_theta"), *(rope.get(key) for rope in ropes for key in _ROPES[0])]
    return any(isinstance(number, float) and not math.isfinite(number) for number in read)


def first_config(folder: Path) -> object:
    return read_json_object(folder / "config.json", HardwireError)


# llama2.c


def make_llama2c(rng: random.Random, folder: Path) -> bool:
    """A llama2.c checkpoint, with its header, its length or its numbers changed."""
    path, config = folder / "model.bin", bases.shape()
    write_llama2c(path, config, bases.weights())
    data = bytearray(path.read_bytes())
    what = rng.random()
    if what < 0.5:
        at = 4 * rng.randrange(7)
        old = struct.unpack_from("<i", data, at)[0]
        new = rng.choice([0, 1, -1, old + 1, -old, old * 2, old // 2, 8, 16, 2**31 - 1, -(2**31), 0x616B3432, 0x04034B50])
        struct.pack_into("<i", data, at, max(-(2**31), min(2**31 - 1, new)))
    elif what < 0.9:
        at = 28 + 4 * rng.randrange((len(data) - 28) // 4)
        struct.pack_into("<f", data, at, rng.choice([math.nan, math.inf, -math.inf, 1e30, 1e-45, 0.0]))
    if what > 0.85:
        data = bytearray(values.flipped(rng, bytes(data)))
    path.write_bytes(data)
    return False


def first_llama2c(folder: Path) -> object:
    """A header whose sizes a model can have."""
    data = (folder / "model.bin").read_bytes()[:28]
    if len(data) < 28 or not all(0 < abs(size) < 2**24 for size in struct.unpack("<7i", data)):
        raise HardwireError("no header")
    return None


def use_llama2c(folder: Path) -> None:
    use_checkpoint(open_checkpoint(folder / "model.bin"))


# Adapters

_ADAPTER_KEYS = ["rank_pattern", "alpha_pattern", "use_rslora", "layers_to_transform", "layers_pattern", "exclude_modules",
                 "use_dora", "bias", "init_lora_weights", "modules_to_save", "peft_type", "lora_bias"]  # fmt: skip
_PATTERNS = [
    "q_proj",
    r".*\.(q|v)_proj",
    "all-linear",
    r"(?!.*mlp).*",
    "(",
    "[",
    "(?<a>x)",
    "a{2,1}",
    r"\d+",
    "",
    "layers.0",
    "(h|layers)",
]


def make_adapter(rng: random.Random, folder: Path) -> bool:
    """An adapter of peft, with its configuration, its tensors or their names changed."""
    rank, config = rng.choice([1, 2, 3, 8]), bases.shape()
    raw: dict[str, Any] = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
                           "bias": "none", "task_type": "CAUSAL_LM", "lora_dropout": 0.0, "use_rslora": False,
                           "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None, "inference_mode": True,
                           "fan_in_fan_out": False}  # fmt: skip
    where = rng.random()
    if where < 0.75:
        if rng.random() < 0.25:
            key = rng.choice(["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "layers_pattern"])
            pattern = "(.*)*(.*)*(.*)*(.*)*!" if rng.random() < 0.005 else rng.choice(_PATTERNS)
            raw[key] = (
                {pattern: rng.choice([rank, 4.0, "x", math.nan])}
                if key.endswith("k_pattern") or key == "alpha_pattern"
                else pattern
            )
        raw = values.tree(rng, raw, _ADAPTER_KEYS)
    (folder / "adapter_config.json").write_bytes(values.encoded(rng, raw, 0.03))
    tensors = {}
    for kind in ("q", "v"):
        rows, inputs = config.tensor_shapes()[f"layers.0.{kind}"]
        name = f"base_model.model.model.layers.0.self_attn.{kind}_proj.lora_"
        tensors |= {f"{name}A.weight": np.ones((rank, inputs), np.float32), f"{name}B.weight": np.ones((rows, rank), np.float32)}
    if rng.random() < 0.2:
        old, new = rng.choice(
            [(".weight", ".default.weight"), ("model.model.", "model."), ("q_proj", "k_proj"), ("layers.0", "layers.1")]
        )
        tensors = {name.replace(old, new): array for name, array in tensors.items()}
    if rng.random() < 0.15:
        rng.choice(list(tensors.values())).flat[0] = rng.choice([math.nan, math.inf, 1e38])
    file = formats.Safetensors.of(tensors)
    if where > 0.85:
        file.header = values.tree(rng, file.header, list(tensors), 2)
    data = file.bytes()
    (folder / "adapter_model.safetensors").write_bytes(values.flipped(rng, data) if where > 0.98 else data)
    numbers = [raw.get("lora_alpha"), *(raw["alpha_pattern"].values() if isinstance(raw.get("alpha_pattern"), dict) else ())]
    return any(isinstance(number, float) and not math.isfinite(number) for number in numbers)


def first_adapter(folder: Path) -> object:
    return read_json_object(folder / "adapter_config.json", HardwireError), _first_header(folder / "adapter_model.safetensors")


def use_adapter(folder: Path) -> None:
    adapter = open_peft(folder, bases.shape())
    for name, pair in adapter.matrices.items():
        check_finite(name, pair.a, pair.b, pair.scale)
    quantise_adapter(adapter, ModelFormat.of(bases.shape(), wide_bits=32), 0, 64)
