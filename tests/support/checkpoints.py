"""Random Llamas, written in each format by that format's own library where there is one."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors
import safetensors.numpy
from gguf import GGMLQuantizationType as Type

from weights_to_rom.config import LlamaConfig

# All widths differ, so that a test fails if two are swapped.
SHAPE = LlamaConfig(
    dim=64,
    n_layers=2,
    n_heads=6,
    n_kv_heads=2,
    head_dim=16,
    ffn_dim=160,
    vocab_size=75,
    max_seq_len=40,
    tied=False,
    norm_eps=1e-5,
    rope_theta=10000.0,
    bos_token_id=1,
    eos_token_ids=(2,),
)

HUGGING_FACE = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
GGUF = {
    "embed": "token_embd",
    "norm": "output_norm",
    "head": "output",
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def random_weights(config: LlamaConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights by canonical name."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in config.tensor_shapes().items()}


def hugging_face_name(name: str) -> str:
    head, _, part = name.rpartition(".")
    return f"model.{head}.{HUGGING_FACE[part]}.weight" if head else f"{HUGGING_FACE[part]}.weight"


def gguf_name(name: str) -> str:
    head, _, part = name.rpartition(".")
    return f"{head.replace('layers', 'blk')}.{GGUF[part]}.weight" if head else f"{GGUF[part]}.weight"


def hugging_face_json(config: LlamaConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    """Write tensors as float32, float16, bfloat16 or float64.  The library's numpy writer has no bfloat16."""
    if dtype != "bfloat16":
        safetensors.numpy.save_file({name: array.astype(dtype) for name, array in tensors.items()}, path)
        return
    halves = {name: to_bfloat16(array) for name, array in tensors.items()}
    specs = {
        name: safetensors.TensorSpec(dtype=dtype, shape=half.shape, data_ptr=half.ctypes.data, data_len=half.nbytes)
        for name, half in halves.items()
    }
    path.write_bytes(safetensors.serialize(specs, {"format": "pt"}))


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Round float32 towards zero to bfloat16: the upper halves of the words, uint16."""
    return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_hugging_face(
    directory: Path,
    config: LlamaConfig = SHAPE,
    *,
    tensors: dict[str, np.ndarray] | None = None,
    dtype: str = "float32",
    **overrides: Any,
) -> dict[str, np.ndarray]:
    """Write a model directory.  Returns its tensors by the file's names.  Overrides are fields of config.json."""
    if tensors is None:
        tensors = {hugging_face_name(name): array for name, array in random_weights(config).items()}
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(hugging_face_json(config) | overrides))
    write_safetensors(directory / "model.safetensors", tensors, dtype)
    return tensors


def interleave(array: np.ndarray, n_heads: int) -> np.ndarray:
    """Interleave rows of q or k in Hugging Face order, as the converters to GGUF and llama2.c do."""
    halves = array.reshape(n_heads, 2, len(array) // n_heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def interleaved(config: LlamaConfig, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All weights, q and k interleaved."""
    heads = {"q": config.n_heads, "k": config.n_kv_heads}
    return {
        name: interleave(array, heads[part]) if (part := name.rpartition(".")[2]) in heads else array
        for name, array in weights.items()
    }


def write_gguf(
    path: Path,
    config: LlamaConfig = SHAPE,
    *,
    weights: dict[str, np.ndarray] | None = None,
    kind: Type = Type.F32,
    kinds: dict[str, Type] | None = None,
    architecture: str = "llama",
    extra: dict[str, np.ndarray] | None = None,
    fields: Any = lambda writer: None,
    bos: int | None = 1,
    eos: int | None = 2,
) -> None:
    """Write a GGUF file.  Its matrices have the type ``kind``, or that of ``kinds`` by name; its norms are F32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if bos is not None:
        writer.add_bos_token_id(bos)
    if eos is not None:
        writer.add_eos_token_id(eos)
    fields(writer)
    for name, array in interleaved(config, random_weights(config) if weights is None else weights).items():
        one = Type.F32 if array.ndim == 1 else (kinds or {}).get(name, kind)
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, one), raw_dtype=one)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_llama2c(path: Path, config: LlamaConfig, weights: dict[str, np.ndarray]) -> None:
    """Write the fields of llama2.c's ``legacy_export``, in its order."""
    vocab = config.vocab_size if config.tied else -config.vocab_size
    w = interleaved(config, weights)
    layers = range(config.n_layers)
    with path.open("wb") as file:
        header = config.dim, config.ffn_dim, config.n_layers, config.n_heads, config.n_kv_heads, vocab
        file.write(struct.pack("7i", *header, config.max_seq_len))
        w["embed"].tofile(file)
        for part in ("attn_norm", "q", "k", "v", "o", "ffn_norm", "gate", "down", "up"):
            for i in layers:
                w[f"layers.{i}.{part}"].tofile(file)
        w["norm"].tofile(file)
        angles = np.outer(np.arange(config.max_seq_len), config.rope_frequencies())
        np.cos(angles).astype(np.float32).tofile(file)
        np.sin(angles).astype(np.float32).tofile(file)
        if not config.tied:
            w["head"].tofile(file)
