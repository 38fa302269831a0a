"""Equality to the bit between the simulated chip and golden, the integer model in numpy."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hardwire.compiled import CompiledError
from hardwire.measure import busy_fractions
from hardwire.progress import step
from hardwire.sessions import rtl_session
from hardwire.target import Target
from hardwire.units import Sample, chosen_layers
from hdl.cycles.predict import predict_token
from sim.golden.llama import GoldenLlama
from sim.golden.sampler import inverse_temperature, sampler
from sim.rtl.chip import RtlReply
from sim.rtl.observe import ObservedChip
from sim.session import Sampling, Session
from weights_to_rom.adapters.lora import IntegerAdapter
from weights_to_rom.errors import HardwireError
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.text.unicode import unicode_of

PROMPTS = ("Once upon a time", "The little dog was", "One day, a girl named Lily")
"""The texts that are compared unless others are given."""

CHUNK = 32
"""The chip is at most this many positions ahead of golden.  Golden reads them at once, which is faster than one by one."""

PATIENCE = 4
"""How many times the predicted cycles of the longest token a foreign Verilog file may take for one."""

REPLIES = {"token": "sampler", "end": "constant", "position": "sequences"}
"""The unit that computes each part of a reply.  Every other part comes from the fabric, which multiplies matrices by vectors."""


@dataclass
class Comparison:
    """Counts of compared replies and logits, and the first difference.

    Members
    -------
    n_tokens, n_identical_tokens : int       replies compared, and those whose token is golden's
    n_logits, n_identical_logits : int       logits compared, and those that are equal
    first_difference : dict or None          "prompt", "position", "what" (the part that differs), and its values "rtl" and "golden"
    replies : list[RtlReply]                 the chip's replies
    """

    n_tokens: int = 0
    n_identical_tokens: int = 0
    n_logits: int = 0
    n_identical_logits: int = 0
    first_difference: dict | None = None
    replies: list[RtlReply] = field(default_factory=list)

    def as_dict(self) -> dict:
        """Counts, the first difference, and the cycles of a token."""
        return {
            "n_tokens": self.n_tokens,
            "n_identical_tokens": self.n_identical_tokens,
            "n_logits": self.n_logits,
            "n_identical_logits": self.n_identical_logits,
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
        self.n_tokens += 1
        self.n_identical_tokens += rtl.token == token
        self.n_logits += len(logits)
        self.n_identical_logits += int(equal.sum())
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
    """Let golden read the tokens that the chip has read, and compare its logits and tokens with the chip's replies.

    Parameters
    ----------
    model : IntegerModel           has the end-of-text token
    golden : GoldenLlama           at the position of the first of ``inputs``
    adapter : IntegerAdapter       adapter that golden applies
    inputs : Sequence[int]         tokens that the chip has read
    replies : Sequence[RtlReply]   the chip's reply to each
    sampling : Sampling            how the chip chose its tokens
    prompt : str                   names the text in a difference
    result : Comparison            gets the counts
    """
    inv_temperature = inverse_temperature(sampling.temperature)
    first = golden.position
    for offset, (logits, reply) in enumerate(zip(golden.extend(inputs, adapter=adapter), replies, strict=True)):
        position = first + offset
        token = int(sampler(logits, inv_temperature, sampling.seed, position))
        end = bool(model.eos_token_ids) and token == model.eos_token_ids[0]
        result.add({"prompt": prompt, "position": position}, reply, logits, token, end)


def check(target: Target, prompt: str, ids: Sequence[int], replies: Sequence[RtlReply], sampling: Sampling) -> dict:
    """Compare a text that the chip has written with golden's; ``replies`` follow the prompt's tokens ``ids``."""
    result, golden, adapter = Comparison(), target.golden(), target.integer_adapter
    inputs = [ids[-1], *(reply.token for reply in replies[:-1])]
    with step("check against golden") as running:
        if len(ids) > 1:
            golden.extend(ids[:-1], last_only=True, adapter=adapter)
        for start in range(0, len(inputs), CHUNK):
            part = slice(start, start + CHUNK)
            compare(target.model, golden, adapter, inputs[part], replies[part], sampling, prompt, result)
            running.update(f"token {result.n_tokens}", result.n_tokens, len(inputs))
            if result.first_difference:
                break
    return result.as_dict()


def verify(
    target: Target,
    prompts: Sequence[str],
    n_tokens: int,
    layers: Sequence[int] | None = None,
    chat: bool = False,
    verilog: Sequence[Path] = (),
) -> dict:
    """Run prompts on the simulated chip and on golden, and compare every token and every logit, also within the prompt.

    It stops at the first difference.

    Parameters
    ----------
    target : Target           a compiled model
    prompts : Sequence[str]   texts to continue; if there are none, three openings of stories
    n_tokens : int            tokens to write after each prompt, as far as the context reaches
    layers : Sequence[int]    compare every beat (word of a stream) at the ports of these layers' units, too; the first
                              difference then names the unit.  An empty sequence stands for all layers, None for no such
                              comparison
    chat : bool               the prompts are questions, in the model's chat template
    verilog : Sequence[Path]  files that stand for chip.v: an edited chip.v, or a netlist of a synthesis tool and its cells

    Returns the figures that ``hardwire verify --json`` prints.

    Raises
    ------
    HardwireError     for a shared engine with ``layers``, and for a layer that the model lacks
    CompiledError     for a checkpoint that is not compiled, and for a file of ``verilog`` that is not there
    TokenizerError    for a prompt that has no tokens
    SimulationError   if the simulation cannot be built, or ``verilog`` has other ports than the chip, or gives no reply
    """
    compiled = target.compiled()
    if missing := [file for file in verilog if not file.is_file()]:
        raise CompiledError(f"{missing[0]}: is not a file: name the Verilog that stands for chip.v")
    if layers is not None and compiled.config.shared:
        raise HardwireError(
            f"{compiled.folder}: has one engine for all units, and no ports between them to look at: leave out --units"
        )
    texts = [*map(unicode_of, prompts)] or default_prompts(target)
    questions = ([{"role": "user", "content": text}] for text in texts)
    encoded = [*map(target.encode_chat, questions)] if chat else [*map(target.encode, texts)]
    golden, sample = target.golden(), None
    chosen = None if layers is None else chosen_layers(layers, golden.format.n_layers)
    session = rtl_session(target, None if chosen is None else ObservedChip, verilog=verilog)
    if verilog:
        session.chip.max_cycles = PATIENCE * predict_token(golden.format, compiled.config, compiled.config.max_context).total
    if chosen is not None:
        assert isinstance(session.chip, ObservedChip)
        sample = Sample(session.chip, golden, golden.format, compiled.config, chosen)
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
                compare(target.model, golden, target.integer_adapter, inputs, replies, Sampling(), text, result)
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
            "n_prompt_tokens": sum(map(len, encoded)),
            "seconds": round(time.monotonic() - start, 2),
        }
        | ({"verilog": [str(file) for file in verilog]} if verilog else {})
    )


def culprit(inside: dict | None, outside: dict | None, prompt: str) -> dict | None:
    """Return the earlier one of a difference inside the chip, at a unit's port, and a difference outside, in a reply.

    At the same position it is the one inside, because the reply follows from it.  A reply that differs although all its logits
    are right is the fault of a unit that follows the LM head.
    """
    if inside is not None and (outside is None or inside["position"] <= outside["position"]):
        return {"prompt": prompt} | inside
    if outside is not None:
        return outside | {"unit": REPLIES.get(outside["what"], "matvec"), "layer": None}
    return None


def greedy(
    session: Session, ids: Sequence[int], n_positions: int, told: Callable[[int], None]
) -> Iterator[tuple[list[int], list[RtlReply]]]:
    """Yield the inputs and replies of a prompt and its greedy continuation, in pieces of 1, 2, 4 ... up to CHUNK positions.

    Short pieces come first, so that an early difference ends the comparison at once.  ``told`` gets the number of positions so
    far.
    """
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


def default_prompts(target: Target) -> list[str]:
    """Openings of stories, or random token numbers for a model without a tokenizer."""
    if target.tokenizer is not None:
        return list(PROMPTS)
    rng = np.random.default_rng(1)
    shape = len(PROMPTS), min(8, target.max_context)
    return [" ".join(map(str, row)) for row in rng.integers(target.vocab_size, size=shape)]
