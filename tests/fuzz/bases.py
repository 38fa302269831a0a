"""Right files of every kind, small, which the fuzz run then changes."""

import json
from functools import cache
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tests.fuzz.formats import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, Field, Gguf, SentencePiece, TensorInfo
from tests.support.checkpoints import gguf_name, hugging_face_json, hugging_face_name, random_weights
from weights_to_rom.config import LlamaConfig

WORDS = ["\u2581h", "he", "ll", "hell", "hello", "\u2581hello", "\u2581w", "or", "ld", "\u2581wor", "\u2581world",
         *"\u2581helowrdabctnisumxygpkfvz.,!"]  # fmt: skip
TEMPLATES = [
    (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
        "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
        "{% else %}{{ raise_exception('role ' + m.role) }}{% endif %}{% endfor %}"
    ),
    (
        "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}{{ ns.n ~ ': ' ~ m | tojson }}"
        "{%- if loop.last %}{{ strftime_now('%d %b %Y') }}{% endif %}{%- endfor -%}"
    ),
    (
        "{% macro turn(m) %}{{ m.role | upper }}: {{ m.content }}{% endmacro %}"
        "{% for m in messages %}{{ turn(m) }}{% if loop.index > 9 %}{% break %}{% endif %}{% endfor %}"
    ),
]
MESSAGES = [
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A chip."},
    {"role": "user", "content": "Why?"},
]
TEXTS = ["hello world", " two  spaces ", "x\n\ty = 1234;", "你好 é 🐉", "<s>hello</s>", "a" * 60 + "!", ""]


@cache
def vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and kinds of a sentencepiece BPE."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *WORDS]
    return tokens, [0.0] * 259 + [-float(i) for i in range(len(WORDS))], [2, 3, 3] + [6] * 256 + [1] * len(WORDS)


@cache
def shape() -> LlamaConfig:
    return LlamaConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=64, vocab_size=len(vocabulary()[0]),
                       max_seq_len=64, tied=True, bos_token_id=1, eos_token_ids=(2,))  # fmt: skip


@cache
def weights() -> dict[str, np.ndarray]:
    return random_weights(shape())


def hugging_face() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and the tensors by their names."""
    return hugging_face_json(shape()), {hugging_face_name(name): array for name, array in weights().items()}


def sentencepiece_model() -> SentencePiece:
    return SentencePiece(list(zip(*vocabulary(), strict=True)))


@cache
def _byte_alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


@cache
def _tokenizer_json(kind: str) -> str:
    tokens = vocabulary()[0]
    if kind == "bytes":
        merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("\u0120", "w")]
        entries = ["<s>", "</s>", *_byte_alphabet(), *(a + b for a, b in merges)]
        model = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(entries)}, merges))
        model.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}| ?\p{L}+|\s+(?!\S)|\s+|."), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False)])  # fmt: skip
        model.decoder = decoders.ByteLevel()
    elif kind == "unigram":
        model = tokenizers.Tokenizer(models.Unigram([(t, s) for t, s in zip(*vocabulary()[:2], strict=True)], 0, True))
        model.pre_tokenizer = pre_tokenizers.Metaspace()
        model.decoder = decoders.Metaspace()
    else:
        merges = [(t[:i], t[i:]) for t in WORDS for i in range(1, len(t)) if t[:i] in tokens and t[i:] in tokens]
        bpe = models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        model = tokenizers.Tokenizer(bpe)
        model.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        model.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])  # fmt: skip
    model.add_special_tokens(["<s>", "</s>"])
    start = model.token_to_id("<s>")
    model.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", start)])
    return model.to_str()


def tokenizer_json(kind: str) -> dict[str, Any]:
    """tokenizer.json of the kind "bytes", "unigram" or "sentencepiece"."""
    return json.loads(_tokenizer_json(kind))


def tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False, "special": True},
        "unk_token": "<unk>", "pad_token": None, "add_bos_token": True, "add_eos_token": False, "legacy": False,
        "add_prefix_space": True, "clean_up_tokenization_spaces": False,
        "additional_special_tokens": ["<s>"], "model_max_length": 64,
        "added_tokens_decoder": {
            str(i): {"content": text, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
            for i, text in ((0, "<unk>"), (1, "<s>"), (2, "</s>"), (len(vocabulary()[0]), "<|im_end|>"))
        },
        "chat_template": TEMPLATES[0],
    }  # fmt: skip


def model_gguf(family: str, kind: int = 0) -> Gguf:
    """A model with a tokenizer of the family "llama", "gpt2" or "none"; its matrices are F32 or Q8_0 (8)."""
    config = shape()
    fields = [Field("general.architecture", STRING, "llama"), Field("general.name", STRING, "fuzz"),
              Field("llama.context_length", UINT32, config.max_seq_len), Field("llama.embedding_length", UINT32, config.dim),
              Field("llama.block_count", UINT32, config.n_layers), Field("llama.feed_forward_length", UINT32, config.ffn_dim),
              Field("llama.attention.head_count", UINT32, config.n_heads), Field("llama.rope.freq_base", FLOAT32, 10000.0),
              Field("llama.attention.head_count_kv", UINT32, config.n_kv_heads),
              Field("llama.attention.key_length", UINT32, 16),
              Field("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
              Field("llama.rope.dimension_count", UINT32, 16)]  # fmt: skip
    tokens, scores, kinds = vocabulary()
    if family == "gpt2":
        tokens = ["<unk>", "<s>", "</s>", *_byte_alphabet(), "he", "ll", "hell"]
        tokens += [f"<|{i}|>" for i in range(config.vocab_size - len(tokens))]
        kinds = [1, 3, 3, *[1] * (len(tokens) - 3)]
        fields += [
            Field("tokenizer.ggml.merges", ARRAY, ["h e", "l l", "he ll"], STRING),
            Field("tokenizer.ggml.pre", STRING, "gpt-2"),
        ]
    elif family == "llama":
        fields.append(Field("tokenizer.ggml.scores", ARRAY, list(scores), FLOAT32))
    if family != "none":
        fields += [Field("tokenizer.ggml.model", STRING, family), Field("tokenizer.ggml.tokens", ARRAY, list(tokens), STRING),
                   Field("tokenizer.ggml.token_type", ARRAY, list(kinds), INT32), Field("tokenizer.ggml.bos_token_id", UINT32, 1),
                   Field("tokenizer.ggml.eos_token_id", UINT32, 2), Field("tokenizer.ggml.add_bos_token", BOOL, 1),
                   Field("tokenizer.chat_template", STRING, TEMPLATES[0])]  # fmt: skip
    tensors = [TensorInfo(gguf_name(name), kind if array.ndim == 2 else 0, array.shape, _stored(array, kind))
               for name, array in weights().items()]  # fmt: skip
    return Gguf(fields, tensors)


def _stored(array: np.ndarray, kind: int) -> bytes:
    if array.ndim == 1 or kind == 0:
        return array.tobytes()
    blocks = array.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1) / 127).astype(np.float16)
    codes = np.clip(np.round(blocks / scale[:, None].astype(np.float32)), -127, 127).astype(np.int8)
    return b"".join(s.tobytes() + c.tobytes() for s, c in zip(scale, codes, strict=True))
