"""The simulated chip as a Python object: it takes a token, and returns the reply and every logit."""

import ctypes
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hdl.config import ChipConfig
from hdl.interface import COMMAND, LOAD_REPLY, REPLY, TOP, Layout, LoadStatus, Status, rom_macro
from sim.rtl.library import Statistics, open_library
from sim.rtl.verilator import Addition, SimulationError
from weights_to_rom.model_format import ModelFormat

MAX_CYCLES = 1 << 26
"""The longest wait for a reply, in cycles.  No chip needs so many; one that does not reply until then is stuck."""


@dataclass(frozen=True)
class RtlReply:
    """The chip's reply to a token, and the cycles that it took.

    ``busy[step]`` counts the cycles in which the fabric read a weight word of a ``schedule.Step``; ``within[step]`` counts the
    cycles from each matrix's first weight word to its last.
    """

    status: Status
    token: int
    position: int
    end: bool
    logits: np.ndarray
    cycles: int
    busy: tuple[int, ...]
    within: tuple[int, ...]


@dataclass(frozen=True)
class LoadReply:
    """The chip's reply to a load image: the adapter's number, and the status, which is OK if tokens may use the adapter."""

    adapter: int
    status: LoadStatus


def harness_defines(model: ModelFormat, config: ChipConfig) -> dict[str, int]:
    """List the widths of the chip's ports, which the harness is compiled with."""
    return {
        "COMMAND_WORDS": _words(COMMAND),
        "REPLY_WORDS": _words(REPLY),
        "LANES": config.vector_lanes,
        "WIDE_BITS": model.wide_bits,
    } | ({"LORA": 1} if config.lora_rank else {})


def _words(layout: Layout) -> int:
    return -(-layout.size // 32)


def load_image_sha256(image: np.ndarray) -> str:
    """Name a load image by the SHA-256 of its words, in hexadecimal."""
    return hashlib.sha256(image.astype("<u4").tobytes()).hexdigest()


class RtlChip:
    """A simulated chip.  It begins in the state after a reset, and ``close`` frees it.

    ``adapters`` maps the number of each adapter to the ``load_image_sha256`` of the last image that was loaded for it.

    Parameters
    ----------
    library : Path
        The shared library that ``build_library`` made of the chip's Verilog.
    rom_folder : Path
        The folder that holds the ROM images.
    model : ModelFormat
    config : ChipConfig
        The format and the configuration of the chip's Verilog.

    Raises SimulationError if a ROM image is missing, or if the Verilog ends the simulation.
    """

    max_cycles = MAX_CYCLES
    """The longest wait for a reply, in cycles."""

    def __init__(self, library: Path, rom_folder: Path, model: ModelFormat, config: ChipConfig):
        self._library = open_library(library)
        self.adapters: dict[int, str] = {}
        self._vocab_size = model.vocab_size
        self._logits = np.zeros(-(-model.vocab_size // config.vector_lanes) * config.vector_lanes, np.int32)
        self._chip = self._library.simulation_new(str(rom_folder.resolve()).encode())
        if not self._chip:
            raise SimulationError(f"{rom_folder}: {self._reason() or 'the ROM images are not there'}")

    def _reason(self) -> str:
        reason = self._library.simulation_reason().decode(errors="replace")
        return reason and f"the simulation stopped at {reason}"

    @classmethod
    def addition(cls, model: ModelFormat, config: ChipConfig) -> Addition:
        """Return the parts of its library that this kind of chip needs besides its Verilog and the harness."""
        return Addition(top=config.module(TOP), rom_macro=rom_macro(config.prefix))

    def token(
        self,
        token: int,
        *,
        sequence: int = 0,
        adapter: int = 0,
        restart: bool = False,
        sample: bool = True,
        inv_temperature: int = 0,
        seed: int = 0,
    ) -> RtlReply:
        """Feed one token and run the clock until the chip replies."""
        command = COMMAND.pack(
            token=token,
            sequence=sequence,
            adapter=adapter,
            restart=restart,
            sample=sample,
            inv_temperature=inv_temperature,
            seed=seed,
        )
        words = np.frombuffer(command.to_bytes(4 * _words(COMMAND), "little"), np.uint32)
        reply, statistics = np.zeros(_words(REPLY), np.uint32), Statistics()
        failed = self._library.simulation_token(
            self._chip,
            words.ctypes.data,
            reply.ctypes.data,
            self._logits.ctypes.data,
            self._logits.size,
            self.max_cycles,
            ctypes.byref(statistics),
        )
        if failed:
            why = {1: f"the chip gave no reply in {self.max_cycles} cycles", 2: "the chip gave more logits than it has tokens"}
            raise SimulationError(why.get(failed) or self._reason())
        fields = REPLY.unpack(int.from_bytes(reply.tobytes(), "little"))
        return RtlReply(
            Status(fields["status"]),
            fields["token"],
            fields["position"],
            bool(fields["end"]),
            self._logits[: min(self._vocab_size, statistics.logits)].copy(),
            statistics.cycles,
            tuple(statistics.busy),
            tuple(statistics.within),
        )

    def load(self, image: np.ndarray) -> LoadReply:
        """Send the words of a load image (docs/arithmetic.md, section 6) and return the chip's reply."""
        words, reply = np.ascontiguousarray(image, np.uint32), np.zeros(1, np.uint32)
        if failed := self._library.simulation_load(self._chip, words.ctypes.data, words.size, reply.ctypes.data, MAX_CYCLES):
            raise SimulationError("the chip gave no reply to an adapter" if failed == 1 else self._reason())
        fields = LOAD_REPLY.unpack(int(reply[0]))
        self.adapters[fields["adapter"]] = load_image_sha256(words)
        return LoadReply(fields["adapter"], LoadStatus(fields["status"]))

    def state(self) -> np.ndarray:
        """Copy the state of the chip between two tokens, uint8: registers, SRAM, and the ROMs, although they never change."""
        size = self._library.simulation_state(self._chip, None, 0)
        state = np.empty(size, np.uint8)
        self._library.simulation_state(self._chip, state.ctypes.data, size)
        return state

    def restore(self, state: np.ndarray) -> None:
        """Restore a ``state``.

        It must come from a chip with the same library and ROMs.  The caller checks that (hardwire/saved.py), because
        Verilator ends the process if the library is another.
        """
        state = np.ascontiguousarray(state, np.uint8)
        self._library.simulation_restore(self._chip, state.ctypes.data, state.size)

    def close(self) -> None:
        """Free the simulation; a second call does nothing."""
        if self._chip:
            self._library.simulation_delete(self._chip)
            self._chip = None
