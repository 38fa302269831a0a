"""A chip in a LiteX system as a session: its tokens go through the registers of ``examples.litex.core.HardwireRegisters``.

litex_server --uart --uart-port /dev/ttyUSB1                 # LiteX's own: it opens the system's uartbone
python -m examples.litex.host OUT BUILD/csr.csv "Once upon a time"
"""

import argparse
import sys
import time
from types import SimpleNamespace

import numpy as np
from litex.tools.litex_client import RemoteClient

import hardwire
from hdl.interface import COMMAND, LOAD_REPLY, REPLY, Layout, LoadStatus, Status
from sim.golden.sampler import inverse_temperature
from sim.session import Reply, Sampling, Session, SessionError

STATUS_BITS = ("command_ready", "reply_valid", "load_ready", "load_reply_valid")
"""The bits of the register ``hardwire_status``, from bit 0 up."""

PATIENCE = 60
"""Seconds after which a chip that does not answer is given up."""


def packed(layout: Layout, names: tuple[str, ...], **values: int) -> int:
    """A register whose fields are these of a payload, from bit 0 up."""
    return Layout(tuple((name, layout.widths[name]) for name in names)).pack(**values)


def unpacked(layout: Layout, names: tuple[str, ...], word: int) -> SimpleNamespace:
    """The fields of such a register."""
    return SimpleNamespace(**Layout(tuple((name, layout.widths[name]) for name in names)).unpack(word))


class LitexSession(Session):
    """Sequence ``sequence`` of a chip in a LiteX system.

    Parameters
    ----------
    registers
        The registers of the system by name, as ``RemoteClient.regs`` and ``CSRBuilder.regs`` of LiteX have them.
    vocab_size, max_context : int
    slides : bool
        As in ``Session``.
    sequence : int
        Number of the chip's sequence.
    adapter : int
        Number of the LoRA adapter that tokens use; 0 is none.

    Raises
    ------
    SessionError
        If the system has no registers of a chip.
    """

    def __init__(self, registers, vocab_size: int, max_context: int, slides: bool = False, *, sequence: int = 0, adapter: int = 0):
        super().__init__(vocab_size, max_context, slides)
        self._registers, self._sequence, self.adapter = registers, sequence, adapter
        if not hasattr(registers, "hardwire_status"):
            raise SessionError("the system has no register hardwire_status: give the csr.csv of a system with HardwireRegisters")

    def load(self, image: np.ndarray) -> None:
        """Send a load image.  Raises SessionError if the chip refuses it."""
        for word in image[:-1].tolist():
            self._wait("load_ready")
            self._register("load_word").write(word)
        self._wait("load_ready")
        self._register("load_last_word").write(int(image[-1]))
        self._wait("load_reply_valid")
        reply = unpacked(LOAD_REPLY, ("adapter", "status"), self._register("load_reply").read())
        self._register("load_reply_next").write(1)
        if reply.status != LoadStatus.OK:
            raise SessionError(f"the chip refused adapter {reply.adapter}: {LoadStatus(reply.status).name}")

    def _token(self, token: int, sampling: Sampling | None) -> Reply | None:
        flags = packed(
            COMMAND,
            ("sequence", "adapter", "release", "restart", "sample"),
            sequence=self._sequence,
            adapter=self.adapter,
            restart=self.position == 0,
            sample=sampling is not None,
        )
        self._register("command_flags").write(flags)
        if sampling is not None:
            self._register("command_inv_temperature").write(inverse_temperature(sampling.temperature))
            self._register("command_seed").write(sampling.seed)
        self._wait("command_ready")
        self._register("command_token").write(token)
        self._wait("reply_valid")
        reply = unpacked(REPLY, ("sequence", "status", "end"), self._register("reply_flags").read())
        sampled, position = (self._register(name).read() for name in ("reply_token", "reply_position"))
        self._register("reply_next").write(1)
        if reply.status != Status.OK or (reply.sequence, position) != (self._sequence, self.position):
            raise SessionError(
                f"the chip answered {Status(reply.status).name} at position {position} of sequence {reply.sequence}, "
                f"not OK at position {self.position} of sequence {self._sequence}"
            )
        return None if sampling is None else Reply(sampled, np.zeros(0))

    def _reset(self) -> None:
        """The next token has position 0, and restarts the sequence."""

    def _register(self, name: str):
        return getattr(self._registers, f"hardwire_{name}")

    def _wait(self, name: str) -> None:
        """Wait for a bit of the status.  Raises SessionError if it stays 0."""
        bit = STATUS_BITS.index(name)
        end = time.monotonic() + PATIENCE
        while not self._register("status").read() >> bit & 1:
            if time.monotonic() > end:
                raise SessionError(f"the chip does not answer: {name} is 0 since {PATIENCE} seconds")


def main() -> None:
    """Continue the prompt of the command line."""
    parser = argparse.ArgumentParser(description="Continue a prompt with the chip in a LiteX system.")
    parser.add_argument("out", help="OUT of hardwire compile")
    parser.add_argument("csr", help="csr.csv of the system")
    parser.add_argument("prompt")
    parser.add_argument("--tokens", type=int, default=100, help="tokens at most")
    given = parser.parse_args()
    try:
        chip, bus = hardwire.open(given.out), RemoteClient(csr_csv=given.csr)
        if chip.tokenizer is None:
            raise SessionError(f"{given.out}: the model has no tokenizer, and a prompt needs one")
        try:
            bus.open()
        except OSError as error:
            raise SessionError(f"no litex_server answers at {bus.host}:{bus.port} ({error.strerror}): start one") from None
        session = LitexSession(bus.regs, chip.format.vocab_size, chip.config.max_context, chip.config.n_sinks > 0)
        replies = hardwire.generate(session, chip.tokenizer.encode(given.prompt), given.tokens, stop=chip.tokenizer.eos_ids)
        print(given.prompt + chip.tokenizer.decode([reply.token for reply in replies]))
    except (hardwire.HardwireError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
