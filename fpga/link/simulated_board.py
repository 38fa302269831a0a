"""A simulated board on a pseudo-terminal, which a host opens like the serial port of a real board."""

import ctypes
import os
import random
import select
import threading
import tty
from collections.abc import Callable
from pathlib import Path

from fpga.link.board_top import board_verilog
from fpga.link.protocol import LEAST_DIVISOR
from hdl.config import ChipConfig
from sim.rtl.verilator import Addition, SimulationError, build_library
from weights_to_rom.model_format import ModelFormat

CYCLES = 2_000
"""Cycles that the simulation runs between two reads of the terminal, at most: a frame from the board ends them."""

QUIET = 1_000_000
"""Cycles without a byte, more than any token takes, after which the simulation waits for the host."""


class SimulatedBoard:
    """A board whose Verilog runs in a thread, from ``start`` to ``close``.

    Parameters
    ----------
    folder : Path
        The folder in which the simulator is built.
    rom : Path
        The folder of the ROM images, ``identity.hex`` among them.
    model : ModelFormat
        The shapes of the model.
    config : ChipConfig
        The options of the chip.
    noise : float
        The probability, 0 to 1, that a byte on the line is lost, doubled, or has one bit flipped.  It holds for both directions.
    seed : int
        The seed of the noise.
    verilog : str, optional
        The text of the module ``board``, for example of a placed netlist.  By default it is made from ``model`` and ``config``.
    divisor : int
        Cycles of a bit on the line.
    progress : callable
        It is called with the share that is done (0 to 1) and a line of text while the simulator is built.

    Attributes
    ----------
    port : str
        The name of the terminal, which pyserial opens.
    hits : int
        The number of bytes that noise has changed.

    Raises
    ------
    SimulationError
        The ROM images are not there, or the simulator cannot be built.
    """

    def __init__(
        self,
        folder: Path,
        rom: Path,
        model: ModelFormat,
        config: ChipConfig,
        *,
        noise: float = 0.0,
        seed: int = 0,
        verilog: str | None = None,
        divisor: int = LEAST_DIVISOR,
        progress: Callable[[float, str], None] = lambda done, line: None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "board.v"
        text = verilog or board_verilog(model, config, divisor)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        addition = Addition(harness=Path(__file__).with_name("board.cpp"), top="board")
        self._library = ctypes.CDLL(str(build_library(file, folder, {"DIVISOR": divisor}, progress, addition).resolve()))
        self._library.board_new.restype = ctypes.c_void_p
        self._library.board_new.argtypes = [ctypes.c_char_p]
        self._library.board_delete.argtypes = [ctypes.c_void_p]
        self._library.board_run.restype = ctypes.c_uint64
        self._library.board_run.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_uint64),
            ctypes.c_char_p,
            ctypes.c_uint64,
            ctypes.c_uint64,
        ]
        self._board = self._library.board_new(str(rom.resolve()).encode())
        if not self._board:
            raise SimulationError(f"{rom}: the ROM images are not there")
        self._noise, self._random = noise, random.Random(seed)
        self.hits = 0
        self._ours, theirs = os.openpty()
        tty.setraw(theirs)
        self.port = os.ttyname(theirs)
        self._theirs = theirs
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "SimulatedBoard":
        """Switch the board on."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Switch the board off.  It cannot be started again."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        self._library.board_delete(self._board)
        os.close(self._ours)
        os.close(self._theirs)

    def _run(self) -> None:
        """Pass bytes between the terminal and the simulation until ``close``."""
        waiting, quiet = b"", 0
        out = ctypes.create_string_buffer(CYCLES)
        while not self._closing.is_set():
            idle = not waiting and quiet >= QUIET
            if select.select([self._ours], [], [], 0.05 if idle else 0)[0]:
                waiting += self._hit(os.read(self._ours, 4096))
            elif idle:
                continue
            taken = ctypes.c_uint64(len(waiting))
            came = self._library.board_run(self._board, waiting, ctypes.byref(taken), out, len(out), CYCLES)
            quiet = 0 if came or taken.value else quiet + CYCLES
            waiting = waiting[taken.value :]
            if came:
                os.write(self._ours, self._hit(out.raw[:came]))

    def _hit(self, data: bytes) -> bytes:
        """Return ``data`` after the noise of the line."""
        if not self._noise:
            return data
        line = bytearray()
        for byte in data:
            if self._random.random() >= self._noise:
                line.append(byte)
                continue
            self.hits += 1
            kind = self._random.randrange(3)
            if kind == 1:
                line += bytes([byte, byte])
            elif kind == 2:
                line.append(byte ^ 1 << self._random.randrange(8))
        return bytes(line)
