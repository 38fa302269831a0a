"""A board that is not there: its Verilog behind a pseudo-terminal, for a host that does not know."""

import ctypes
import os
import random
import select
import threading
import tty
from collections.abc import Callable
from pathlib import Path

from fpga.link.board_top import BoardTop
from fpga.link.requests import IDENTITY_BITS
from hdl.config import ChipConfig
from hdl.lib.rom import RomSpec
from hdl.verilog import whole_verilog
from sim.rtl.verilator import Addition, SimulationError, build_library
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import rom_map

DIVISOR = 4
"""Cycles of a bit: a line so fast that it is hardly waited for."""

CYCLES = 20_000
"""Cycles between two looks at the terminal."""

QUIET = 1_000_000
"""Cycles without a byte after which the clock stops until the host says something: no token takes as long."""


def board_verilog(model: ModelFormat, config: ChipConfig, divisor: int) -> str:
    """The board's chip with its line: top module ``board``."""
    roms = [*rom_map(model, **config.rom_lanes).values(), RomSpec("identity", IDENTITY_BITS, 1)]
    return whole_verilog(BoardTop(model=model, config=config, divisor=divisor), "board", roms)


class SimulatedBoard:
    """Runs in a thread from ``start`` to ``close``.  ``port`` is the terminal's name, for pyserial.

    ``rom`` is a folder with the images, ``identity.hex`` among them.  A byte on the line, of either direction, is hit with
    probability ``noise``: it vanishes, comes twice, or has a bit flipped.

    ``verilog`` is another text of the module ``board``, as that of a netlist, whose line has ``divisor``.
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
        divisor: int = DIVISOR,
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
        self._thread.start()
        return self

    def close(self) -> None:
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
