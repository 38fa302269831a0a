"""A compiled model with sessions and verification: the object that ``hardwire.open`` gives a program."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.board_session import board_session
from hardwire.compiled import CompiledModel
from hardwire.target import Target

if TYPE_CHECKING:
    from sim.session import Session


class Chip(CompiledModel):
    """A compiled model, and what a program does with it.

    Parameters
    ----------
    folder : str or Path   the folder that ``hardwire compile`` wrote
    """

    def session(self, backend: str | None = None, *, adapter: Path | None = None, port: str | None = None) -> "Session":
        """A session: one sequence of tokens, at position 0.

        Parameters
        ----------
        backend : str   "rtl" (the simulated chip, the default), "golden" (its integers in numpy, with replies equal to the bit)
                        or "float" (the checkpoint in floating point)
        adapter : Path  a folder that peft wrote; the chip needs ``lora_rank``
        port : str      a serial port with a board that this model is in, or "auto" to look for it; instead of ``backend``

        Raises
        ------
        CompiledError, AdapterError, SimulationError
        """
        if port is not None:
            return board_session(self, port)
        return Target(self, adapter=adapter).session(backend)

    def verify(
        self,
        prompts: Sequence[str] = (),
        n_tokens: int = 100,
        *,
        layers: Sequence[int] | None = None,
        chat: bool = False,
        adapter: Path | None = None,
    ) -> dict:
        """Compare every token and logit of the simulated chip with the integer model; see ``hardwire.check.verify``.

        Parameters
        ----------
        prompts : Sequence[str]   texts to continue; if there are none, three openings of stories
        n_tokens : int            tokens to write after each prompt
        layers : Sequence[int]    compare the results of these layers' units, too; an empty sequence stands for all layers
        chat : bool               the prompts are questions, in the model's chat template
        adapter : Path            a folder that peft wrote; chip and integer model include this adapter

        Returns counts; "first_difference" is None if all is equal.
        """
        from hardwire.check import verify  # here, as a program that talks to a board needs no simulator

        return verify(Target(self, adapter=adapter), prompts, n_tokens, layers, chat)
