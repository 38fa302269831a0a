"""What goes into an FPGA: a serial line, the link, the chip."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect

from fpga.link.frames import FrameRx, FrameTx
from fpga.link.requests import Link
from fpga.link.uart import UartRx, UartTx
from hdl.chip import Chip
from hdl.config import ChipConfig
from weights_to_rom.model_format import ModelFormat

FIFO_BYTES = 512
"""Bytes of requests that wait: what the host may send ahead of the replies (``fpga.link.host``) fits, each byte escaped."""


class BoardTop(wiring.Component):
    """A chip that is talked to in frames of ``fpga.link.protocol``; ``divisor`` cycles a bit.

    Members
    -------
    rx : In(1), tx : Out(1)     the line, as the board sees it; high at rest
    busy : Out(1)               the fabric reads a weight word: for a light
    """

    def __init__(self, *, model: ModelFormat, config: ChipConfig, divisor: int):
        self.model, self.config, self.divisor = model, config, divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "busy": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.uart_rx = uart_rx = UartRx(divisor=self.divisor)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=FIFO_BYTES)
        m.submodules.frame_rx = frame_rx = FrameRx()
        m.submodules.link = link = Link(model=self.model, config=self.config)
        m.submodules.chip = chip = Chip(model=self.model, config=self.config)
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
            # A byte for which there is no room is lost, and with it its frame: the host asks again.
            fifo.w_data.eq(uart_rx.data),
            fifo.w_en.eq(uart_rx.valid),
            frame_rx.i.payload.eq(fifo.r_data),
            frame_rx.i.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(frame_rx.i.ready),
        ]
        if self.config.lora_rank:
            m.d.comb += chip.loaded.ready.eq(1)  # adapters do not come over the line
        return m
