"""Measure a bundled model: held-out loss in float and on the chip's integers, samples, copies.

The samples come from the golden integer model, so they are what the chip writes, token for token.
"""

import json
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from models.training.stories import SEPARATOR, TrainingTokens, encode, read_text
from sim.golden.llama import GoldenLlama
from sim.perplexity import negative_log_likelihood
from weights_to_rom.adapters.lora import RANKS, IntegerAdapter, quantise_adapter
from weights_to_rom.adapters.peft import open_peft
from weights_to_rom.compile import quantise_checkpoint
from weights_to_rom.errors import HardwireError
from weights_to_rom.quantise.float_llama import FloatLlama
from weights_to_rom.readers.open import open_checkpoint

WIDE_LSB = 2.0**-12
SAMPLES = 10
LIMIT = 20  # a run of this many tokens of the training text in a sample is a copy
console = Console(stderr=True)


def opening(story: str) -> str:
    """The first two sentences."""
    ends = [m.end() for m in re.finditer(r"[.!?][\"']?(?=\s)", story)]
    return story[: ends[1]] if len(ends) > 1 else story[: len(story) // 3]


def continue_greedily(
    model: GoldenLlama, adapter: IntegerAdapter | None, prompt: list[int], length: int, end: int, context: int
) -> list[int]:
    """Up to ``length`` likeliest tokens after the prompt; the end token is not among them."""
    model.reset()
    logits = model.extend(prompt, last_only=True, adapter=adapter)
    written: list[int] = []
    while (token := int(np.argmax(logits[-1]))) != end and len(written) < length:
        written.append(token)
        if len(prompt) + len(written) >= context:
            break
        logits = model.extend([token], adapter=adapter)
    return written


def evaluate(model_dir: Path, text_file: Path, adapter_dir: Path | None, *, n_stories: int, n_tokens: int) -> dict:
    text = read_text(text_file)
    checkpoint = open_checkpoint(model_dir)
    if checkpoint.tokenizer is None:
        raise SystemExit(f"{model_dir}: has no tokenizer.json, so text cannot be measured with it")
    tokenizer, context = checkpoint.tokenizer.model, checkpoint.config.max_seq_len
    end = tokenizer.token_to_id(SEPARATOR)
    if end is None:
        raise SystemExit(f"{model_dir}: its tokenizer has no token {SEPARATOR!r}: train it with models.training.train")
    integers = quantise_checkpoint(checkpoint)
    golden = GoldenLlama(integers)
    adapter = integer_adapter = None
    if adapter_dir is not None:
        adapter = open_peft(adapter_dir, checkpoint.config)
        rank = next((rank for rank in RANKS if rank >= adapter.rank), RANKS[-1])
        integer_adapter = quantise_adapter(adapter, integers.format, integers.residual_shift, rank)
    real = FloatLlama(checkpoint.config, checkpoint.tensor, adapter=adapter)

    step = max(1, len(text.held_out) // n_stories)
    measured = encode(tokenizer, text.held_out[::step][:n_stories])
    losses: dict[str, list[np.ndarray]] = {"float": [], "golden": []}
    for story in track(measured, "held-out loss", console=console):
        inputs, targets = story[:-1][:context], story[1:][:context]
        losses["float"].append(negative_log_likelihood(real.forward(inputs), targets))
        golden.reset()
        losses["golden"].append(negative_log_likelihood(golden.extend(inputs, adapter=integer_adapter) * WIDE_LSB, targets))
    float_loss, golden_loss = (float(np.concatenate(losses[name]).mean()) for name in ("float", "golden"))

    training = TrainingTokens(encode(tokenizer, text.train), checkpoint.config.vocab_size)
    samples = []
    step = len(text.held_out) // SAMPLES
    for story in track(text.held_out[::step][:SAMPLES], "samples", console=console):
        prompt = opening(story)
        ids = [end, *tokenizer.encode(prompt, add_special_tokens=False).ids]
        written = continue_greedily(golden, integer_adapter, ids, n_tokens, end, context)
        start, stop = training.longest_run(written)
        samples.append(
            {
                "opening": prompt,
                "continuation": tokenizer.decode(written),
                "tokens": len(written),
                "longest_copied_run": stop - start,
                "copied": tokenizer.decode(written[start:stop]),
            }
        )
    return {
        "held_out_stories": len(measured),
        "held_out_tokens": sum(len(nll) for nll in losses["float"]),
        "loss_float": float_loss,
        "loss_golden": golden_loss,
        "ratio": golden_loss / float_loss,
        "longest_copied_run": max(s["longest_copied_run"] for s in samples),
        "samples": samples,
    }


def report(r: dict) -> str:
    lines = [
        f"held-out loss, {r['held_out_stories']} stories, {r['held_out_tokens']:,} tokens, nats a token:",
        f"  float {r['loss_float']:.4f}, the chip's integers {r['loss_golden']:.4f}, ratio {r['ratio']:.4f}",
        "",
        f"{len(r['samples'])} held-out openings, continued greedily on the chip's integers:",
    ]
    for i, s in enumerate(r["samples"], 1):
        run = f"{s['longest_copied_run']} tokens, {len(s['copied'].split())} words: {s['copied'].strip()!r}"
        lines += ["", f"{i}. {s['opening']} [...]{s['continuation']}"]
        lines += [f"   ({s['tokens']} tokens; longest run copied: {run})"]
    verdict = "no sample copies" if r["longest_copied_run"] < LIMIT else "there are copies of"
    longest = f"longest run copied from the training text: {r['longest_copied_run']} tokens"
    lines += ["", f"{longest}; {verdict} {LIMIT} or more"]
    return "\n".join(lines)


def main(
    model: Annotated[Path, typer.Argument(help="A directory that train wrote.", show_default=False)],
    text: Annotated[
        Path, typer.Argument(help="The stories it was trained on; their last 5 % is the held-out part.", show_default=False)
    ],
    adapter: Annotated[Path | None, typer.Option(help="A LoRA adapter for the model, as peft writes it.")] = None,
    stories: Annotated[int, typer.Option(min=1, help="Held-out stories for the loss.")] = 100,
    tokens: Annotated[int, typer.Option(min=1, help="Longest continuation.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a model: loss in float and on the chip's integers, ten greedy samples, and what they copy.

    The samples continue held-out openings on the integer model.  A copy is a run of tokens of the training text in the
    continuation; the opening does not count.

    Example: python -m models.training.evaluate models/stories-260k stories.txt
    """
    try:
        figures = evaluate(model, text, adapter, n_stories=stories, n_tokens=tokens)
    except HardwireError as error:
        raise SystemExit(str(error)) from None
    print(json.dumps(figures, indent=2) if as_json else report(figures))


if __name__ == "__main__":
    typer.run(main)
