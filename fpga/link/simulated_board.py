"""A simulated board on a pseudo-terminal: a host cannot tell it from a real one."""

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

CYCLES = 20_000
"""Cycles between two looks at the terminal."""

QUIET = 1_000_000
"""After so many cycles without a byte, more than any token takes, the clock stops until the host sends something."""


class SimulatedBoard:
    """The Verilog of a board, run in a thread from ``start`` to ``close``.

    ``port`` is the name of the terminal, for pyserial.

    Parameters
    ----------
    folder : Path
        Where the simulator is built.
    rom : Path
        The folder of the ROM images, ``identity.hex`` among them.
    model : ModelFormat
    config : ChipConfig
    noise : float
        The probability with which a byte on the line, in either direction, vanishes, is doubled, or has one bit flipped.
    seed : int
        Of the noise.
    verilog : str, optional
        Another text of the module ``board``, such as that of a placed netlist.
    divisor : int
        Cycles of a bit in ``verilog``.
    progress : callable
        Is called with the share that is done and a line, while the simulator is built.

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
        progress: Callable[[float, str], None] = lambda done, what: None,
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
        """Switch the board off, for good."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        self._library.board_delete(self._board)
        os.close(self._ours)
        os.close(self._theirs)

    def _run(self) -> None:
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
