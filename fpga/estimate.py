"""Estimates of a chip on a board without synthesis: its resources, its clock, and its cycles a token."""

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
    """The figures of a family.  Its module ``estimate`` has these members."""

    WIDE_BITS: int
    """Bits of a Wide value (an element of the residual stream) in a model that is compiled for the family."""

    CONTEXT: int
    """The number of positions at which tokens a second are counted.  A chip with fewer positions is counted at its last one."""

    CLOCK_MHZ: Mapping[str, float]
    """Clocks in MHz that designs have reached after route, by device."""

    FULL: Mapping[str, float]
    """The highest share of the LUTs, by device, at which nextpnr still places and routes a design in reasonable time."""

    def candidates(self, model: ModelFormat, max_context: int) -> Iterator[ChipConfig]:
        """Yield the configurations among which ``fastest`` chooses.  Raises ValueError if the family cannot run the model."""
        ...


ESTIMATORS: dict[str, Estimator] = {"ecp5": fpga.ecp5.estimate, "ice40": fpga.ice40.estimate}


@dataclass(frozen=True)
class Estimate:
    """The estimate of a configuration on a board.

    Parameters
    ----------
    config : ChipConfig
        The options of the chip.
    cells : Cells
        The estimated resources of the chip.
    chains, narrow : tuple of str
        Patterns of carry chains and of narrow block RAMs, as ``fpga.job.Job`` defines them.
    clock_mhz : float
        The estimated clock in MHz.
    context : int
        The position of the token whose cycles are counted.
    cycles : int
        Cycles of this token.  The number is exact, because it follows from the shapes of the model alone.
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
        """Tokens a second at the estimated clock."""
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
    """Return the resources of a chip, the patterns of its carry chains, and the patterns of its narrow block RAMs.

    The figures of pipelined units were counted on an ECP5, and those of the shared engine on an iCE40.  They are used for both
    families, because the LUTs of both have four inputs.
    """
    if config.shared:
        return shared_cells(model, config, device.family), (), ()
    return pipelined_cells(model, config, device)


def fastest(model: ModelFormat, board: Board, max_context: int, /, **given: Any) -> Estimate:
    """Return the configuration that fits the board and takes the fewest cycles a token.

    If no configuration fits, return the one with the fewest LUTs.

    Parameters
    ----------
    model : ModelFormat
        The shapes of the model.
    board : Board
        The board that the chip must fit.
    max_context : int
        Positions of the chip, unless ``given`` has this option.
    given : int, str or bool
        The options of ChipConfig that the caller fixes.  The search chooses the others.

    Raises
    ------
    ConfigError
        The family cannot run the model, or no configuration has the given options.
    """
    cells = {config: cells_of(model, config, board.device)[0] for config in _with_options(model, board, max_context, given)}
    fitting = [config for config, of in cells.items() if not overflows(of, board)]
    if not fitting:
        return estimate(model, min(cells, key=lambda config: cells[config].luts), board)
    # Only the cycles of configurations that fit are predicted, because that takes most of the time.
    return min((estimate(model, config, board) for config in fitting), key=lambda e: (e.cycles, e.cells.luts))


def fits(model: ModelFormat, board: Board, max_context: int) -> bool:
    """Return whether some configuration of the model fits the board.  This is quicker than ``fastest``."""
    candidates = estimator_of(board).candidates(model, max_context)
    return any(not overflows(cells_of(model, config, board.device)[0], board) for config in candidates)


def _with_options(model: ModelFormat, board: Board, max_context: int, given: dict[str, Any]) -> list[ChipConfig]:
    """Return the candidates of the family with the given options in place of their own, without repetition."""
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
    """Return one text, such as "12 block RAMs of 10", for each resource of which the board has too few.

    ``tight`` allows the design all LUTs, although nextpnr may then fail to route it.
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
