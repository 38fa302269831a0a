"""Train a LoRA adapter for a bundled model on other text, with Hugging Face's peft.

The base model's weights lie on the chip's grid already, and the chip keeps an adapter with eight-bit mantissas
(docs/arithmetic.md, lora), so training is in floating point.  ``models.training.evaluate --adapter`` then measures the
adapter on the chip's integers.  OUT gets the two files of ``save_pretrained``, which ``hardwire lora pack`` reads.

Needs torch, transformers and peft (``pip install -e .[train]``).
"""

import math
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
import typer
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import LlamaForCausalLM

from models.training.qat_llama import Numbers, load
from models.training.stories import encode, read_text
from models.training.train import batches
from weights_to_rom.projections import LINEARS

FILES = ("adapter_config.json", "adapter_model.safetensors")
WARM_UP = 50  # steps in which the learning rate rises
HELD_OUT = 100  # stories, evenly spread


def loss_of(model: PeftModel, batch: Tensor) -> Tensor:
    """Mean nats a token of int64[rows, time + 1], filled with -1.  Padding is on the right and so seen by no token."""
    logits = model(batch[:, :-1].clamp(min=0)).logits
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=-1)


@torch.no_grad()
def held_out_loss(model: PeftModel, stories: list[list[int]], context: int) -> float:
    """Nats a token, each story from its begin token up to the context's length."""
    total, count = 0.0, 0
    for story in stories:
        tokens = torch.tensor([story[: context + 1]])
        n = tokens.shape[1] - 1
        total, count = total + float(loss_of(model, tokens)) * n, count + n
    return total / count


def save(model: PeftModel, out: Path, base: str) -> None:
    """peft's two files, each whole or not at all; not the empty form of a model card that it writes beside them."""
    model.peft_config["default"].base_model_name_or_path = base
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        model.save_pretrained(scratch, save_embedding_layers=False)
        for name in FILES:
            (Path(scratch) / name).chmod(0o644)  # safetensors makes its file private
            (Path(scratch) / name).replace(out / name)


def train(base: Path, text_file: Path, out: Path, *, targets: list[str], rank: int, alpha: float, steps: int, tokens: int,
          rate: float, seed: int) -> None:  # fmt: skip
    torch.set_num_threads(1)  # at these sizes a second thread only waits
    torch.manual_seed(seed)
    console = Console(stderr=True, soft_wrap=True)
    text = read_text(text_file)
    quantised, tokenizer = load(base, Numbers())
    stories, held_out = encode(tokenizer, text.train), encode(tokenizer, text.held_out)
    held_out = held_out[:: max(1, len(held_out) // HELD_OUT)][:HELD_OUT]
    modules = [f"{kind}_proj" for kind in targets]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    trained = [w for w in model.parameters() if w.requires_grad]
    optimiser = torch.optim.AdamW(trained, weight_decay=0.0)
    context = quantised.p.context
    console.print(f"{sum(w.numel() for w in trained):,} parameters, {len(stories):,} stories; held out "
                  f"{held_out_loss(model, held_out, context):.4f} nats a token without the adapter")  # fmt: skip
    source = batches(stories, quantised.p, tokens, np.random.default_rng(seed))
    average = 0.0
    for step in track(range(1, steps + 1), "training", console=console):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, step / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        loss = loss_of(model, next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        average += (float(loss.detach()) - average) * max(0.01, 1 / step)
        if step % max(1, steps // 10) == 0 or step == steps:
            measured = held_out_loss(model, held_out, context)
            console.print(f"step {step}: training {average:.4f}, held out {measured:.4f} nats a token")
    save(model, out, base.name)
    console.print(f"wrote {out}")


def main(
    base: Annotated[Path, typer.Argument(help="Directory of the base model.", show_default=False)],
    text: Annotated[Path, typer.Argument(help="The stories to learn.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory to write.", show_default=False)],
    targets: Annotated[str, typer.Option(help="Kinds of matrices that get an adapter.")] = " ".join(LINEARS),
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 8,
    alpha: Annotated[float, typer.Option(help="The adapter counts alpha / rank.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 2000,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens a step.")] = 2048,
    rate: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-2,
    seed: Annotated[int, typer.Option(help="Initial weights and order of the text.")] = 1,
) -> None:
    """Train a LoRA adapter on plain text and write it as peft does, for `hardwire lora pack`.

    The text is UTF-8 with a line <|end|> between stories; the last 5 % of it is held out.

    Example: python -m models.training.train_adapter models/stories-260k pirates.txt --out models/stories-260k-pirates
    """
    kinds = targets.split()
    for kind in kinds:
        if kind not in LINEARS:
            raise typer.BadParameter(f"{kind!r} is none of {', '.join(LINEARS)}", param_hint="--targets")
    train(base, text, out, targets=kinds, rank=rank, alpha=alpha, steps=steps, tokens=tokens, rate=rate, seed=seed)


if __name__ == "__main__":
    typer.run(main)
