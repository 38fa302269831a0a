"""Train a small Llama from scratch, quantisation-aware, in exactly the formats of the chip.

The forward pass sees what the chip will see: 4-bit weight blocks, an 8-bit embedding (which is the LM head
too) and MXINT8 activations in front of every multiplication; gradients pass straight through (Bengio et al.,
"Estimating or Propagating Gradients Through Stochastic Neurons", arXiv:1308.3432).  The weights that are
saved already lie on the quantised grid, so compiling them loses next to nothing.  The number formats are
those of docs/arithmetic.md.

Needs torch (``pip install -e .[train]``); nothing else in this repository does.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from torch import Tensor

from models.training.optimiser import Optimiser
from models.training.qat_llama import PRESETS, Llama, Numbers, Preset, held_out_loss, loss_of, save
from models.training.stories import SEPARATOR, Text, encode, read_text

FLOAT_SHARE = 0.08  # of the time runs in float, before quantisation starts
WARM_UP = 100  # steps in which the learning rate rises
RARE = 50  # a character seen less often than this in the training text has no token, and is dropped


def build_tokenizer(stories: list[str], p: Preset) -> Tokenizer:
    """Byte-level BPE over the bytes that occur; without merges, characters alone (for ASCII text)."""
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if p.merges:
        trainer = trainers.BpeTrainer(vocab_size=p.vocab_size, special_tokens=[SEPARATOR], show_progress=False)
        tokenizer.train_from_iterator(stories, trainer)
    else:
        symbols = sorted({c for s in stories for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(s) for c in piece})
        tokenizer.model = tokenizer_models.BPE({c: i for i, c in enumerate([SEPARATOR, *symbols])}, [])
        tokenizer.add_special_tokens([SEPARATOR])
    if tokenizer.get_vocab_size() > p.vocab_size:
        raise SystemExit(
            f"the text has {tokenizer.get_vocab_size() - 1} distinct characters, more than the "
            f"{p.vocab_size - 1} that the vocabulary of {p.vocab_size} holds: clean the text, "
            f"or take a larger preset"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SEPARATOR} $A", special_tokens=[(SEPARATOR, tokenizer.token_to_id(SEPARATOR))]
    )
    return tokenizer


def drop_rare(stories: list[str]) -> list[str]:
    """Drop the characters that occur less than RARE times: not to be learned, and each would cost a token."""
    counts = Counter()
    for story in stories:
        counts.update(story)
    rare = {ord(c): None for c, n in counts.items() if n < RARE}
    return [story.translate(rare) for story in stories]


def batches(stories: list[list[int]], p: Preset, tokens: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Endless batches int64[rows, time + 1], filled with -1, of about ``tokens`` tokens each.

    A row is one story between two end tokens; rows of a batch are of like length.  Some rows chain stories
    up to the full context, so that every position is trained.  Stories longer than the preset's window are
    cut to it, at their beginning, their end or anywhere; now and then the window is the whole context.
    """
    while True:
        order = rng.permutation(len(stories))
        for start in range(0, len(order), 512):
            room = 1 + (p.context if rng.random() < 0.15 else p.window)
            rows: list[list[int]] = []
            chain: list[int] = []
            for i in order[start : start + 512]:
                story = stories[i]
                if len(story) > room:
                    last = len(story) - room
                    at = rng.choice([0, last, rng.integers(last + 1)], p=[0.5, 0.2, 0.3])
                    rows.append(story[at : at + room])
                elif chain or rng.random() < 0.1:
                    chain = chain[:-1] + story
                    if len(chain) >= room:
                        rows.append(chain[:room])
                        chain = []
                else:
                    rows.append(story)
            rows.sort(key=len)
            group: list[Tensor] = []
            while rows:
                time_ = (len(rows[-1]) - 1 + 31) // 32 * 32
                count = max(1, tokens // time_)
                batch = torch.full((min(count, len(rows)), time_ + 1), -1)
                for j, row in enumerate(rows[-count:]):
                    batch[j, : len(row)] = torch.tensor(row)
                group.append(batch)
                del rows[-count:]
            for i in rng.permutation(len(group)):
                yield group[i]


# ------------------------------------------------------------------------------------------------- training


def train(p: Preset, text: Text, out: Path, *, minutes: float, tokens: int, rate: float, seed: int) -> None:
    torch.set_num_threads(1)  # at these sizes a second thread only waits
    torch.manual_seed(seed)
    console = Console(stderr=True)
    cleaned = drop_rare(text.train)
    tokenizer = build_tokenizer(cleaned, p)
    stories, held_out = encode(tokenizer, cleaned), encode(tokenizer, text.held_out)
    numbers = Numbers()
    model = Llama(p, numbers)
    optimiser = Optimiser(model)
    console.print(
        f"{sum(w.numel() for w in model.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens, "
        f"{len(stories):,} stories ({sum(map(len, stories)):,} tokens), {len(held_out):,} held out"
    )
    source = batches(stories, p, tokens, np.random.default_rng(seed))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    step, seen, average, reported = 0, 0, 0.0, 0.0
    began = time.monotonic()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=minutes * 60)
        done = 0.0  # share of the time
        while done < 1:
            elapsed = time.monotonic() - began
            done = min(1.0, elapsed / (minutes * 60))
            numbers.on = done >= FLOAT_SHARE
            batch = next(source)
            loss = loss_of(model, batch)
            loss.backward()
            optimiser.step(rate * min(1, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done)))
            step += 1
            seen += int((batch[:, 1:] >= 0).sum())
            average += (float(loss.detach()) - average) * max(0.01, 1 / step)
            speed = seen / (time.monotonic() - began)
            progress.update(task, completed=elapsed, description=f"loss {average:.3f}, {speed:,.0f} tokens/s")
            if done - reported >= 0.05 or done == 1:
                reported = done
                measured = held_out_loss(model, held_out if done == 1 else held_out[:50], numbers)
                console.print(
                    f"step {step}, {elapsed / 60:.1f} minutes: training {average:.4f}, held out "
                    f"{measured:.4f} nats a token ({'chip formats' if numbers.on else 'float'}), "
                    f"{seen:,} tokens, {speed:,.0f} tokens/s",
                    soft_wrap=True,
                )
                save(model, tokenizer, out)
    console.print(f"wrote {out}")


def main(
    text: Annotated[Path, typer.Argument(help="The stories.", show_default=False)],
    preset: Annotated[str, typer.Option(help=f"Shape of the model: {', '.join(sorted(PRESETS))}.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory to write.", show_default=False)],
    minutes: Annotated[float, typer.Option(min=0, help="How long to train.")] = 60,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens a step.")] = 2048,
    rate: Annotated[float, typer.Option(help="Learning rate of Muon; AdamW, for embedding and norms, takes half of it.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Initial weights and order of the text.")] = 1,
) -> None:
    """Train a Llama on plain text, in the number formats of the chip.

    OUT becomes a Hugging Face directory, which `hardwire compile` reads.  The text is UTF-8 with a line <|end|> between
    stories; the last 5 % of it is held out.  Progress and held-out loss go to stderr.  Each report saves the model so far,
    so an interrupted run leaves a usable one.

    Example: python -m models.training.train stories.txt --preset stories-260k --out my-model --minutes 60
    """
    if preset not in PRESETS:
        raise typer.BadParameter(f"{preset!r} is none of {', '.join(sorted(PRESETS))}", param_hint="--preset")
    train(PRESETS[preset], read_text(text), out, minutes=minutes, tokens=tokens, rate=rate, seed=seed)


if __name__ == "__main__":
    typer.run(main)
