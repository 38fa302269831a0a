"""Compare the chip with golden at the port of every unit, and name the first unit that differs."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np

from hdl.config import ChipConfig
from sim.golden.llama import GoldenLlama, Values
from sim.rtl.observe import ObservedChip
from weights_to_rom.errors import HardwireError
from weights_to_rom.model_format import ModelFormat

IN_TURNS = ("gate", "up")
"""The parts of a result that alternate at a port, one beat of each."""


class Sample:
    """Compares each result that golden reports (``GoldenLlama.observe``) with the beats at that unit's port.

    The chip reads some tokens first.  Then the caller calls ``begin``, lets golden read the same tokens, and calls ``end``.  The
    comparison covers the units of ``layers`` and the units outside of layers (embedding, final norm, head).

    Parameters
    ----------
    chip : ObservedChip       the simulated chip, which records the beats
    golden : GoldenLlama      the integer model, which reports its results
    model : ModelFormat       shape and number formats of both
    config : ChipConfig       the chip's lanes
    layers : Sequence[int]    numbers of the layers to compare

    ``first_difference`` is the difference at the earliest position; of several at one position it is the first in the order of
    data flow.  It has "position", "unit", "layer", "what" (such as "q[17]"), "rtl" and "golden".
    """

    def __init__(self, chip: ObservedChip, golden: GoldenLlama, model: ModelFormat, config: ChipConfig, layers: Sequence[int]):
        self._chip, self._golden, self._model, self._config = chip, golden, model, config
        self.layers = layers
        self.beats: dict[str, int] = dict.fromkeys(chip.taps, 0)
        self.identical_beats: dict[str, int] = dict.fromkeys(chip.taps, 0)
        self.first_difference: dict | None = None
        golden.observe = self._result

    def as_dict(self) -> dict:
        """Return the layers, and by port the number of beats that were compared and of those that were identical."""
        return {"layers": list(self.layers), "n_beats": self.beats, "n_identical_beats": self.identical_beats}

    def begin(self) -> None:
        """Take the chip's beats since the last call.  The caller then lets golden read the same tokens."""
        self._recorded, self._ends = self._chip.take()
        self._next = {port: np.concatenate([[0], ends[:-1]]) for port, ends in self._ends.items()}
        self._first = self._golden.position

    def end(self) -> None:
        """Check, after golden has read the tokens, that no port has beats which golden did not report."""
        for port, ends in self._ends.items():
            more = ends - self._next[port]
            if more.any():
                at = int(np.argmax(more != 0))
                self._differ(at, port, None, "beats after the last result", int(more[at]), 0)

    def _result(self, unit: str, layer: int | None, parts: Mapping[str, Values]) -> None:
        offset = self._golden.position - self._first
        pairs = {name: part if isinstance(part, tuple) else (part, None) for name, part in parts.items()}
        if unit == "kv_cache":
            for name, (mant, exp) in pairs.items():
                self._cached(layer, name, mant, np.asarray(exp), offset)
        elif unit in self._chip.taps:
            lanes = len(self._chip.taps[unit].values)
            shapes = {name: array.shape[1:] for name, (array, _) in pairs.items()}
            values = [_in_beats(array, lanes) for array, _ in pairs.values()]
            exponents = [
                _of_each_beat(exp, beats) for (_, exp), beats in zip(pairs.values(), values, strict=True) if exp is not None
            ]
            turns = tuple(parts) == IN_TURNS
            expected = np.stack(values, 2).reshape(len(values[0]), -1, lanes) if turns else np.concatenate(values, 1)

            def where(beat: int, lane: int) -> str:
                beats = [[(name, k * lanes) for k in range(part.shape[1])] for name, part in zip(shapes, values, strict=True)]
                name, first = list(chain.from_iterable(zip(*beats, strict=True) if turns else beats))[beat]
                return _element(name, first + lane, shapes[name])

            enters = "after_ffn" in parts and layer is not None and layer + 1 in self.layers
            self._compare(
                unit, layer, offset, expected, np.concatenate(exponents, 1) if exponents else expected[..., :0], where, enters
            )

    def _cached(self, layer: int | None, name: str, mant: np.ndarray, exp: np.ndarray, offset: int) -> None:
        """Compare k or v in the order in which the KV cache sends it.

        A pass is one run of ``attention_heads`` heads over all positions.  It reads place by place and word by word, and a beat
        has one word of every bank, that is of every kv head of the pass.
        """
        heads, lanes, n_rep = self._config.attention_heads, self._config.attention_lanes, self._model.n_rep
        n_kv, held, head_dim = shape = *mant.shape[:2], self._model.head_dim
        banks, words = max(1, heads // n_rep), head_dim // lanes
        for more in range(max(1, held - self._golden.position)):  # golden reads one position at a time once the window slides
            places = min(self._golden.position + more + 1, held)

            def in_order(array: np.ndarray, places: int = places) -> np.ndarray:
                """[kv head, place, elements or words of a head] -> [1, beats, elements or words of a beat]"""
                cut = array[:, :places].reshape(n_kv // banks, banks, places, words, -1).transpose(0, 2, 3, 1, 4)
                return np.repeat(cut, banks * n_rep // heads, axis=0).reshape(1, -1, banks * cut.shape[-1])

            def where(beat: int, lane: int, in_order: Callable[[np.ndarray], np.ndarray] = in_order) -> str:
                return _element(name, int(in_order(np.arange(np.prod(shape)).reshape(shape))[0, beat, lane]), shape)

            self._compare(
                f"kv_cache.{name}",
                layer,
                offset + more,
                in_order(mant.reshape(shape)),
                in_order(np.repeat(exp, self._model.kv_block // lanes, axis=-1)),
                where,
            )

    def _compare(
        self,
        port: str,
        layer: int | None,
        offset: int,
        expected: np.ndarray,
        exponents: np.ndarray,
        where: Callable[[int, int], str],
        enters: bool = False,
    ) -> None:
        """Compare the next beats of a port, from the ``offset``th token on.

        Parameters
        ----------
        port : str               name of the port
        layer : int              layer of the result; None for a unit outside of layers
        offset : int             first token, counted from the last ``begin``
        expected : np.ndarray    golden's elements [T, beats, n]
        exponents : np.ndarray   golden's exponents [T, beats, 0 or more]
        where : Callable         names an element by its beat and lane
        enters : bool            the result is the input of a chosen layer, and is compared although its own layer is not chosen
        """
        n_time, n_beats, n_elements = expected.shape
        tokens = slice(offset, offset + n_time)
        first = self._next[port][tokens].copy()
        self._next[port][tokens] += n_beats
        if not (self._sampled(layer) or enters):
            return
        missing = self._next[port][tokens] > self._ends[port][tokens]
        if missing.any():
            at = int(np.argmax(missing))
            self._differ(offset + at, port, layer, "beats", int(self._ends[port][offset + at] - first[at]), n_beats)
            return
        elements, scales = self._recorded[port][first[:, None] + np.arange(n_beats)]
        wrong = np.concatenate([scales != exponents, elements != expected], axis=-1)
        self.beats[port] += n_time * n_beats
        self.identical_beats[port] += int((~wrong.any(-1)).sum())
        if wrong.any():
            at, beat, index = (int(i) for i in np.argwhere(wrong)[0])
            n_exponents = exponents.shape[-1]
            if index < n_exponents:
                what = f"exponent of {where(beat, index * n_elements // n_exponents)}"
                self._differ(offset + at, port, layer, what, int(scales[at, beat, index]), int(exponents[at, beat, index]))
            else:
                lane = index - n_exponents
                values = (int(array[at, beat, lane]) for array in (elements, expected))
                self._differ(offset + at, port, layer, where(beat, lane), *values)

    def _sampled(self, layer: int | None) -> bool:
        return layer is None or layer in self.layers

    def _differ(self, offset: int, port: str, layer: int | None, what: str, rtl: int, golden: int) -> None:
        if not self._sampled(layer):
            what += ": the fault is in a layer that was not sampled"
        position = self._first + offset
        if self.first_difference is None or position < self.first_difference["position"]:
            self.first_difference = {
                "position": position,
                "unit": port.partition(".")[0],
                "layer": layer,
                "what": what,
                "rtl": rtl,
                "golden": golden,
            }


def chosen_layers(layers: Sequence[int], n_layers: int) -> Sequence[int]:
    """Return the layers to compare, all of them if none is given.  Raises HardwireError for a layer that the model lacks."""
    if absent := [layer for layer in layers if not 0 <= layer < n_layers]:
        raise HardwireError(f"there is no layer {absent[0]}: the model has 0 to {n_layers - 1}")
    return sorted(set(layers)) or range(n_layers)


def _in_beats(values: np.ndarray, lanes: int) -> np.ndarray:
    """[T, ...] -> [T, beats, lanes], the last beat filled up with zeros."""
    flat = values.reshape(len(values), -1)
    return np.pad(flat, ((0, 0), (0, -flat.shape[1] % lanes))).reshape(len(flat), -1, lanes)


def _of_each_beat(exp: np.ndarray | int, beats: np.ndarray) -> np.ndarray:
    """Exponents, one for all or [T, ...] of equal runs -> [T, beats, 1]."""
    n_time, n_beats = beats.shape[:2]
    runs = np.broadcast_to(exp, (n_time, 1)) if np.ndim(exp) == 0 else np.reshape(exp, (n_time, -1))
    return np.repeat(runs, n_beats // runs.shape[1], axis=1)[..., None]


def _element(name: str, index: int, shape: Sequence[int]) -> str:
    """Return the name and indices of an element, such as q[17], or a note that the index is in the zeros after the part."""
    if index >= np.prod(shape):
        return f"{name}, filled up"
    return f"{name}[{', '.join(str(int(i)) for i in np.unravel_index(index, shape))}]"
