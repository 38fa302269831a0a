"""Sessions with a board that holds a compiled model, over its serial port or with a simulated board.

The module imports no Amaranth, because a program that talks to a board generates no hardware.
"""

import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.compiled import CompiledError, CompiledModel
from hardwire.folders import place_for
from hardwire.progress import step

if TYPE_CHECKING:
    from fpga.link.host import BoardSession, Port
    from weights_to_rom.adapters.lora import IntegerAdapter

AUTO = "auto"
"""The port name that stands for every port with an FTDI chip."""

FTDI = 0x0403
"""USB vendor of the serial adapters on the boards."""


def board_session(
    output: CompiledModel, port: str | None, noise: float = 0.0, adapter: "IntegerAdapter | None" = None
) -> "BoardSession":
    """Open a session with a board.

    Parameters
    ----------
    output : CompiledModel   the model that the board must have: it answers with its identity
    port : str               a serial port, or AUTO for the first board that answers; None stands for a simulated board
    noise : float            probability with which the line of a simulated board spoils a byte
    adapter : IntegerAdapter a LoRA adapter, which is loaded into the board and used by every token

    Raises
    ------
    CompiledError   if no board answers, or none with this model and chip; it names the reason for each port
    """
    from fpga.link.host import LinkError

    if port is None:
        return _loaded(_session(output, _simulated(output, noise), slow=True), output, adapter)
    reasons = []
    for name, baud in product(_candidates() if port == AUTO else [port], _rates()):
        opened = None
        try:
            opened = _open(name, baud)
            found = _session(output, opened)
        except (LinkError, OSError) as error:
            if opened is not None:
                opened.close()
            hint = (
                ": add yourself to the group dialout, and log in again"
                if isinstance(error, PermissionError) or ("Permission denied" in str(error))
                else ""
            )
            errno = getattr(error, "errno", None)  # pyserial repeats the system's message in words of its own
            reason = f"{name}: {os.strerror(errno) if errno else error}{hint}"
            if reason not in reasons:
                reasons.append(reason)
        else:
            return _loaded(found, output, adapter)
    raise CompiledError("; ".join(reasons) or "no serial port of a board was found: plug it in, or name one with --port")


def _session(output: CompiledModel, port: "Port", slow: bool = False) -> "BoardSession":
    from fpga.link.host import BoardSession

    end = output.model.eos_token_ids
    config = output.config
    return BoardSession(
        port, output.identity, output.format.vocab_size, config.max_context, config.n_sinks > 0, end[0] if end else None, slow
    )


def _loaded(session: "BoardSession", output: CompiledModel, adapter: "IntegerAdapter | None") -> "BoardSession":
    """Load the adapter, if there is one, and return the session."""
    from weights_to_rom.adapters.lora import load_image

    if adapter is not None:
        image = load_image(adapter, output.format, 1, output.config.lora_lanes, output.config.vector_lanes)
        try:
            with step("load the adapter into the board") as running:
                session.load(1, image.tolist(), lambda done, total: running.update("", done, total))
        except BaseException:
            session.close()
            raise
    return session


def _open(name: str, baud: int) -> "Port":
    import serial

    return serial.Serial(name, baud, timeout=0.02)


def _rates() -> list[int]:
    """Return the baud rates of the boards, the fastest first."""
    from fpga.boards import BOARDS

    return sorted({board.baud for board in BOARDS.values()}, reverse=True)


def _candidates() -> list[str]:
    from serial.tools.list_ports import comports

    return sorted(port.device for port in comports() if port.vid == FTDI)


def _simulated(output: CompiledModel, noise: float) -> "Port":
    """Start a simulated board, and return its serial port.  Closing the port ends the simulation."""
    import serial

    from fpga.link.simulated_board import SimulatedBoard

    # The folder in the cache holds links to the ROM images of this very model.
    folder = place_for(output.folder / "simulation" / "board", f"board-{output.identity:016x}")
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
    """Fill a folder with the ROM images of a board: links to the chip's images, and the identity that the board answers with."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in output.manifest:
        link = folder / f"{name}.hex"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(output.folder / "rom" / link.name, folder))
    (folder / "identity.hex").write_text(f"{output.identity:016x}\n")
    return folder
