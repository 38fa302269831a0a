"""The Llama that is trained: the chip's number formats forward, the identity backward.

Gradients go straight through every rounding (Bengio et al., "Estimating or Propagating Gradients Through
Stochastic Neurons", arXiv:1308.3432).  The formats are those of docs/arithmetic.md; what is left in float32
here (RMSNorm, RoPE, softmax, SiLU) costs the chip next to nothing.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.training.stories import SEPARATOR
from weights_to_rom.model_format import BLOCK
from weights_to_rom.quantise.blocks import K_MAX

WIDE_LSB, WIDE_BITS = 2.0**-12, 24  # of the residual, when the held-out loss is measured


@dataclass(frozen=True)
class Preset:
    """Shape of a model.  ``merges``: the vocabulary is filled by BPE merges, else it is characters alone."""

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    context: int
    window: int  # most rows of a training batch are no longer than this: attention is what costs
    merges: bool
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def q_fold(self) -> float:
        """The chip's rows of q carry this, so that its scores are logarithms to base two."""
        return math.log2(math.e) / math.sqrt(self.head_dim)


PRESETS = {
    "stories-tiny": Preset(64, 32, 2, 4, 2, 8, 32, 512, 160, merges=False),
    "stories-260k": Preset(512, 64, 5, 8, 4, 8, 192, 512, 512, merges=True),
}


def power_of_two_at_least(x: Tensor) -> Tensor:
    """Smallest 2^n >= x, element by element; x > 0."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.ones_like(x), exponent - (mantissa == 0.5).int())


@torch.no_grad()
def quantise_weight(w: Tensor) -> Tensor:
    """w[rows, inputs] -> the nearest weights of the form 2^e d q - 2^(e+k) m, per block of 32 inputs.

    q is 4 bits, d and m 8 bits a block, e and k (0..4) a row: the grid of weights_to_rom/quantise/blocks.py.  Rounding is
    simpler than the compiler's search, since it runs at every step.  The compiler finds weights on the grid again exactly.
    """
    rows, inputs = w.shape
    b = F.pad(w, (0, -inputs % BLOCK)).view(rows, -1, BLOCK)
    low, high = b.amin(-1).clamp(max=0), b.amax(-1).clamp(min=0)
    d0, m0 = (high - low) / 15, -low
    unit = power_of_two_at_least(d0.amax(-1, keepdim=True).clamp(min=2.0**-60) / 255)  # 2^e
    shift = power_of_two_at_least(m0.amax(-1, keepdim=True).clamp(min=2.0**-60) / unit / 255).clamp(1, 2**K_MAX)  # 2^k
    d = (d0 / unit).round().clamp(1, 255).unsqueeze(-1)
    m = (m0 / (unit * shift)).round().clamp(0, 255).unsqueeze(-1) * shift.unsqueeze(-1)
    unit = unit.unsqueeze(-1)
    q = ((b / unit + m) / d).round().clamp(0, 15)
    return (unit * (d * q - m)).view(rows, -1)[:, :inputs]


@torch.no_grad()
def quantise_embedding(w: Tensor) -> Tensor:
    """w[rows, dim] -> the nearest weights 2^e d (q - 128), with q and d of 8 bits, per block of 32."""
    rows, inputs = w.shape
    b = F.pad(w, (0, -inputs % BLOCK)).view(rows, -1, BLOCK)
    d0 = b.abs().amax(-1) / 127
    unit = power_of_two_at_least(d0.amax(-1, keepdim=True).clamp(min=2.0**-60) / 255)
    d = (d0 / unit).round().clamp(1, 255).unsqueeze(-1) * unit.unsqueeze(-1)
    return (d * (b / d).round().clamp(-128, 127)).view(rows, -1)[:, :inputs]


def mx(x: Tensor, block: int) -> Tensor:
    """x -> MXINT8: 8-bit mantissas and one power-of-two exponent per ``block`` values along the last axis.

    The exponent s is the least with max|x| < 2^(s+7).  Clearing the mantissa of a float32 leaves its power of
    two, which is 2^(s+6).
    """
    size = x.shape[-1]
    b = F.pad(x, (0, -size % block)).unflatten(-1, (-1, block))
    largest = b.abs().amax(-1, keepdim=True).clamp(min=2.0**-60)
    lsb = (largest.view(torch.int32) & 0x7F800000).view(torch.float32) * 2.0**-6
    return ((b / lsb).round().clamp(-127, 127) * lsb).flatten(-2)[..., :size]


class StraightThrough(torch.autograd.Function):
    """Round in the forward pass, identity in the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, rounding, *args) -> Tensor:
        ctx.n_args = len(args)
        return rounding(x, *args)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None, *[None] * ctx.n_args


class Numbers:
    """The number formats a forward pass goes through; all of them are the identity until ``on``."""

    def __init__(self) -> None:
        self.on = False
        self.cast = False  # the weights lie on the grid already
        self.wide_bits = 0  # 0: no fixed point, as while training; else the residual's LSB 2^-12 and width

    def weight(self, w: Tensor, fold: float | Tensor = 1.0) -> Tensor:
        """``fold`` is a constant that the chip multiplies into the weights before it quantises them."""
        return StraightThrough.apply(w * fold, quantise_weight) / fold if self.on and not self.cast else w

    def embedding(self, w: Tensor) -> Tensor:
        return StraightThrough.apply(w, quantise_embedding) if self.on and not self.cast else w

    def mx(self, x: Tensor, block: int = BLOCK) -> Tensor:
        return StraightThrough.apply(x, mx, block) if self.on else x

    def wide(self, x: Tensor) -> Tensor:
        if not (self.on and self.wide_bits):
            return x
        bound = 2.0 ** (self.wide_bits - 1)
        return (x / WIDE_LSB).round().clamp(-bound, bound - 1) * WIDE_LSB


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in Hugging Face order: element j turns with element j + head_dim / 2."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attention(q: Tensor, k: Tensor, v: Tensor, step: int = 32) -> Tensor:
    """Causal attention of q[batch, heads, time, head_dim], the last positions of k, v[batch, kv_heads, ...].

    ``step`` queries at a time, which skips what lies in the future: at head_dim 8 twice as fast as torch's
    own.
    """
    batch, heads, length, size = q.shape
    groups, past = k.shape[1], k.shape[2] - length
    q = (q * size**-0.5).view(batch, groups, heads // groups, length, size)
    k = k.transpose(-1, -2)
    future = torch.full((step, step), -torch.inf).triu(1)
    out = []
    for i in range(0, length, step):
        j = min(i + step, length)
        scores = q[:, :, :, i:j].reshape(batch, groups, -1, size) @ k[..., : past + j]
        scores = scores.view(batch, groups, -1, j - i, past + j)
        scores[..., past + i :] += future[: j - i, : j - i]
        weights = scores.softmax(-1).view(batch, groups, -1, past + j)
        out.append((weights @ v[:, :, : past + j]).view(batch, groups, -1, j - i, size))
    return torch.cat(out, 3).view(batch, heads, length, size)


class Norm(nn.Module):
    def __init__(self, dim: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), gain))


class Layer(nn.Module):
    """One decoder layer; the names of its parameters are those of ``LlamaForCausalLM``."""

    def __init__(self, p: Preset, numbers: Numbers) -> None:
        super().__init__()
        self.p, self.numbers = p, numbers
        q_dim, kv_dim = p.n_heads * p.head_dim, p.n_kv_heads * p.head_dim
        self.input_layernorm = Norm(p.dim)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(p.dim, q_dim, bias=False),
                "k_proj": nn.Linear(p.dim, kv_dim, bias=False),
                "v_proj": nn.Linear(p.dim, kv_dim, bias=False),
                "o_proj": nn.Linear(q_dim, p.dim, bias=False),
            }
        )
        self.post_attention_layernorm = Norm(p.dim)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(p.dim, p.ffn_dim, bias=False),
                "up_proj": nn.Linear(p.dim, p.ffn_dim, bias=False),
                "down_proj": nn.Linear(p.ffn_dim, p.dim, bias=False),
            }
        )
        for name, linear in (*self.self_attn.items(), *self.mlp.items()):
            out = name in ("o_proj", "down_proj")
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5 / (math.sqrt(2 * p.n_layers) if out else 1))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """``cache`` holds k and v of the positions before x (it starts empty), and is extended."""
        p, n = self.p, self.numbers
        batch, time_, _ = x.shape
        block = math.gcd(p.head_dim, BLOCK)
        # Rows are quantised one by one, so matrices that share an input can be stacked.
        qkv = torch.cat([self.self_attn[f"{c}_proj"].weight for c in "qkv"])
        fold = torch.ones(len(qkv), 1)
        fold[: p.n_heads * p.head_dim] = p.q_fold
        h = n.mx(rms_norm(x, self.input_layernorm.weight, p.norm_eps))
        h = n.wide(F.linear(h, n.weight(qkv, fold))).view(batch, time_, -1, p.head_dim).transpose(1, 2)
        q, k, v = h.split((p.n_heads, p.n_kv_heads, p.n_kv_heads), 1)
        q, k, v = n.mx(rotate(q, cos, sin), block), n.mx(rotate(k, cos, sin), block), n.mx(v, block)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = k, v
        h = n.mx(attention(q, k, v).transpose(1, 2).reshape(batch, time_, -1))
        x = n.wide(x + n.wide(F.linear(h, n.weight(self.self_attn["o_proj"].weight))))

        gate_up = torch.cat([self.mlp["gate_proj"].weight, self.mlp["up_proj"].weight])
        h = n.mx(rms_norm(x, self.post_attention_layernorm.weight, p.norm_eps))
        gate, up = n.wide(F.linear(h, n.weight(gate_up))).chunk(2, -1)
        h = n.mx(F.silu(gate) * up)
        return n.wide(x + n.wide(F.linear(h, n.weight(self.mlp["down_proj"].weight))))


class Llama(nn.Module):
    """tokens[batch, time] -> logits[batch, time, vocab_size].

    Rows of the embedding have RMS near 1, so that the chip's fixed-point residual (LSB 2^-12) keeps its bits;
    the final norm's gain starts at 1/sqrt(dim) to bring the tied head's logits back to order 1.
    """

    def __init__(self, p: Preset, numbers: Numbers) -> None:
        super().__init__()
        self.p, self.numbers = p, numbers
        self.embed_tokens = nn.Embedding(p.vocab_size, p.dim)
        self.layers = nn.ModuleList(Layer(p, numbers) for _ in range(p.n_layers))
        self.norm = Norm(p.dim, p.dim**-0.5)
        frequency = p.rope_theta ** (-torch.arange(0, p.head_dim, 2, dtype=torch.float64) / p.head_dim)
        angle = torch.outer(torch.arange(p.context, dtype=torch.float64), frequency)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, tokens: Tensor, caches: list[list[Tensor]] | None = None) -> Tensor:
        n = self.numbers
        past = caches[0][0].shape[2] if caches and caches[0] else 0
        embedding = n.embedding(self.embed_tokens.weight)
        x = n.wide(F.embedding(tokens, embedding))
        here = slice(past, past + tokens.shape[1])
        for i, layer in enumerate(self.layers):
            x = layer(x, self.cos[here], self.sin[here], caches[i] if caches else None)
        return F.linear(n.mx(rms_norm(x, self.norm.weight, self.p.norm_eps)), embedding)


def loss_of(model: Llama, batch: Tensor, targets: Tensor | None = None) -> Tensor:
    """Mean nats a token over batch[rows, time + 1]; -1 is padding.  ``targets`` default to its own."""
    logits = model(batch[:, :-1].clamp(min=0))
    targets = batch[:, 1:] if targets is None else targets
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


@torch.no_grad()
def held_out_loss(model: Llama, stories: list[list[int]], numbers: Numbers) -> float:
    """Nats a token, each story from its begin token up to the context's length; residual in fixed point."""
    numbers.wide_bits = WIDE_BITS
    room, total, count = model.p.context + 1, 0.0, 0
    for start in range(0, len(stories), 16):
        rows = [s[:room] for s in stories[start : start + 16]]
        batch = torch.full((len(rows), max(map(len, rows))), -1)
        for row, story in zip(batch, rows, strict=True):
            row[: len(story)] = torch.tensor(story)
        n = int((batch[:, 1:] >= 0).sum())
        total += float(loss_of(model, batch)) * n
        count += n
    numbers.wide_bits = 0
    return total / count


@torch.no_grad()
def quantised(model: Llama) -> dict[str, Tensor]:
    """The weights that the forward pass uses, by parameter name: all of them on the quantised grid."""
    weights = {}
    for name, w in model.state_dict().items():
        if name == "embed_tokens.weight":
            w = quantise_embedding(w)
        elif "q_proj" in name:
            w = quantise_weight(w * model.p.q_fold) / model.p.q_fold
        elif w.ndim == 2:
            w = quantise_weight(w)
        weights[name] = w.contiguous()
    return weights


def save(model: Llama, tokenizer: Tokenizer, out: Path) -> None:
    """Write a Hugging Face directory, each file whole or not at all.  Weights lie on the quantised grid."""
    p = model.p
    weights = {f"model.{name}": w for name, w in quantised(model).items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": p.vocab_size,
        "hidden_size": p.dim,
        "intermediate_size": p.ffn_dim,
        "num_hidden_layers": p.n_layers,
        "num_attention_heads": p.n_heads,
        "num_key_value_heads": p.n_kv_heads,
        "head_dim": p.head_dim,
        "max_position_embeddings": p.context,
        "rms_norm_eps": p.norm_eps,
        "rope_theta": p.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
    generation = {"bos_token_id": 0, "eos_token_id": 0, "do_sample": False}
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "model_max_length": p.context,
        "clean_up_tokenization_spaces": False,
    }
    out.mkdir(parents=True, exist_ok=True)
    texts = {"config.json": config, "generation_config.json": generation, "tokenizer_config.json": tokens}
    for name, value in texts.items():
        partial = out / f"{name}.partial"
        partial.write_text(json.dumps(value, indent=2) + "\n")
        partial.replace(out / name)
    tokenizer.save(str(out / "tokenizer.json.partial"))
    (out / "tokenizer.json.partial").replace(out / "tokenizer.json")
    (out / "model.safetensors.partial").write_bytes(to_safetensors(weights, metadata={"format": "pt"}))
    (out / "model.safetensors.partial").replace(out / "model.safetensors")


def load(directory: Path, numbers: Numbers) -> tuple[Llama, Tokenizer]:
    """A model that ``save`` wrote.  Its weights lie on the quantised grid."""
    try:
        config = json.loads((directory / "config.json").read_text())
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        weights = load_file(directory / "model.safetensors")
    except Exception as error:  # tokenizers raises plain Exception
        raise SystemExit(f"{directory}: cannot be read: {error}") from None
    preset = Preset(
        vocab_size=config["vocab_size"],
        dim=config["hidden_size"],
        n_layers=config["num_hidden_layers"],
        n_heads=config["num_attention_heads"],
        n_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        ffn_dim=config["intermediate_size"],
        context=config["max_position_embeddings"],
        window=config["max_position_embeddings"],
        merges=bool(json.loads(tokenizer.to_str())["model"]["merges"]),
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
    )
    model = Llama(preset, numbers)
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items()})
    return model, tokenizer
