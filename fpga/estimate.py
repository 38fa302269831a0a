"""Estimates of a chip on a board, made before anything is synthesised: resources, clock, cycles of a token."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import fpga.ecp5.estimate
import fpga.ice40.estimate
from fpga.boards import Board
from fpga.devices import Cells, Device
from fpga.ecp5.estimate import pipelined_cells
from fpga.ice40.estimate import shared_cells
from hdl.config import SHARED_CONTEXT, ChipConfig, ConfigError
from hdl.cycles.predict import predict_token
from weights_to_rom.model_format import ModelFormat


class Estimator(Protocol):
    """Figures and candidates of a family: its module ``estimate`` has them."""

    WIDE_BITS: int
    """Bits of a Wide value in a model that is compiled for the family."""

    CONTEXT: int
    """The context at which tokens a second are counted, if the chip holds as much."""

    CLOCK_MHZ: Mapping[str, float]
    """Clocks that designs have reached after route, by device."""

    FULL: Mapping[str, float]
    """The highest share of LUTs at which nextpnr still places and routes in reasonable time, by device."""

    def candidates(self, model: ModelFormat, max_context: int) -> Iterator[ChipConfig]:
        """Yield the configurations among which ``fastest`` chooses.  Raises ValueError if the family cannot run the model."""
        ...


ESTIMATORS: dict[str, Estimator] = {"ecp5": fpga.ecp5.estimate, "ice40": fpga.ice40.estimate}


@dataclass(frozen=True)
class Estimate:
    """A configuration on a board.

    Parameters
    ----------
    config : ChipConfig
    cells : Cells
        The resources that the chip takes.  An estimate.
    chains, narrow : tuple of str
        As in ``fpga.job.Job``.
    clock_mhz : float
        An estimate.
    context : int
        The position of the token whose cycles are counted.
    cycles : int
        Cycles of a token.  They follow from shapes, and are exact.
    """

    config: ChipConfig
    cells: Cells
    chains: tuple[str, ...]
    narrow: tuple[str, ...]
    clock_mhz: float
    context: int
    cycles: int

    @property
    def tokens_per_second(self) -> float:
        """At the estimated clock."""
        return self.clock_mhz * 1e6 / self.cycles


def estimator_of(board: Board) -> Estimator:
    """Return the figures of the family of a board."""
    return ESTIMATORS[board.device.family.name]


def estimate(model: ModelFormat, config: ChipConfig, board: Board) -> Estimate:
    """Return the estimate of a configuration."""
    figures = estimator_of(board)
    context = min(figures.CONTEXT, config.max_context)
    cycles = predict_token(model, config, context).total
    return Estimate(config, *cells_of(model, config, board.device), figures.CLOCK_MHZ[board.device.name], context, cycles)


def cells_of(model: ModelFormat, config: ChipConfig, device: Device) -> tuple[Cells, tuple[str, ...], tuple[str, ...]]:
    """Return the resources of a chip, the patterns of its carry chains, and those of its narrow block RAMs.

    The figures of pipelined units were counted on an ECP5, those of the shared engine on an iCE40.  Both serve both families,
    because the LUTs of both have four inputs.
    """
    if config.shared:
        return shared_cells(model, config, device.family), (), ()
    return pipelined_cells(model, config, device)


def fastest(model: ModelFormat, board: Board, max_context: int, **given: Any) -> Estimate:
    """Return the configuration that fits the board and takes the fewest cycles a token.

    If none fits, it is the one with the fewest LUTs.

    Parameters
    ----------
    model : ModelFormat
    board : Board
    max_context : int
        The context, unless it is given.
    given : int, str or bool
        Options of ChipConfig that stay as they are; the others are found.

    Raises
    ------
    ConfigError
        The family cannot run the model, or no configuration has the given options.
    """
    estimates = [estimate(model, config, board) for config in _with_options(model, board, max_context, given)]
    fitting = [e for e in estimates if not overflows(e.cells, board)]
    if fitting:
        return min(fitting, key=lambda e: (e.cycles, e.cells.luts))
    return min(estimates, key=lambda e: e.cells.luts)


def _with_options(model: ModelFormat, board: Board, max_context: int, given: dict[str, Any]) -> list[ChipConfig]:
    """Return the candidates, each once, with their options replaced by the given ones."""
    if given.get("shared"):
        return [ChipConfig.for_model(model, **{"max_context": min(max_context, SHARED_CONTEXT)} | given)]
    found, refusal = {}, None
    for config in estimator_of(board).candidates(model, max_context):
        try:
            found[replace(config, **given).checked(model)] = None
        except ConfigError as error:
            refusal = refusal or error
    if refusal and not found:
        raise refusal
    return list(found)


def overflows(cells: Cells, board: Board, *, tight: bool = False) -> list[str]:
    """Return the resources that the board has too few of, each as "12 block RAMs of 10".

    ``tight`` allows all LUTs to be used, whether or not nextpnr can then route the design.
    """
    full, have = 1.0 if tight else estimator_of(board).FULL[board.device.name], board.device.cells
    over = []
    if cells.luts > (most := int(have.luts * full)):
        over.append(f"{cells.luts:,} LUTs of {have.luts:,}, of which {most:,} can be placed and routed")
    return over + [
        f"{getattr(cells, name):,} {text} of {getattr(have, name):,}"
        for name, text in (("flip_flops", "flip-flops"), ("block_rams", "block RAMs"), ("dsps", "DSPs"))
        if getattr(cells, name) > getattr(have, name)
    ]
