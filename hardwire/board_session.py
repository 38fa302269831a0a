"""A board with a compiled model in it, as a backend of the session API: over its serial port, or simulated."""

import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.compiled import CompiledError, CompiledModel
from hardwire.progress import step

if TYPE_CHECKING:
    from fpga.link.host import BoardSession, Port

AUTO = "auto"
FTDI = 0x0403
"""The USB vendor of the serial adapters that the boards have."""


def board_session(output: CompiledModel, port: str | None, noise: float = 0.0) -> "BoardSession":
    """A session with the board at ``port`` (``auto``: the one that answers with this model), or, if that is None, a simulated one.

    ``noise`` is the probability with which the simulated line spoils a byte.
    Raises CompiledError if there is no board, or none with this model and chip.
    """
    from fpga.link.host import LinkError

    if port is None:
        return _session(output, _simulated(output, noise), slow=True)
    reasons = []
    for name, baud in product(_candidates() if port == AUTO else [port], _rates()):
        opened = None
        try:
            opened = _open(name, baud)
            return _session(output, opened)
        except (LinkError, OSError) as error:
            if opened is not None:
                opened.close()
            hint = (
                ": add yourself to the group dialout, and log in again"
                if isinstance(error, PermissionError) or ("Permission denied" in str(error))
                else ""
            )
            errno = getattr(error, "errno", None)  # pyserial says the same twice, in words of its own
            reason = f"{name}: {os.strerror(errno) if errno else error}{hint}"
            if reason not in reasons:
                reasons.append(reason)
    raise CompiledError("; ".join(reasons) or "no serial port of a board was found: plug it in, or name one with --port")


def _session(output: CompiledModel, port: "Port", slow: bool = False) -> "BoardSession":
    from fpga.link.host import BoardSession

    end = output.model.eos_token_ids
    config = output.config
    return BoardSession(
        port, output.identity, output.format.vocab_size, config.max_context, config.n_sinks > 0, end[0] if end else None, slow
    )


def _open(name: str, baud: int) -> "Port":
    import serial

    return serial.Serial(name, baud, timeout=0.02)


def _rates() -> list[int]:
    """Of the serial lines of boards, the fastest first."""
    from fpga.boards import BOARDS

    return sorted({board.baud for board in BOARDS.values()}, reverse=True)


def _candidates() -> list[str]:
    from serial.tools.list_ports import comports

    return sorted(port.device for port in comports() if port.vid == FTDI)


def _simulated(output: CompiledModel, noise: float) -> "Port":
    """The serial port of a board in simulation, which ends when it is closed."""
    import serial

    from fpga.link.simulated_board import SimulatedBoard

    folder = output.folder / "simulation" / "board"
    with step("build the simulated board") as running:
        board = SimulatedBoard(
            folder,
            board_rom(output, folder / "rom"),
            output.format,
            output.config,
            noise=noise,
            progress=lambda done, what: running.update(what, done),
        ).start()

    class SimulatedPort(serial.Serial):
        def close(self) -> None:
            super().close()
            board.close()

    return SimulatedPort(board.port, timeout=0.02)


def board_rom(output: CompiledModel, folder: Path) -> Path:
    """A folder with all ROM images of a board: those of the chip, which stay where they are, and its identity."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in output.manifest:
        link = folder / f"{name}.hex"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(output.folder / "rom" / link.name, folder))
    (folder / "identity.hex").write_text(f"{output.identity:016x}\n")
    return folder
