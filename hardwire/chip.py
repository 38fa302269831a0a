"""A compiled model with sessions and verification: the object that ``hardwire.open`` gives a program."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.board_session import board_session
from hardwire.compiled import CompiledError, CompiledModel
from hardwire.target import Target

if TYPE_CHECKING:
    from sim.session import Session


class Chip(CompiledModel):
    """A compiled model that a program can run: ``session`` continues texts with it, ``verify`` checks it.

    Parameters
    ----------
    folder : str or Path   the folder that ``hardwire compile`` wrote

    Raises
    ------
    CompiledError   if a file is missing, damaged, or of another version of hardwire
    """

    def session(self, backend: str | None = None, *, adapter: Path | None = None, port: str | None = None) -> "Session":
        """Open a session: one sequence of tokens, at position 0.

        Parameters
        ----------
        backend : str    "rtl" (the simulated chip, the default), "golden" (the integer model in numpy, whose replies equal the
                         chip's to the bit) or "float" (the checkpoint in floating point)
        adapter : Path   a folder that peft wrote; the chip needs ``lora_rank``
        port : str       the serial port of a board that holds this model, or "auto" to look for the board; it takes the place of
                         a backend

        Raises
        ------
        CompiledError     if the backend is unknown, no board answers, the chip does not take the adapter, or a port is given
                          with a backend
        AdapterError      if the adapter does not fit the model
        SimulationError   if the simulation cannot be built
        """
        if port is not None:
            if backend is not None:
                raise CompiledError(f"port {port!r} and backend {backend!r} are two ways: choose one")
            return board_session(self, port, adapter=Target(self, adapter=adapter).integer_adapter)
        return Target(self, adapter=adapter).session(backend)

    def verify(
        self,
        prompts: Sequence[str] = (),
        n_tokens: int = 100,
        *,
        layers: Sequence[int] | None = None,
        chat: bool = False,
        adapter: Path | None = None,
        verilog: Sequence[Path] = (),
    ) -> dict:
        """Compare every token and logit of the simulated chip with the integer model; see ``hardwire.check.verify``.

        Parameters
        ----------
        prompts : Sequence[str]   texts to continue; if there are none, three openings of stories
        n_tokens : int            tokens to write after each prompt
        layers : Sequence[int]    compare the results of these layers' units, too; an empty sequence stands for all layers
        chat : bool               the prompts are questions, in the model's chat template
        adapter : Path            a folder that peft wrote; chip and integer model include this adapter
        verilog : Sequence[Path]  files that stand for chip.v: an edited chip.v, or a netlist of a synthesis tool and its cells

        Returns counts; "first_difference" is None if all is equal.
        """
        from hardwire.check import verify  # a program that talks to a board needs no simulator

        return verify(Target(self, adapter=adapter), prompts, n_tokens, layers, chat, verilog)
