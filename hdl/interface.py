"""The chip's edge as data: the fields of commands, replies and adapter loads, and the status codes in them.

A host, a simulation harness and the hardware all read the layouts from here.  This module imports nothing of Amaranth,
so that a program which only talks to a board starts quickly; ``hdl.lib.streams.struct`` makes a payload of a layout.
"""

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """The chip's answer to a token."""

    OK = 0
    FULL = 1
    """The sequence has all the positions it can have."""
    NO_TOKEN = 2
    """The token is not in the vocabulary."""
    NO_SEQUENCE = 3
    """The chip has no sequence of that number."""
    NO_ADAPTER = 4
    """The adapter is not loaded, or its load is incomplete."""
    NO_NOISE = 5
    """A temperature was given to a chip that only takes the likeliest token."""


class LoadStatus(IntEnum):
    """The chip's answer to a load image."""

    OK = 0
    BAD_CHECKSUM = 1
    """The checksum is not that of the words that arrived."""
    BAD_LAYOUT = 2
    """The image was made for another shape, rank or number of lanes."""
    NO_ADAPTER = 3
    """The chip has no adapter of that number."""
    INCOMPLETE = 4
    """The next image began before this one had ended."""


TOP = "chip"
"""The name of the top module.  ``ChipConfig.module`` adds the prefix."""


def rom_macro(prefix: str = "") -> str:
    """The Verilog macro that names the folder of the ROM images of a chip with this ``ChipConfig.prefix``."""
    return f"HARDWIRE_ROM_{prefix}" if prefix else "HARDWIRE_ROM"


@dataclass(frozen=True)
class Layout:
    """Unsigned fields of a payload, from the least significant bit up: names, and widths in bits or the codes they hold."""

    fields: tuple[tuple[str, int | type[IntEnum]], ...]

    @property
    def widths(self) -> dict[str, int]:
        """Bits of each field; a field of codes has as many as the largest code."""
        return {name: of if isinstance(of, int) else max(of).bit_length() for name, of in self.fields}

    @property
    def size(self) -> int:
        """Bits of the whole payload."""
        return sum(self.widths.values())

    def pack(self, **values: int) -> int:
        """The payload as an integer; a field that is not given is 0.  Raises ValueError for a value that does not fit."""
        word, offset, given = 0, 0, dict(values)
        for name, width in self.widths.items():
            value = int(given.pop(name, 0))
            if not 0 <= value < 1 << width:
                raise ValueError(f"{name} must be 0 to {(1 << width) - 1}, not {value}")
            word |= value << offset
            offset += width
        if given:
            raise ValueError(f"there is no field {', '.join(given)}: there are {', '.join(self.widths)}")
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """The fields of a payload."""
        values, offset = {}, 0
        for name, width in self.widths.items():
            values[name] = word >> offset & ((1 << width) - 1)
            offset += width
        return values


TOKEN_BITS = 32
"""Token numbers at the ports are whole words: the chip refuses one that is too large, where fewer bits would cut it off."""

COMMAND = Layout(
    (
        ("token", TOKEN_BITS),
        ("sequence", 16),
        ("adapter", 4),
        ("release", 1),
        ("restart", 1),
        ("sample", 1),
        ("inv_temperature", 16),
        ("seed", 32),
    )
)
"""A token for a sequence.  ``restart`` puts it at position 0; ``sample`` asks for the next token; ``adapter`` 0 is none.

With ``release`` there is no token: the chip forgets the sequence, and its next token has position 0.
"""

REPLY = Layout((("token", TOKEN_BITS), ("sequence", 16), ("position", 32), ("status", Status), ("end", 1)))
"""The answer to a command.  ``token`` is the sampled one, if one was asked for; ``end``: it is the end-of-text token."""

LOAD_WORD = Layout((("data", 32), ("first", 1)))
"""A word of a load image (docs/arithmetic.md, section 6); ``first`` marks word 0."""

LOAD_REPLY = Layout((("adapter", 8), ("status", LoadStatus)))
"""The answer to a load image.  ``adapter`` is the number that stood in its word 0."""


@dataclass(frozen=True)
class Port:
    """A port of the chip's top module.

    Parameters
    ----------
    name : str
        Its name in the Verilog.
    direction : str
        "in" or "out", seen from the chip.
    layout : int or Layout
        Its bits, or the fields of its payload.
    meaning : str
        A sentence for a reader.
    """

    name: str
    direction: str
    layout: int | Layout
    meaning: str

    @property
    def width(self) -> int:
        """Bits of the port."""
        return self.layout if isinstance(self.layout, int) else self.layout.size

    def as_dict(self) -> dict:
        """The port as chip.json has it: fields with their lowest bit and their width, and codes by name."""
        port: dict = {"name": self.name, "direction": self.direction, "width": self.width}
        if isinstance(self.layout, Layout):
            lsb, port["fields"] = 0, []
            for (name, of), width in zip(self.layout.fields, self.layout.widths.values(), strict=True):
                codes = {} if isinstance(of, int) else {"codes": {code.name: int(code) for code in of}}
                port["fields"].append({"name": name, "lsb": lsb, "width": width} | codes)
                lsb += width
        return port | {"meaning": self.meaning}


def ports(*, wide_bits: int, vector_lanes: int, lora: bool) -> list[Port]:
    """The ports of a chip's top module in their order.

    Parameters
    ----------
    wide_bits : int
        Bits of a logit.
    vector_lanes : int
        Logits in a beat.
    lora : bool
        Whether the chip takes adapters.
    """

    def stream(name: str, direction: str, layout: Layout, meaning: str) -> list[Port]:
        back = "out" if direction == "in" else "in"
        return [
            Port(f"{name}__payload", direction, layout, meaning),
            Port(f"{name}__valid", direction, 1, f"{name}__payload is offered"),
            Port(f"{name}__ready", back, 1, f"{name}__payload is taken in each cycle in which valid and ready are 1"),
        ]

    return [
        Port("clk", "in", 1, "the clock; everything is on its rising edge"),
        Port("rst", "in", 1, "synchronous reset, active high: releases all sequences"),
        *stream("i", "in", COMMAND, "a command: a token for a sequence"),
        *stream("o", "out", REPLY, "the reply to a command; each command gives one, in order"),
        *(stream("load", "in", LOAD_WORD, "a word of a load image of an adapter") if lora else []),
        *(stream("loaded", "out", LOAD_REPLY, "the reply to a load image") if lora else []),
        Port("logits_valid", "out", 1, "logits go to the sampler in this cycle (for observation)"),
        Port("logits", "out", wide_bits * vector_lanes, f"{vector_lanes} signed logits of {wide_bits} bits, LSB 2**-12"),
        Port("busy", "out", 1, "the fabric reads a weight word in this cycle (for observation)"),
        Port("step", "out", 3, "of this matrix: 0 QKV, 1 O, 2 gate and up, 3 down, 4 head"),
    ]
