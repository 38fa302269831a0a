"""Random conversations with a chip: the commands, and the replies that golden computes for them.

``tests.chip.bench`` holds such a conversation with a simulated chip, and compares the replies.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hdl.config import ChipConfig
from hdl.interface import LoadStatus, Status
from sim.golden.llama import GoldenLlama
from sim.golden.sampler import inverse_temperature, sampler
from weights_to_rom.adapters.lora import IntegerAdapter, load_image, quantise_adapter
from weights_to_rom.adapters.peft import LoraPair, PeftAdapter
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import ModelFormat

END_AT = 2
"""Index of a sampled token: that token is made the model's end-of-text token, so that a text surely ends."""


@dataclass(frozen=True)
class Command:
    """The fields of the chip's stream ``i``."""

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
    """The fields of the chip's stream ``o``, and the logits that precede the reply.

    If ``logits`` is None, no beat of logits may come.  If ``position`` is None, the position is not compared.
    """

    status: Status
    token: int
    position: int | None
    logits: np.ndarray | None


@dataclass(frozen=True)
class Load:
    """Words of a load image for the chip's stream ``load``, and the ``replies`` on its stream ``loaded``.

    If ``starts``, the first word has its flag ``first`` set.  If ``waits``, no token is sent until the replies have come.
    Otherwise the words are sent during the tokens up to the next Load; if ``late``, they begin only when the chip has
    checked the adapter of the first of those tokens.
    """

    words: tuple[int, ...]
    starts: bool
    replies: tuple[tuple[int, LoadStatus], ...]
    waits: bool = True
    late: bool = False


@dataclass(frozen=True)
class Plan:
    """A conversation.  ``end_token`` is the model's end-of-text token, or None."""

    format: ModelFormat
    config: ChipConfig
    exchanges: tuple[tuple[Command, Reply] | Load, ...]
    end_token: int | None
    stall_in: float
    stall_out: float
    seed: int

    @property
    def first_frame(self) -> tuple[int, ...]:
        """The words of the first load image that the chip accepts."""
        loads = [exchange for exchange in self.exchanges if isinstance(exchange, Load)]
        return next(load.words for load in loads if load.starts and load.replies and load.replies[-1][1] == LoadStatus.OK)

    @property
    def replies(self) -> list[Reply]:
        """The replies to commands, without those to loads."""
        return [exchange[1] for exchange in self.exchanges if not isinstance(exchange, Load)]


class GoldenChip:
    """Golden with the chip's ports: one KV cache a sequence, adapters by number, and the chip's refusals."""

    def __init__(self, model: IntegerModel, config: ChipConfig):
        self._config, self._vocab_size = config, model.format.vocab_size
        self._sequences = [GoldenLlama(model, config.max_context, config.n_sinks) for _ in range(config.n_sequences)]
        self.adapters: dict[int, IntegerAdapter | None] = {0: None}

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
        if command.adapter not in self.adapters:
            return Reply(Status.NO_ADAPTER, 0, position, None)
        if self._config.shared and command.sample and command.inv_temperature:
            return Reply(Status.NO_NOISE, 0, position, None)
        if command.restart:
            sequence.reset()
        logits = sequence.extend([command.token], adapter=self.adapters[command.adapter])[0]
        if not command.sample:
            return Reply(Status.OK, 0, position, None)
        token = sampler(logits, command.inv_temperature, command.seed, position)
        return Reply(Status.OK, token, position, logits)


class Tokens:
    """Commands with random tokens for random sequences, and commands that the chip must refuse.

    The first two tokens of a sequence mostly come without samples, as a prompt does; half of the others are sampled
    at a temperature.  Each sequence begins in the state that the reset leaves.  A full sequence is released or
    restarted, unless its window slides.  If there are several sequences, some are released while they are not full.
    """

    def __init__(self, model: ModelFormat, config: ChipConfig, rng: random.Random):
        self._model, self._config, self._rng = model, config, rng
        self._lengths = [0] * config.n_sequences
        self._count = 0

    def next(self, adapters: Sequence[int]) -> Iterator[Command]:
        """Yield a token that uses one of ``adapters``, after the refused token or the release that its sequence needs."""
        rng, model, config, lengths = self._rng, self._model, self._config, self._lengths
        s = self._count if self._count < config.n_sequences else rng.randrange(config.n_sequences)
        self._count += 1
        full = lengths[s] == config.max_context and not config.n_sinks
        if full:
            yield Command(rng.randrange(model.vocab_size), s, adapter=rng.choice(adapters))
        early = 1 / 16 if config.n_sequences > 1 else 0  # a single sequence must become full
        if rng.random() < (0.5 if full else early):
            yield Command(rng.randrange(2**32), s, release=True, restart=rng.random() < 0.5)
            lengths[s], full = 0, False
        lengths[s] = 1 if full else lengths[s] + 1
        hot = rng.random() < 0.5 and not config.shared
        yield Command(
            rng.choice([0, model.vocab_size - 1, *(rng.randrange(model.vocab_size) for _ in range(6))]),
            s,
            full,
            sample=lengths[s] > 2 or rng.random() < 0.4,
            inv_temperature=inverse_temperature(rng.choice([0.7, 1.0, 2.0])) if hot else 0,
            seed=rng.getrandbits(32),
            adapter=rng.choice(adapters),
        )

    def refusals(self) -> list[Command]:
        """List commands that the chip must refuse in any state."""
        return [
            Command(self._model.vocab_size, 0),
            Command(2**32 - 1, self._config.n_sequences - 1, restart=True),
            Command(0, self._config.n_sequences, restart=True),
            Command(0, 2**16 - 1),
            Command(0, 0, restart=True, adapter=self._config.n_adapters + 1 if self._config.lora_rank else 1),
            Command(0, 0, restart=True, adapter=15),
            *([Command(0, 0, restart=True, inv_temperature=1)] if self._config.shared else []),
        ]


def random_adapters(model: IntegerModel, config: ChipConfig, seed: int, count: int = 5) -> list[IntegerAdapter]:
    """Make adapters of random projections with random ranks; the first has all projections and the chip's rank."""
    rng = np.random.default_rng([seed, 1])
    fmt, adapters = model.format, []
    shapes = {
        "q": (fmt.attn_dim, fmt.dim),
        "k": (fmt.n_kv_heads * fmt.head_dim, fmt.dim),
        "v": (fmt.n_kv_heads * fmt.head_dim, fmt.dim),
        "o": (fmt.dim, fmt.attn_dim),
        "gate": (fmt.ffn_dim, fmt.dim),
        "up": (fmt.ffn_dim, fmt.dim),
        "down": (fmt.dim, fmt.ffn_dim),
    }
    for number in range(count):
        pairs = {}
        for layer in range(fmt.n_layers):
            for kind, (rows, inputs) in shapes.items():
                if number and rng.random() < 0.4:
                    continue
                rank = config.lora_rank if not number else int(rng.integers(1, config.lora_rank + 1))
                a = rng.normal(size=(rank, inputs)) / np.sqrt(inputs)
                b = rng.normal(size=(rows, rank)) * rng.choice([0.1, 0.5, 2.0])
                pairs[f"layers.{layer}.{kind}"] = LoraPair(a.astype(np.float32), b.astype(np.float32), 1 / rank)
        peft = PeftAdapter(f"random adapter {number}", pairs)
        adapters.append(quantise_adapter(peft, fmt, model.residual_shift, config.lora_rank))
    return adapters


class Loads:
    """Loads of random adapters: complete, corrupt, interrupted, continued, of another layout, and with a wrong number."""

    def __init__(self, model: IntegerModel, config: ChipConfig, chip: GoldenChip, rng: random.Random, seed: int):
        self._format, self._config, self._chip, self._rng = model.format, config, chip, rng
        self._adapters = random_adapters(model, config, seed)
        self._half: tuple[int, IntegerAdapter, list[int]] | None = None
        self._first = True

    def _frame(self, adapter: IntegerAdapter, number: int) -> list[int]:
        return load_image(adapter, self._format, number, self._config.lora_lanes, self._config.vector_lanes).tolist()

    def next(self, used: int | None = None) -> tuple[Load, int | None]:
        """Make a load.  Also returns the number of the adapter that no token may use until the load has ended, or None.

        With ``used``, the load replaces the adapter of that number, and begins while a token uses it.
        """
        rng, chip = self._rng, self._chip
        if self._half is not None and used is None and rng.random() < 0.5:
            number, adapter, rest = self._half
            self._half = None
            chip.adapters[number] = adapter
            return Load(tuple(rest), False, ((number, LoadStatus.OK),)), None
        broken = ()
        if self._half is not None:
            broken = ((self._half[0], LoadStatus.INCOMPLETE),)
            self._half = None
        number = used or rng.randint(1, self._config.n_adapters)
        adapter = self._adapters[0] if self._first else rng.choice(self._adapters)
        self._first = False
        words = self._frame(adapter, number)
        chip.adapters.pop(number, None)
        kind = rng.choice(["whole", "whole", "beside", "corrupt", "half", "layout", "number"]) if used is None else "late"
        if kind == "half":
            cut = rng.randint(1, len(words) - 1)
            self._half = number, adapter, words[cut:]
            return Load(tuple(words[:cut]), True, broken), None
        if kind == "corrupt":
            words[rng.randrange(2, len(words))] ^= 1 << rng.randrange(32)
            return Load(tuple(words), True, (*broken, (number, LoadStatus.BAD_CHECKSUM))), None
        if kind == "layout":
            words[1] ^= 1 << rng.randrange(32)
            return Load(tuple(words), True, (*broken, (number, LoadStatus.BAD_LAYOUT))), None
        if kind == "number":
            other = rng.choice([0, self._config.n_adapters + 1, 255])
            words[0] = words[0] & ~255 | other
            # The image names another adapter, so that all adapters stay.
            chip.adapters = self._before
            return Load(tuple(words), True, (*broken, (other, LoadStatus.NO_ADAPTER))), None
        chip.adapters[number] = adapter
        waits = kind == "whole"
        return Load(tuple(words), True, (*broken, (number, LoadStatus.OK)), waits, kind == "late"), None if waits else number

    def before(self) -> None:
        """Remember the loaded adapters, because a load with a wrong number changes none."""
        self._before = dict(self._chip.adapters)


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
    """Make a random conversation with golden's replies.  If ``ends``, the model's end-of-text token occurs in it."""
    rng = random.Random(f"conversation {seed}")
    chip, tokens = GoldenChip(model, config), Tokens(model.format, config, rng)
    loads = Loads(model, config, chip, rng, seed) if config.lora_rank else None
    refusals = tokens.refusals()
    exchanges: list[tuple[Command, Reply] | Load] = []
    busy = None  # the number of an adapter that is loaded while tokens are computed

    def say(command: Command) -> None:
        exchanges.append((command, chip.token(command)))

    for i in range(n_tokens):
        if loads and (i == config.n_sequences or rng.random() < 0.12):
            there = [n for n in chip.adapters if n not in (0, busy)]
            loads.before()
            if there and rng.random() < 0.3:
                # The adapter is replaced while a token uses it: this token has the old one, later tokens have the new one.
                used = rng.choice(there)
                commands = list(tokens.next([used]))
                for command in commands[:-1]:
                    say(command)
                answer = chip.token(commands[-1])
                load, busy = loads.next(used)
                exchanges += [load, (commands[-1], answer)]
                if answer.status != Status.OK:  # the token is refused for another reason, so it does not use the adapter
                    exchanges[-2] = Load(load.words, load.starts, load.replies)
                    busy = None
                continue
            load, busy = loads.next()
            exchanges.append(load)
        if i >= n_tokens // 3 and refusals:
            say(refusals.pop(0))
        choices = [0]
        if loads:
            choices = [n for n in (0, *range(1, config.n_adapters + 1), *chip.adapters) if n != busy]
        for command in tokens.next(choices):
            say(command)
    plan = Plan(model.format, config, tuple(exchanges), None, stall_in, stall_out, seed)
    sampled = [reply.token for reply in plan.replies if reply.logits is not None]
    return Plan(model.format, config, plan.exchanges, sampled[END_AT] if ends else None, stall_in, stall_out, seed)
