"""The design that goes into an FPGA: a serial line, the link, and the chip."""

from functools import lru_cache
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect

from fpga.link.frames import FrameRx, FrameTx
from fpga.link.requests import IDENTITY_BITS, Link
from fpga.link.uart import UartRx, UartTx
from hdl.chip import Chip
from hdl.config import ChipConfig
from hdl.interface import rom_macro
from hdl.lib.rom import RomSpec
from hdl.verilog import whole_verilog
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import rom_map

FIFO_BYTES = 512
"""Bytes of requests that can wait for the link.

The host sends at most AHEAD = 16 requests ahead of their replies (``fpga.link.host``).  Each takes at most 2 * 12 + 2 = 26 bytes on
the line, so all of them take at most 416 bytes.
"""


class BoardTop(wiring.Component):
    """A chip with a serial line that speaks ``fpga.link.protocol``.

    Parameters
    ----------
    model : ModelFormat
        The shapes of the model.
    config : ChipConfig
        The options of the chip.
    divisor : int
        Cycles of a bit on the line: at least ``protocol.LEAST_DIVISOR``, from ``protocol.divisor_for``.

    Members
    -------
    rx : In(1)      line from the host, high at rest
    tx : Out(1)     line to the host, high at rest
    busy : Out(1)   the fabric reads a weight word; can drive an LED
    """

    rx: Any
    tx: Any
    busy: Any

    def __init__(self, *, model: ModelFormat, config: ChipConfig, divisor: int):
        self.model, self.config, self.divisor = model, config, divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "busy": Out(1)})  # pyright: ignore[reportCallIssue]

    def elaborate(self, platform) -> Module:
        """Connect rx, FIFO, FrameRx, Link, FrameTx and tx in a row, and the chip to the link."""
        m = Module()
        m.submodules.uart_rx = uart_rx = UartRx(divisor=self.divisor)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=FIFO_BYTES)
        m.submodules.frame_rx = frame_rx = FrameRx()
        m.submodules.link = link = Link(model=self.model, config=self.config)
        chip: Any = Chip(model=self.model, config=self.config)
        m.submodules.chip = chip
        m.submodules.frame_tx = frame_tx = FrameTx()
        m.submodules.uart_tx = uart_tx = UartTx(divisor=self.divisor)
        connect(m, frame_rx.o, link.i)
        connect(m, link.command, chip.i)
        connect(m, chip.o, link.reply)
        connect(m, link.o, frame_tx.i)
        connect(m, frame_tx.o, uart_tx.i)
        m.d.comb += [
            uart_rx.line.eq(self.rx),
            self.tx.eq(uart_tx.line),
            self.busy.eq(chip.busy),
            # If the FIFO is full, the byte is lost.  Its frame is then dropped, and the host sends the request again.
            fifo.w_data.eq(uart_rx.data),
            fifo.w_en.eq(uart_rx.valid),
            frame_rx.i.payload.eq(fifo.r_data),
            frame_rx.i.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(frame_rx.i.ready),
        ]
        if self.config.lora_rank:
            connect(m, link.load, chip.load)
            connect(m, chip.loaded, link.loaded)
        return m


@lru_cache(maxsize=4)  # it takes seconds, and a simulated board asks for it each time that it is switched on
def board_verilog(model: ModelFormat, config: ChipConfig, divisor: int) -> str:
    """Return the Verilog of a chip with its serial line, top module ``board``.  A bit on the line takes ``divisor`` cycles.

    It looks for the ROM images in the folder in which a tool runs, because each tool flow has a folder of its own.
    """
    roms = [*rom_map(model, **config.rom_lanes).values(), RomSpec("identity", IDENTITY_BITS, 1)]
    text = whole_verilog(BoardTop(model=model, config=config, divisor=divisor), "board", roms)
    return f'`define {rom_macro()} "./"\n{text}'
