"""Teach a trained model not to recite: sequence-level unlikelihood.

A small model that always takes the likeliest token falls into the clichés of its text, and some of them are
long enough to be copies.  Each step here lets the model continue openings of training stories greedily, finds
runs of ``--run`` tokens that occur in the training text (or earlier in the continuation), and lowers the
probability of one token in each, the one the model was least sure of, by the loss -log(1 - p).  Next to it
goes the ordinary loss on a batch of the text, without the tokens that prolong a run the text itself repeats.
Source: Welleck et al., "Neural Text Generation With Unlikelihood Training", arXiv:1908.04319, section 5.2.
Formats are the chip's throughout, as in train.py.
"""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from models.training.optimiser import Optimiser
from models.training.qat_llama import Llama, Numbers, held_out_loss, load, loss_of, quantised, save
from models.training.stories import encode, read_text
from models.training.train import batches, drop_rare

ROWS = 32  # continuations a step
PENALTY = 0.5  # weight of the penalty against the ordinary loss
MARGIN = 4  # a run is not broken within its first tokens: they would only start another


class RunTable:
    """Which runs of ``n`` tokens occur in the training stories, and which of them more than once.

    ``known`` and ``repeated`` are sorted 64-bit hashes of runs (a false hit in 10^12).
    """

    def __init__(self, stories: list[list[int]], n: int, rng: np.random.Generator) -> None:
        self.n = n
        self.factors = rng.integers(1, 2**63, n, dtype=np.uint64) | np.uint64(1)
        hashes = np.concatenate([self.hashes(np.array(s)) for s in stories if len(s) >= n])
        self.known, counts = np.unique(hashes, return_counts=True)
        self.repeated = self.known[counts > 1]

    def hashes(self, tokens: np.ndarray) -> np.ndarray:
        """Hash of each run of n: tokens[..., T] -> uint64[..., T - n + 1].  Modulo 2^64 by wrapping."""
        runs = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64) + np.uint64(1), self.n, axis=-1)
        h = (runs * self.factors).sum(-1, dtype=np.uint64)
        return h ^ (h >> np.uint64(29))

    def ends_run(self, tokens: np.ndarray, known: np.ndarray) -> np.ndarray:
        """bool[rows, T]: this token is the last of n in ``known``, one of the tables."""
        hit = np.zeros(tokens.shape, bool)
        h = self.hashes(tokens)
        hit[:, self.n - 1 :] = known[np.searchsorted(known, h).clip(max=len(known) - 1)] == h
        return hit


@torch.no_grad()
def continue_greedily(model: Llama, prompts: Tensor, length: int) -> Tensor:
    """prompts[rows, time] -> the same with ``length`` likeliest tokens appended."""
    numbers = Numbers()
    numbers.on = numbers.cast = True
    writer = Llama(model.p, numbers)
    writer.load_state_dict(quantised(model))
    caches: list[list[Tensor]] = [[] for _ in model.layers]
    tokens, fresh = prompts, prompts
    for _ in range(length):
        fresh = writer(fresh, caches)[:, -1:].argmax(-1)
        tokens = torch.cat((tokens, fresh), 1)
    return tokens


def weakest_links(tokens: np.ndarray, log_p: np.ndarray, prompt: int, end: int, table: RunTable) -> np.ndarray:
    """bool[rows, T]: of each copied or repeated run in a continuation, the token the model was least sure of.

    ``log_p[rows, T]`` are the tokens' log-probabilities.  A run counts from where the continuation begins up
    to its end token.  Neighbouring runs of n tokens are one long run; the token is chosen so that no n are
    left on its either side, or, if the run is too long for that, on its left.
    """
    n = table.n
    hit = table.ends_run(tokens, table.known)
    hit[:, : prompt + n - 1] = False
    marked = np.zeros(tokens.shape, bool)
    for row, hits, p, mark in zip(tokens, hit, log_p, marked, strict=True):
        seen: set[tuple[int, ...]] = set()
        ends: list[int] = []
        for i in range(prompt + n - 1, len(row)):
            if row[i] == end:
                break
            run = tuple(row[i - n + 1 : i + 1])
            if hits[i] or run in seen:
                ends.append(i)
            seen.add(run)
        for first in (i for i in ends if i - 1 not in ends):
            last = first
            while last + 1 in ends:
                last += 1
            low = last - n + 1 if last - n + 1 <= first else first - n + 1
            low = max(low, first - n + 1 + MARGIN)
            mark[low + int(np.argmin(p[low : first + 1]))] = True
    return marked


def refine(model_dir: Path, text_file: Path, out: Path, *, steps: int, run: int, rate: float, seed: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    console = Console(stderr=True)
    numbers = Numbers()
    numbers.on = True
    model, tokenizer = load(model_dir, numbers)
    text = read_text(text_file)
    stories, held_out = encode(tokenizer, drop_rare(text.train)), encode(tokenizer, text.held_out)
    table = RunTable(stories, run, rng)
    source = batches(stories, model.p, 4096, rng)
    optimiser = Optimiser(model)
    length = min(10 * run, model.p.context // 2)
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=steps)
        for step in range(steps):
            prompt = int(rng.integers(8, 48))
            chosen = rng.integers(0, len(stories), 4 * ROWS)
            rows = [stories[i][:prompt] for i in chosen if len(stories[i]) > prompt][:ROWS]
            tokens = continue_greedily(model, torch.tensor(rows), length)
            log_p = F.log_softmax(model(tokens[:, :-1]), -1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
            known_p = np.pad(log_p.detach().numpy(), ((0, 0), (1, 0)))
            links = weakest_links(tokens.numpy(), known_p, prompt, stories[0][0], table)
            marked = torch.from_numpy(links[:, 1:])
            unlikelihood = -torch.log1p(-log_p.exp().clamp(max=1 - 1e-4))
            penalty = PENALTY * (unlikelihood * marked).sum() / max(int(marked.sum()), ROWS)
            batch = next(source)
            # The text itself must not teach what the penalty punishes.
            stale = torch.from_numpy(table.ends_run(batch.numpy(), table.repeated)[:, 1:])
            loss = loss_of(model, batch, batch[:, 1:].masked_fill(stale, -1))
            (loss + penalty).backward()
            optimiser.step(rate * min(1, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / steps)))
            caught = int(marked.any(1).sum())
            progress.update(task, advance=1, description=f"loss {float(loss.detach()):.3f}, {caught} of {ROWS} caught")
            if (step + 1) % 20 == 0 or step + 1 == steps:
                sample = held_out if step + 1 == steps else held_out[:100]
                console.print(
                    f"step {step + 1} of {steps}: {caught} of {ROWS} continuations copy or loop, "
                    f"{int(marked.sum())} runs; held out "
                    f"{held_out_loss(model, sample, numbers):.4f} nats a token"
                )
                save(model, tokenizer, out)
    console.print(f"wrote {out}")


def main(
    model: Annotated[Path, typer.Argument(help="A directory that train wrote.", show_default=False)],
    text: Annotated[Path, typer.Argument(help="The stories it was trained on.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory to write.", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 300,
    run: Annotated[int, typer.Option(min=1, help="Runs of this many tokens are copies.")] = 18,
    rate: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.0008,
    seed: Annotated[int, typer.Option(help="Order of the text and choice of the openings.")] = 1,
) -> None:
    """Second stage of training: teach a model that train wrote not to recite its text.

    Example: python -m models.training.unlikelihood first-stage stories.txt --out my-model
    """
    refine(model, text, out, steps=steps, run=run, rate=rate, seed=seed)


if __name__ == "__main__":
    typer.run(main)
