"""The chip in a LiteX design: ``HardwireChip`` has LiteX streams, and ``HardwireRegisters`` has CSRs for a CPU or a host."""

from pathlib import Path

from litex.gen import LiteXModule
from litex.soc.interconnect import stream
from litex.soc.interconnect.csr import CSR, CSRField, CSRStatus, CSRStorage
from migen import Cat, ClockSignal, If, Instance, ResetSignal, Signal

import hardwire
from hdl.axi_stream import AXI_TOP, LOAD_BITS, tdata_bits
from hdl.interface import COMMAND, LOAD_REPLY, REPLY, Layout

QUEUED_COMMANDS = 4
"""Commands that the registers hold for the chip."""

QUEUED_WORDS = 16
"""Words of a load image that the registers hold for the chip."""


def endpoint(layout: Layout, name: str) -> stream.Endpoint:
    """A LiteX stream with the fields of a payload."""
    return stream.Endpoint([*layout.widths.items()], name=name)


class HardwireChip(LiteXModule):
    """The module chip_axis of a compiled model, with a LiteX stream for each of its ports.

    Parameters
    ----------
    platform : LiteX platform    gets the Verilog and the ROM images as sources
    folder : Path                OUT of ``hardwire compile``

    Raises
    ------
    CompiledError    if ``folder`` is not a compiled model

    Members
    -------
    command : Endpoint       to the chip: the fields of COMMAND
    reply : Endpoint         from the chip: the fields of REPLY
    load : Endpoint          to the chip, with LoRA only: ``data``, a word of a load image; ``last`` with the last word of each
    load_reply : Endpoint    from the chip, with LoRA only: the fields of LOAD_REPLY
    """

    def __init__(self, platform, folder: Path):
        config = hardwire.open(folder).config
        self.lora = config.lora_rank > 0
        self.command = endpoint(COMMAND, "command")
        self.reply = endpoint(REPLY, "reply")
        ports = {"i_aclk": ClockSignal(), "i_aresetn": ~ResetSignal()}
        ports |= self._slave("command", self.command, COMMAND) | self._master("reply", self.reply, REPLY)
        if self.lora:
            self.load = stream.Endpoint([("data", LOAD_BITS)], name="load")
            self.load_reply = endpoint(LOAD_REPLY, "load_reply")
            ports |= {
                "i_s_axis_load_tdata": self.load.data,
                "i_s_axis_load_tvalid": self.load.valid,
                "o_s_axis_load_tready": self.load.ready,
                "i_s_axis_load_tlast": self.load.last,
            }
            ports |= self._master("load_reply", self.load_reply, LOAD_REPLY)
        self.specials += Instance(config.module(AXI_TOP), **ports)
        for name in ("chip.v", "chip_axis.v"):
            platform.add_source(str(folder / name))

    def _slave(self, name: str, port, layout: Layout) -> dict:
        """The pins of a stream to the chip."""
        word = Signal(tdata_bits(layout), name=f"{name}_tdata")
        self.comb += word.eq(Cat(*(getattr(port, field) for field in layout.widths)))
        return {
            f"i_s_axis_{name}_tdata": word,
            f"i_s_axis_{name}_tvalid": port.valid,
            f"o_s_axis_{name}_tready": port.ready,
        }

    def _master(self, name: str, port, layout: Layout) -> dict:
        """The pins of a stream from the chip."""
        word = Signal(tdata_bits(layout), name=f"{name}_tdata")
        self.comb += Cat(*(getattr(port, field) for field in layout.widths)).eq(word)
        return {
            f"o_m_axis_{name}_tdata": word,
            f"o_m_axis_{name}_tvalid": port.valid,
            f"i_m_axis_{name}_tready": port.ready,
            f"o_m_axis_{name}_tlast": port.last,
        }


class HardwireRegisters(LiteXModule):
    """CSRs in front of a HardwireChip.

    Software writes the other fields of a command first; the write of ``command_token`` sends it.  It waits until ``reply_valid``
    is 1, reads the reply, and writes ``reply_next``, which takes the reply away.  A command that is sent while
    ``command_ready`` is 0 is lost, as is a word of a load image while ``load_ready`` is 0.

    Parameters
    ----------
    chip : HardwireChip

    Members
    -------
    status : ``command_ready``, ``reply_valid``, and with LoRA ``load_ready``, ``load_reply_valid``
    command_flags : ``sequence``, ``adapter``, ``release``, ``restart``, ``sample``
    command_inv_temperature, command_seed, command_token : the other fields of a command
    reply_token, reply_position : fields of the reply
    reply_flags : ``sequence``, ``status``, ``end``
    reply_next : a write takes the reply
    load_word : with LoRA: a write sends a word of a load image
    load_last_word : with LoRA: a write sends the last word of a load image
    load_reply : with LoRA: ``adapter``, ``status``
    load_reply_next : with LoRA: a write takes the reply
    """

    def __init__(self, chip: HardwireChip):
        names = ["command_ready", "reply_valid", *(["load_ready", "load_reply_valid"] if chip.lora else [])]
        self.status = CSRStatus(fields=[CSRField(name, size=1) for name in names])
        self._commands(chip)
        self._replies(chip)
        if chip.lora:
            self._loads(chip)

    def _commands(self, chip: HardwireChip) -> None:
        widths = COMMAND.widths
        flags = ("sequence", "adapter", "release", "restart", "sample")
        self.command_flags = CSRStorage(fields=[CSRField(name, size=widths[name]) for name in flags])
        self.command_inv_temperature = CSRStorage(widths["inv_temperature"])
        self.command_seed = CSRStorage(widths["seed"])
        self.command_token = CSRStorage(widths["token"])
        self.queue = queue = stream.SyncFIFO([*widths.items()], QUEUED_COMMANDS)
        self.comb += [
            queue.sink.valid.eq(self.command_token.re),
            queue.sink.token.eq(self.command_token.storage),
            queue.sink.inv_temperature.eq(self.command_inv_temperature.storage),
            queue.sink.seed.eq(self.command_seed.storage),
            *(getattr(queue.sink, name).eq(getattr(self.command_flags.fields, name)) for name in flags),
            queue.source.connect(chip.command),
            self.status.fields.command_ready.eq(queue.sink.ready),
        ]

    def _replies(self, chip: HardwireChip) -> None:
        widths, flags = REPLY.widths, ("sequence", "status", "end")
        self.reply_token = CSRStatus(widths["token"])
        self.reply_position = CSRStatus(widths["position"])
        self.reply_flags = CSRStatus(fields=[CSRField(name, size=widths[name]) for name in flags])
        self.reply_next = CSR()
        self.comb += [
            self.reply_token.status.eq(chip.reply.token),
            self.reply_position.status.eq(chip.reply.position),
            *(getattr(self.reply_flags.fields, name).eq(getattr(chip.reply, name)) for name in flags),
            self.status.fields.reply_valid.eq(chip.reply.valid),
            chip.reply.ready.eq(self.reply_next.re),
        ]

    def _loads(self, chip: HardwireChip) -> None:
        self.load_word = CSRStorage(LOAD_BITS)
        self.load_last_word = CSRStorage(LOAD_BITS)
        self.load_reply = CSRStatus(fields=[CSRField(name, size=width) for name, width in LOAD_REPLY.widths.items()])
        self.load_reply_next = CSR()
        self.words = words = stream.SyncFIFO([("data", LOAD_BITS)], QUEUED_WORDS)
        self.comb += [
            words.sink.valid.eq(self.load_word.re | self.load_last_word.re),
            words.sink.data.eq(self.load_word.storage),
            If(
                self.load_last_word.re,
                words.sink.data.eq(self.load_last_word.storage),
                words.sink.last.eq(1),
            ),
            words.source.connect(chip.load),
            self.status.fields.load_ready.eq(words.sink.ready),
            *(getattr(self.load_reply.fields, name).eq(getattr(chip.load_reply, name)) for name in LOAD_REPLY.widths),
            self.status.fields.load_reply_valid.eq(chip.load_reply.valid),
            chip.load_reply.ready.eq(self.load_reply_next.re),
        ]
