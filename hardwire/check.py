"""Equality to the bit between the simulated chip and the integer model."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hardwire.cli.console import step
from hardwire.measure import busy_fractions
from hardwire.target import Target
from hardwire.units import Sample, chosen_layers
from sim.golden.llama import GoldenLlama
from sim.golden.sampler import inverse_temperature, sampler
from sim.rtl.chip import RtlReply
from sim.rtl.observe import ObservedChip
from sim.session import Sampling, Session
from weights_to_rom.adapters.lora import IntegerAdapter
from weights_to_rom.integer_model import IntegerModel

PROMPTS = ("Once upon a time", "The little dog was", "One day, a girl named Lily")
CHUNK = 32
"""Positions that the chip runs ahead of golden at most: golden is much faster on many at once."""

REPLIES = {"token": "sampler", "end": "constant", "position": "sequences"}
"""The unit that each part of a reply comes from."""


@dataclass
class Comparison:
    """What was compared so far.  ``first_difference`` says where, with both values, once there is one."""

    tokens: int = 0
    identical_tokens: int = 0
    logits_compared: int = 0
    identical_logits: int = 0
    first_difference: dict | None = None
    replies: list[RtlReply] = field(default_factory=list)

    def as_dict(self) -> dict:
        """Counts, the first difference, and what the chip took for a token that it samples after."""
        return {
            "tokens": self.tokens,
            "identical_tokens": self.identical_tokens,
            "logits_compared": self.logits_compared,
            "identical_logits": self.identical_logits,
            "first_difference": self.first_difference,
            "cycles_per_token": round(sum(reply.cycles for reply in self.replies) / len(self.replies), 1),
            **busy_fractions(self.replies),
        }

    def add(self, where: dict, rtl: RtlReply, logits: np.ndarray, token: int, end: bool) -> None:
        """Compare one reply of the chip with golden's ``logits``, ``token`` and ``end``-of-text flag."""
        n = min(len(logits), len(rtl.logits))
        equal = np.zeros(len(logits), bool)
        equal[:n] = logits[:n] == rtl.logits[:n]
        self.replies.append(rtl)
        self.tokens += 1
        self.identical_tokens += rtl.token == token
        self.logits_compared += len(logits)
        self.identical_logits += int(equal.sum())
        pairs = [
            ("token", rtl.token, token),
            ("end", rtl.end, end),
            ("position", rtl.position, where["position"]),
        ]
        if not equal.all():
            index = int(np.argmin(equal))
            pairs.insert(
                0,
                (
                    f"logit of token {index}",
                    int(rtl.logits[index]) if index < n else None,
                    int(logits[index]),
                ),
            )
        for what, ours, theirs in pairs:
            if ours != theirs and self.first_difference is None:
                self.first_difference = where | {"what": what, "rtl": ours, "golden": theirs}


def compare(
    model: IntegerModel,
    golden: GoldenLlama,
    adapter: IntegerAdapter | None,
    inputs: Sequence[int],
    replies: Sequence[RtlReply],
    sampling: Sampling,
    prompt: str,
    result: Comparison,
) -> None:
    """Let golden read what the chip read, from where golden stands, and compare what comes out."""
    inv_temperature = inverse_temperature(sampling.temperature)
    first = golden.position
    for offset, (logits, reply) in enumerate(zip(golden.extend(inputs, adapter=adapter), replies, strict=True)):
        position = first + offset
        token = int(sampler(logits, inv_temperature, sampling.seed, position))
        end = bool(model.eos_token_ids) and token == model.eos_token_ids[0]
        result.add({"prompt": prompt, "position": position}, reply, logits, token, end)


def check(subject: Target, prompt: str, ids: Sequence[int], replies: Sequence[RtlReply], sampling: Sampling) -> dict:
    """Compare a text that the chip wrote: ``ids`` are the prompt's, ``replies`` follow its last one."""
    result, golden, adapter = Comparison(), subject.golden(), subject.integer_adapter
    inputs = [ids[-1], *(reply.token for reply in replies[:-1])]
    with step("check against golden") as running:
        if len(ids) > 1:
            golden.extend(ids[:-1], last_only=True, adapter=adapter)
        for start in range(0, len(inputs), CHUNK):
            part = slice(start, start + CHUNK)
            compare(subject.model, golden, adapter, inputs[part], replies[part], sampling, prompt, result)
            running.update(f"token {result.tokens}", result.tokens, len(inputs))
            if result.first_difference:
                break
    return result.as_dict()


def verify(subject: Target, prompts: Sequence[str], n_tokens: int, layers: Sequence[int] | None = None, chat: bool = False) -> dict:
    """Run prompts, or questions, on chip and golden; compare every token and every logit, those after each prompt token too.

    With ``layers``, every beat at the ports of these layers' units, too (all layers, if it is empty): the first difference
    then names the unit that made it.  Stops at the first difference.  What ``hardwire verify --json`` prints.
    """
    subject.backend("rtl")
    if layers is not None and subject.output.config.shared:
        raise ValueError(
            f"{subject.output.folder}: has one engine for all units, and no ports between them to look at: leave out --sample"
        )
    texts = list(prompts) or default_prompts(subject)
    questions = ([{"role": "user", "content": text}] for text in texts)
    encoded = [*map(subject.encode_chat, questions)] if chat else [*map(subject.encode, texts)]
    golden, sample = subject.golden(), None
    chosen = None if layers is None else chosen_layers(layers, golden.format.n_layers)
    session = subject.session("rtl", None if chosen is None else ObservedChip)
    if chosen is not None:
        sample = Sample(session.chip, golden, golden.format, subject.output.config, chosen)
    result, start = Comparison(), time.monotonic()
    with step("verify") as running:
        for number, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
            n_positions = len(ids) + n_tokens - 1
            if not session.slides:
                n_positions = min(n_positions, session.max_context)

            def told(done: int, number: int = number, n_positions: int = n_positions) -> None:
                running.update(f"prompt {number + 1} of {len(texts)}", number + done / n_positions, len(texts))

            session.reset()
            golden.reset()
            for inputs, replies in greedy(session, ids, n_positions, told):
                if sample is not None:
                    sample.begin()
                compare(subject.model, golden, subject.integer_adapter, inputs, replies, Sampling(), text, result)
                if sample is not None:
                    sample.end()
                    result.first_difference = culprit(sample.first_difference, result.first_difference, text)
                if result.first_difference:
                    break
            if result.first_difference:
                break
    session.close()
    return (
        result.as_dict()
        | ({} if sample is None else {"sample": sample.as_dict()})
        | {
            "prompts": texts,
            "prompt_tokens": sum(map(len, encoded)),
            "seconds": round(time.monotonic() - start, 2),
        }
    )


def culprit(inside: dict | None, outside: dict | None, prompt: str) -> dict | None:
    """The earlier one of a difference at a unit's port and one in what the chip replied; the former, where both are as early.

    A reply of which every logit is right is the fault of what comes after the LM head.
    """
    if inside is not None and (outside is None or inside["position"] <= outside["position"]):
        return {"prompt": prompt} | inside
    if outside is not None:
        return outside | {"unit": REPLIES.get(outside["what"], "matvec"), "layer": None}
    return None


def greedy(
    session: Session, ids: Sequence[int], n_positions: int, told: Callable[[int], None]
) -> Iterator[tuple[list[int], list[RtlReply]]]:
    """A prompt and its continuation, a reply at each position: inputs and replies, in ever longer pieces up to CHUNK."""
    inputs: list[int] = []
    replies: list[RtlReply] = []
    token, length = ids[0], 1
    for position in range(n_positions):
        if position < len(ids):
            token = ids[position]
        reply = session.step(token).rtl
        assert reply is not None
        inputs.append(token)
        replies.append(reply)
        token = reply.token
        told(position + 1)
        if len(replies) == length or position + 1 == n_positions:
            yield inputs, replies
            inputs, replies, length = [], [], min(2 * length, CHUNK)


def default_prompts(subject: Target) -> list[str]:
    """Openings of stories, or random token numbers for a model without a tokenizer."""
    if subject.tokenizer is not None:
        return list(PROMPTS)
    rng = np.random.default_rng(1)
    shape = len(PROMPTS), min(8, subject.max_context)
    return [" ".join(map(str, row)) for row in rng.integers(subject.vocab_size, size=shape)]
