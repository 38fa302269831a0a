"""What to say to a chip and what it must answer.

Golden's account of a conversation, for a test bench to follow.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hdl.chip import Status
from hdl.config import ChipConfig
from sim.golden.llama import GoldenLlama
from sim.golden.sampler import inverse_temperature, sampler
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import ModelFormat

END_AT = 2
"""The token that the chip must sample third is the model's end-of-text token."""


@dataclass(frozen=True)
class Command:
    """Fields of the chip's ``i``."""

    token: int
    sequence: int = 0
    restart: bool = False
    sample: bool = True
    release: bool = False
    inv_temperature: int = 0
    seed: int = 0
    adapter: int = 0


@dataclass(frozen=True)
class Reply:
    """Fields of the chip's ``o``, and the logits before it.

    ``logits`` None: not one beat.  ``position`` None is not compared.
    """

    status: Status
    token: int
    position: int | None
    logits: np.ndarray | None


@dataclass(frozen=True)
class Plan:
    """A conversation.  ``end_token`` is the model's end-of-text token, or None."""

    format: ModelFormat
    config: ChipConfig
    exchanges: tuple[tuple[Command, Reply], ...]
    end_token: int | None
    stall_in: float
    stall_out: float
    seed: int


class GoldenChip:
    """The chip's ports over golden: a KV cache for each sequence, and what is refused."""

    def __init__(self, model: IntegerModel, config: ChipConfig):
        self._config, self._vocab_size = config, model.format.vocab_size
        self._sequences = [GoldenLlama(model, config.max_context, config.n_sinks) for _ in range(config.n_sequences)]

    def token(self, command: Command) -> Reply:
        if command.sequence >= self._config.n_sequences:
            return Reply(Status.NO_SEQUENCE, 0, None, None)
        sequence = self._sequences[command.sequence]
        position = 0 if command.restart or command.release else sequence.position
        if command.release:
            sequence.reset()
            return Reply(Status.OK, 0, position, None)
        if command.token >= self._vocab_size:
            return Reply(Status.NO_TOKEN, 0, position, None)
        if position >= self._config.max_context and not self._config.n_sinks:
            return Reply(Status.FULL, 0, position, None)
        if command.restart:
            sequence.reset()
        logits = sequence.extend([command.token])[0]
        if not command.sample:
            return Reply(Status.OK, 0, position, None)
        token = sampler(logits, command.inv_temperature, command.seed, position)
        return Reply(Status.OK, token, position, logits)


def conversation(
    model: ModelFormat, config: ChipConfig, n_tokens: int, rng: random.Random
) -> Iterator[Command]:
    """``n_tokens`` tokens for sequences in random turns, and in between what the chip must refuse.

    The first tokens of a sequence are a prompt, without samples; half of the others are sampled at a
    temperature.  Sequences begin as the reset left them; a full one is released or restarted, unless its window slides.
    """
    lengths = [0] * config.n_sequences
    refusals = [
        lambda s: Command(model.vocab_size, s),
        lambda s: Command(2**32 - 1, s, restart=True),
        lambda s: Command(0, config.n_sequences, restart=True),
        lambda s: Command(0, 2**16 - 1),
    ]
    for i in range(n_tokens):
        s = i % config.n_sequences if i < config.n_sequences else rng.randrange(config.n_sequences)
        if i >= n_tokens // 3 and refusals:
            yield refusals.pop(0)(s)
        full = lengths[s] == config.max_context and not config.n_sinks
        if full:
            yield Command(rng.randrange(model.vocab_size), s)
            if rng.random() < 0.5:
                yield Command(rng.randrange(2**32), s, release=True, restart=rng.random() < 0.5)
                lengths[s], full = 0, False
        restart = full
        lengths[s] = 1 if restart else lengths[s] + 1
        hot = rng.random() < 0.5
        yield Command(
            rng.choice([0, model.vocab_size - 1, *(rng.randrange(model.vocab_size) for _ in range(6))]),
            s,
            restart,
            sample=lengths[s] > 2 or rng.random() < 0.4,
            inv_temperature=inverse_temperature(rng.choice([0.7, 1.0, 2.0])) if hot else 0,
            seed=rng.getrandbits(32),
            adapter=0,
        )


def make_plan(
    model: IntegerModel,
    config: ChipConfig,
    *,
    n_tokens: int,
    ends: bool,
    stall_in: float,
    stall_out: float,
    seed: int,
) -> Plan:
    """Golden's answers to a random conversation.  ``ends``: an end-of-text token occurs in them."""
    chip = GoldenChip(model, config)
    commands = conversation(model.format, config, n_tokens, random.Random(f"conversation {seed}"))
    exchanges = tuple((command, chip.token(command)) for command in commands)
    sampled = [reply.token for _, reply in exchanges if reply.logits is not None]
    return Plan(model.format, config, exchanges, sampled[END_AT] if ends else None, stall_in, stall_out, seed)
