"""A simulated chip that records every beat at the output ports of its units, token by token."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hdl.config import ChipConfig
from hdl.units import Port, asked, embedding_unit, stage_units
from hdl.verilog import CORE
from sim.rtl.chip import RtlChip, RtlReply
from sim.rtl.verilator import Addition, SimulationError
from weights_to_rom.model_format import ModelFormat

EXPONENTS = ("exp", "base")
"""The names that a payload may have for the exponent of its elements."""


@dataclass(frozen=True)
class Tap:
    """A stream that is recorded: a ``port`` of the unit at the path ``scope``, and the layout of its payload of ``size`` bits.

    ``values`` are the lowest bits of the elements, which have ``width`` bits each; ``exponents`` are the lowest bits of their
    exponents, which have 8.  All are signed.  len(values) / len(exponents) consecutive elements share an exponent.  ``parts``
    are the signals of the port for valid, ready (valid again, if the reader is always ready) and payload.
    """

    scope: str
    port: str
    size: int
    width: int
    values: tuple[int, ...]
    exponents: tuple[int, ...]
    parts: tuple[str, str, str]

    @classmethod
    def of(cls, scope: str, port: Port) -> "Tap":
        """Make a tap for a stream of vector_beat, scaled_beat, mx_beat, result_beat or kv_beat."""
        payload: Any = port.payload
        words = [(0, payload)]
        if "bank" in payload.members:
            banks = payload.members["bank"]
            words = [(u * banks.elem_shape.size, banks.elem_shape) for u in range(banks.length)]
        width, values, exponents = 0, [], []
        for start, word in words:
            elements = word["mant" if "mant" in word.members else "data"]
            width = elements.shape.elem_shape.width
            values += [start + elements.offset + j * width for j in range(elements.shape.length)]
            exponents += [start + word[name].offset for name in EXPONENTS if name in word.members]
        parts = ("valid", "valid" if port.always_ready else "ready", "payload")
        return cls(scope, port.name, payload.size, width, tuple(values), tuple(exponents), parts)


def taps(model: ModelFormat, config: ChipConfig) -> dict[str, Tap]:
    """Make a tap for each output port of a chip's units, in the order in which the data flows.

    The names are those of golden's results (``hdl.units``).  The sampler has no tap, because the chip's reply is its result.
    """
    core, embedding = config.module(CORE), {"embedding": embedding_unit(model, config)}
    return {
        result: Tap.of(f"{parent}.{port.scope}", port)
        for parent, units in ((core, embedding), (f"{core}.stage", stage_units(model, config)))
        for name, unit in asked(units).items()
        for result, port in unit.ports(name).items()
    }


class Beats:
    """The recorded beats of a tap in their order.  An index of beats gives their elements and their exponents, both int64."""

    def __init__(self, tap: Tap, words: np.ndarray):
        # One more word, because ``_fields`` reads the word after the one in which a field begins.
        self._tap, self._words = tap, np.concatenate([words, np.zeros_like(words[:, :1])], axis=1)

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, which) -> tuple[np.ndarray, np.ndarray]:
        """Elements [..., elements] and exponents [..., exponents] of beats, as numpy indexes them."""
        words, tap = self._words[which], self._tap
        return _fields(words, tap.values, tap.width), _fields(words, tap.exponents, 8)


def _fields(words: np.ndarray, starts: tuple[int, ...], width: int) -> np.ndarray:
    """Signed integers of ``width`` bits, up to 64, at bits ``starts`` of uint64[..., words]."""
    word, bit = np.divmod(np.array(starts, np.int64), 64)
    bit = bit.astype(np.uint64)
    low = words[..., word] >> bit
    # In two steps, because a shift by 64 would not shift at all.
    high = (words[..., word + 1] << (np.uint64(63) - bit)) << np.uint64(1)
    unused = np.int64(64 - width)
    return ((low | high).astype(np.int64) << unused) >> unused


class ObservedChip(RtlChip):
    """A simulated chip that records the beats at the ports of its units.  ``taps`` has the recorded ports by unit.

    Raises SimulationError if the library's chip does not have these ports.
    """

    def __init__(self, library: Path, rom_folder: Path, model: ModelFormat, config: ChipConfig):
        super().__init__(library, rom_folder, model, config)
        self.taps = taps(model, config)
        for at in self.taps.values():
            ports = (f"{at.port}__{part}" for part in at.parts)
            if self._library.simulation_tap(self._chip, *(name.encode() for name in (at.scope, *ports)), at.size):
                raise SimulationError(
                    f"the chip has no port {at.port} at {at.scope}, or another one: compile it again, or leave out --units"
                )
        self._ends: list[list[int]] = []

    @classmethod
    def addition(cls, model: ModelFormat, config: ChipConfig) -> Addition:
        """Let Verilator keep the ports of ``taps``, and add observe.cpp, which records them."""
        lines = [
            f'public_flat_rd -module "{at.scope}" -var "{at.port}__{part}"\n'
            for at in taps(model, config).values()
            for part in sorted(set(at.parts))
        ]
        return replace(super().addition(model, config), source=Path(__file__).with_suffix(".cpp"), configuration="".join(lines))

    def token(self, token: int, **options) -> RtlReply:
        """Feed one token as ``RtlChip.token`` does, and count the beats that each unit has recorded by its end."""
        reply = super().token(token, **options)
        self._ends.append(
            [self._library.simulation_recorded(self._chip, index) // _words(tap) for index, tap in enumerate(self.taps.values())]
        )
        return reply

    def take(self) -> tuple[dict[str, Beats], dict[str, np.ndarray]]:
        """Return the beats of each unit since the last call, and the number of them that were recorded by the end of each token."""
        beats = {}
        for index, (unit, tap) in enumerate(self.taps.items()):
            words = np.empty(self._library.simulation_recorded(self._chip, index), np.uint64)
            self._library.simulation_take(self._chip, index, words.ctypes.data)
            beats[unit] = Beats(tap, words.reshape(-1, _words(tap)))
        ends = np.array(self._ends, np.int64).reshape(-1, len(self.taps)).T
        self._ends = []
        return beats, dict(zip(self.taps, ends, strict=True))


def _words(tap: Tap) -> int:
    return -(-tap.size // 64)
