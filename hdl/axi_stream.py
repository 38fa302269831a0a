"""The chip with AXI4-Stream ports: ``chip_axis``, for designs with AXI interconnects, DMA engines or LiteX streams."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Instance, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.config import ChipConfig
from hdl.interface import COMMAND, LOAD_REPLY, LOAD_WORD, REPLY, TOP, Layout
from hdl.lib.register import Register
from hdl.lib.skid import Skid
from hdl.verilog import convert
from weights_to_rom.model_format import ModelFormat

AXI_TOP = f"{TOP}_axis"
"""Name of the wrapper's module; ``ChipConfig.module`` adds the prefix."""

LOAD_BITS = LOAD_WORD.widths["data"]
"""Bits of a word of a load image; its ``first`` is not sent, because TLAST of the word before says the same."""

LOGIT_BITS = 32
"""Bits of a logit at the port, so that a packet of logits is an array of 32-bit integers."""


def tdata_bits(layout: Layout) -> int:
    """Width of TDATA for a payload: whole bytes, and a power of two of them, as DMA engines and converters want it."""
    return 8 << ceil_log2(-(-layout.size // 8))


class AxiStreamChip(wiring.Component):
    """An instance of the module ``chip``, with AXI4-Stream ports.

    The payload is in the low bits of TDATA.  The bits above it are ignored in inputs, and 0 in outputs.  Each port with TREADY has
    a register, so that no output depends on an input of the same cycle.  The port of the logits has no TREADY, because the chip
    does not wait for it.

    A load image is a packet.  ``first`` of LOAD_WORD is set in the first word after a reset and in the first word after a TLAST.

    Latency: 1 cycle more than the chip's, in each reply.  Rate: a beat a cycle.

    Parameters
    ----------
    model : ModelFormat
        Shapes and number formats of the chip.
    config : ChipConfig
        Lanes and memories of the chip.

    Members
    -------
    aclk, aresetn : In    ``aresetn`` = 0 resets the chip at the next rising edge of ``aclk``.  From that edge to the one after
                          ``aresetn`` is 1 again, no TVALID and no TREADY is 1.
    s_axis_command_{tdata,tvalid,tready}              COMMAND
    m_axis_reply_{tdata,tvalid,tready,tlast}          REPLY; TLAST is always 1
    s_axis_load_{tdata,tvalid,tready,tlast}           with LoRA: words of load images, and TLAST with the last one of each
    m_axis_load_reply_{tdata,tvalid,tready,tlast}     with LoRA: LOAD_REPLY; TLAST is always 1
    m_axis_logits_{tdata,tkeep,tvalid,tlast}          a packet for each sampled token: ``vocab_size`` signed integers of 32 bits,
                                                      LSB 2**-12, ``vector_lanes`` a beat; TKEEP is 0 for lanes without a token

    Raises
    ------
    ValueError
        If ``config`` does not fit ``model``.
    """

    def __init__(self, *, model: ModelFormat, config: ChipConfig):
        self._model, self._config = model, config.checked(model)
        lanes = config.vector_lanes
        members = {"aclk": In(1), "aresetn": In(1)} | _slave("command", tdata_bits(COMMAND)) | _master("reply", tdata_bits(REPLY))
        if config.lora_rank:
            members |= _slave("load", LOAD_BITS) | {"s_axis_load_tlast": In(1)} | _master("load_reply", tdata_bits(LOAD_REPLY))
        logits = {"tdata": LOGIT_BITS * lanes, "tkeep": LOGIT_BITS // 8 * lanes, "tvalid": 1, "tlast": 1}
        super().__init__(members | {f"m_axis_logits_{name}": Out(width) for name, width in logits.items()})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        # The chip's own reset is registered like this one: registers and chip begin in the same cycle, and no beat is lost.
        reset = Signal(init=1, reset_less=True)
        m.d.comb += [ClockSignal().eq(self.aclk), ResetSignal().eq(reset)]
        m.d.sync += reset.eq(~self.aresetn)

        pins = {"i_clk": self.aclk, "i_rst": ~self.aresetn}
        command = self._take(m, "command", reset, self.s_axis_command_tdata[: COMMAND.size])
        pins |= _to_chip("i", command, command.payload) | _from_chip("o", self._give(m, "reply", reset, REPLY))
        if self._config.lora_rank:
            load = self._take(m, "load", reset, Cat(self.s_axis_load_tdata, self.s_axis_load_tlast))
            first = Signal(init=1)
            with m.If(load.valid & load.ready):
                m.d.sync += first.eq(load.payload[LOAD_BITS])
            pins |= _to_chip("load", load, Cat(load.payload[:LOAD_BITS], first))
            pins |= _from_chip("loaded", self._give(m, "load_reply", reset, LOAD_REPLY))
        # Linters want every pin connected; nothing reads these two.
        pins |= {"o_busy": Signal(name="busy"), "o_step": Signal(3, name="step")}
        m.submodules.chip = Instance(self._config.module(TOP), **pins, **self._logits(m, reset))
        return m

    def _take(self, m, name: str, reset, payload: Value):
        """The stream that a slave port gives to the chip."""
        m.submodules[name] = skid = Skid(len(payload))
        port = {signal: getattr(self, f"s_axis_{name}_{signal}") for signal in ("tvalid", "tready")}
        m.d.comb += [
            skid.i.payload.eq(payload),
            skid.i.valid.eq(port["tvalid"] & ~reset),
            port["tready"].eq(skid.i.ready & ~reset),
        ]
        return skid.o

    def _give(self, m, name: str, reset, layout: Layout):
        """The stream that a master port takes from the chip."""
        m.submodules[name] = register = Register(layout.size)
        port = {signal: getattr(self, f"m_axis_{name}_{signal}") for signal in ("tdata", "tvalid", "tready", "tlast")}
        m.d.comb += [
            port["tdata"].eq(register.o.payload),
            port["tvalid"].eq(register.o.valid & ~reset),
            port["tlast"].eq(1),
            register.o.ready.eq(port["tready"]),
        ]
        return register.i

    def _logits(self, m, reset) -> dict[str, Value]:
        """Make packets of the chip's logits, and return its pins for them."""
        lanes, width, n_tokens = self._config.vector_lanes, self._model.wide_bits, self._model.vocab_size
        beats = -(-n_tokens // lanes)
        logits_valid = Signal()
        logits = Signal(lanes * width)
        beat = Signal(range(beats))
        last = beat == beats - 1
        with m.If(logits_valid):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
        all_bytes, bytes_of_last = ((1 << LOGIT_BITS // 8 * n) - 1 for n in (lanes, n_tokens - (beats - 1) * lanes))
        m.d.comb += [
            self.m_axis_logits_tvalid.eq(logits_valid & ~reset),
            self.m_axis_logits_tlast.eq(last),
            self.m_axis_logits_tkeep.eq(Mux(last, bytes_of_last, all_bytes)),
        ]
        for lane in range(lanes):
            logit = logits.word_select(lane, width).as_signed()
            m.d.comb += self.m_axis_logits_tdata.word_select(lane, LOGIT_BITS).eq(logit)
        return {"o_logits_valid": logits_valid, "o_logits": logits}


def _slave(name: str, width: int) -> dict:
    return {f"s_axis_{name}_tdata": In(width), f"s_axis_{name}_tvalid": In(1), f"s_axis_{name}_tready": Out(1)}


def _master(name: str, width: int) -> dict:
    port = f"m_axis_{name}"
    return {f"{port}_tdata": Out(width), f"{port}_tvalid": Out(1), f"{port}_tready": In(1), f"{port}_tlast": Out(1)}


def _to_chip(name: str, stream, payload: Value) -> dict[str, Value]:
    """The chip's pins of an input stream."""
    return {f"i_{name}__payload": payload, f"i_{name}__valid": stream.valid, f"o_{name}__ready": stream.ready}


def _from_chip(name: str, stream) -> dict[str, Value]:
    """The chip's pins of an output stream."""
    return {f"o_{name}__payload": stream.payload, f"o_{name}__valid": stream.valid, f"i_{name}__ready": stream.ready}


def axi_stream_verilog(model: ModelFormat, config: ChipConfig) -> str:
    """The module ``chip_axis`` for a chip, which instantiates the module ``chip`` that ``hdl.verilog.chip_verilog`` writes.

    The names of all its modules begin with ``ChipConfig.prefix``, as those of the chip do.  Its comment lists the fields in TDATA
    of every port.

    Parameters
    ----------
    model : ModelFormat
    config : ChipConfig
        As for ``chip_verilog``.

    Raises
    ------
    ValueError
        If ``config`` does not fit ``model``.
    """
    return _comment(config) + convert(AxiStreamChip(model=model, config=config), config.module(AXI_TOP))


def _comment(config: ChipConfig) -> str:
    """The text at the beginning of the Verilog."""
    layouts = {"s_axis_command_tdata": COMMAND, "m_axis_reply_tdata": REPLY}
    if config.lora_rank:
        layouts["m_axis_load_reply_tdata"] = LOAD_REPLY
    module, chip = config.module(AXI_TOP), config.module(TOP)
    lines = [f"{module}: the module {chip} with AXI4-Stream ports.  Bits of TDATA that have no field are 0.", ""]
    for port, layout in layouts.items():
        lines.append(f"{port} [{tdata_bits(layout) - 1}:0]")
        offset = 0
        for name, width in layout.widths.items():
            lines.append(f"  [{offset}]  {name}" if width == 1 else f"  [{offset + width - 1}:{offset}]  {name}")
            offset += width
    if config.lora_rank:
        lines.append(f"s_axis_load_tdata [{LOAD_BITS - 1}:0]  a word of a load image; tlast with the last word of each image")
    lines.append(
        f"m_axis_logits_tdata [{LOGIT_BITS * config.vector_lanes - 1}:0]  {config.vector_lanes} logits, the first in the low bits"
    )
    return "".join(f"// {line}".rstrip() + "\n" for line in lines)
