"""How often the numbers of a model meet the limits of the chip's formats, counted on the integer model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sim.golden.attention import scores
from sim.golden.llama import GoldenLlama, Values
from sim.golden.matvec import saturating_terms
from weights_to_rom.adapters.lora import IntegerAdapter
from weights_to_rom.compile import RESIDUAL_SHIFTS, with_residual_shift
from weights_to_rom.errors import HardwireError
from weights_to_rom.integer_model import IntegerModel

KINDS = ("residual", "terms", "results", "scores", "logits")
"""The kinds of numbers that are counted.  Terms and results are those of the layers' matrices, logits the results of the head."""

FLAT = 256
"""Logits that lie within so many LSBs, a sixteenth of a nat, name no likeliest token."""

COARSE, LOST = 128, 16
"""An embedding whose largest element is below 128 LSBs has fewer bits than an MX block holds; below 16 it is lost."""

ROOM = 1 / 4
"""The fraction of Wide's range that the residual stream may reach: other texts reach further than the one that is measured."""

STRIDE = 4
"""The step in which ``fit_residual`` looks for a shift that holds the residual stream."""


class RangeError(HardwireError):
    """The numbers of a model do not fit the chip, whatever power of two scales its residual stream."""


@dataclass
class Ranges:
    """The numbers of a model on a few tokens.

    Members
    -------
    n_tokens : int          tokens that were read
    residual_shift : int    the scale of the residual stream: 2**residual_shift
    peak : float            the largest magnitude of the residual stream, as a fraction of Wide's range
    saturated : Counter     numbers at a limit of their format, by KINDS
    first : str             the first place with such a number; empty if there is none
    first_in_stream : str   the first such place in the residual stream or a matrix that adds to it: the shift can mend these
    embedded : np.ndarray   the largest magnitude of each token's embedding, in LSBs
    flat : int              tokens whose logits lie within FLAT
    """

    n_tokens: int
    residual_shift: int
    peak: float = 0.0
    saturated: Counter[str] = field(default_factory=Counter)
    first: str = ""
    first_in_stream: str = ""
    embedded: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    flat: int = 0

    @property
    def holds_residual(self) -> bool:
        """Whether the residual stream stays within ROOM, and nothing that is added to it saturates."""
        return self.peak < ROOM and not self.first_in_stream

    @property
    def coarse(self) -> int:
        """Number of tokens whose embedding is below COARSE; 0 if they are a half or fewer, because some tokens have none."""
        coarse = int((self.embedded < COARSE).sum())
        return coarse if 2 * coarse > self.n_tokens else 0

    def as_dict(self) -> dict:
        """Return the figures for report.json."""
        return {
            "n_tokens": self.n_tokens,
            "residual_shift": self.residual_shift,
            "residual_peak": round(self.peak, 6),
            "saturated": {kind: self.saturated[kind] for kind in KINDS},
            "first_saturated": self.first,
            "coarse_embeddings": self.coarse,
            "flat_logits": self.flat,
        }

    def warning(self) -> str:
        """Return one line that says which numbers do not fit the chip; it is empty if all do."""
        counts = [f"{self.saturated[kind]:,} {kind}" for kind in KINDS if self.saturated[kind]]
        faults = [f"saturate ({', '.join(counts)}; the first in {self.first})"] if counts else []
        small = [f"the embeddings of {self.coarse} tokens have fewer than 7 bits"] if self.coarse else []
        small += [f"the logits of {self.flat} tokens lie within {FLAT} steps of each other"] if self.flat else []
        if small:
            faults.append(f"are too small ({', and '.join(small)})")
        if not faults:
            return ""
        return f"the chip's answers may be wrong: on {self.n_tokens} tokens its numbers {' and '.join(faults)}"


def measure_ranges(model: IntegerModel, tokens: Sequence[int]) -> Ranges:
    """Run the integer model on tokens, and count the numbers that meet a limit of their format.

    A layer's matrices are prepared one after the other and dropped, so that a large model needs little memory.
    """
    watched = _Watched(model, Ranges(len(tokens), model.residual_shift))
    logits = watched.extend(tokens)
    watched.ranges.flat = int((np.ptp(logits, axis=-1) < FLAT).sum())
    return watched.ranges


def fit_residual(model: IntegerModel, eps: float, tokens: Sequence[int]) -> tuple[IntegerModel, Ranges]:
    """Lower the ``residual_shift`` of a model as far as its residual stream needs on some tokens, and no further.

    Parameters
    ----------
    model : IntegerModel
    eps : float               the epsilon of the checkpoint's norms
    tokens : Sequence[int]    a short text

    Returns the model and its ranges; both are unchanged if the residual stream stays within ROOM.

    Raises
    ------
    RangeError   if no shift holds the residual stream
    """
    given, before = model, measure_ranges(model, tokens)
    if before.holds_residual:
        return given, before
    ranges = before

    def refusal(why: str) -> RangeError:
        wider = ", or compile with --wide-bits 32" if model.format.wide_bits < 32 else ""
        return RangeError(f"{why}: scale the embedding, o and down of the checkpoint{wider}")

    def shifted(shift: int) -> tuple[IntegerModel, Ranges]:
        if shift < RESIDUAL_SHIFTS[0]:
            raise refusal(f"the residual stream saturates in {ranges.first_in_stream}, even times 2^{RESIDUAL_SHIFTS[0]}")
        lower = with_residual_shift(model, shift, eps)
        return lower, measure_ranges(lower, tokens)

    while not ranges.holds_residual:
        model, ranges = shifted(model.residual_shift - STRIDE)
    # Now the peak is known, and the shift goes up again as far as the peak allows.
    spare = int(np.ceil(np.log2(ROOM / ranges.peak))) - 1 if ranges.peak else RESIDUAL_SHIFTS[1]
    model, ranges = shifted(min(before.residual_shift - 1, model.residual_shift + spare))
    while not ranges.holds_residual:
        model, ranges = shifted(model.residual_shift - 1)
    lost = (before.embedded >= LOST) & (ranges.embedded < LOST)
    if 2 * lost.sum() > len(tokens):
        if not before.first_in_stream:  # it holds the stream so far, without ROOM
            return given, before
        raise refusal(f"the residual stream grows beyond {model.format.wide_bits} bits (it saturates in {before.first_in_stream})")
    return model, ranges


class _Watched(GoldenLlama):
    """Golden, with a count of the numbers at their limits."""

    def __init__(self, model: IntegerModel, ranges: Ranges):
        super().__init__(model)
        self.ranges = ranges
        self.observe = self._watch

    def _matvec(
        self, layer: int | None, kinds: Sequence[str], mant: np.ndarray, exp: np.ndarray, adapter: IntegerAdapter | None = None
    ) -> list[np.ndarray]:
        results = super()._matvec(layer, kinds, mant, exp, adapter)
        for kind, result in zip(kinds, results, strict=True):
            name = kind if layer is None else f"layers.{layer}.{kind}"
            stream = kind in ("o", "down")
            terms = saturating_terms(self._prepared[name], mant, exp, self.format.wide_bits)
            self._count("logits" if layer is None else "terms", terms, name, stream)
            self._count("logits" if layer is None else "results", self._at_limit(result, self.format.wide_bits), name, stream)
        self._prepared.clear()
        return results

    def _watch(self, unit: str, layer: int | None, parts: Mapping[str, Values]) -> None:
        bits = self.format.wide_bits
        if unit == "embedding" or (unit == "residual" and layer is not None):
            for which, values in parts.items():
                assert isinstance(values, np.ndarray)
                largest = np.abs(values).max(axis=-1)
                if unit == "embedding":
                    self.ranges.embedded = largest
                self.ranges.peak = max(self.ranges.peak, float(largest.max()) / (1 << (bits - 1)))
                place = unit if layer is None else f"layers.{layer}.{which}"
                self._count("residual", self._at_limit(values, bits), place, True)
        elif unit == "rope":
            for values, _ in parts.values():
                self._count("results", self._at_limit(values, bits), f"layers.{layer}.rope", False)
        elif unit == "mx_qkv":
            self._count("scores", self._at_limit(self._scores(parts), 16), f"layers.{layer}.attention", False)

    def _scores(self, parts: Mapping[str, Values]) -> np.ndarray:
        """The scores of the tokens that are read, each with itself and its past."""
        (q_mant, q_exp), (k_mant, k_exp) = parts["q"], parts["k"]
        n_time, n_rep = len(q_mant), self.format.n_rep
        found = [
            scores(q_mant[:, head, 0], np.asarray(q_exp)[:, head, 0], k_mant[:, head // n_rep], np.asarray(k_exp)[:, head // n_rep])
            for head in range(self.format.n_heads)
        ]
        return np.stack(found)[:, np.tri(n_time, dtype=bool)]

    def _count(self, kind: str, n: int, place: str, stream: bool) -> None:
        if n:
            self.ranges.first = self.ranges.first or place
            self.ranges.saturated[kind] += n
            if stream:
                self.ranges.first_in_stream = self.ranges.first_in_stream or place

    @staticmethod
    def _at_limit(values: np.ndarray, bits: int) -> int:
        limit = 1 << (bits - 1)
        return int(((values == -limit) | (values == limit - 1)).sum())
