"""A simulated board over its serial line, compared with golden."""

import serial

from fpga.link.host import BoardSession
from fpga.link.simulated_board import SimulatedBoard
from hardwire.compiled import CompiledModel
from sim.backends import GoldenSession
from sim.session import Sampling, generate


def check_it_writes_what_golden_writes(board: SimulatedBoard, output: CompiledModel) -> None:
    """Compare 32 greedy tokens after each of two prompts with golden's, then close the board."""
    session = BoardSession(
        serial.Serial(board.port, timeout=0.02), output.identity, output.format.vocab_size, output.config.max_context, slow=True
    )
    golden = GoldenSession(output.model, output.config.max_context)
    try:
        for prompt, n in (([1, 2, 3, 9, 20], 20), ([7, 33], 12)):
            ours, theirs = (
                [reply.token for reply in generate(backend, prompt, n, Sampling(), ())] for backend in (session, golden)
            )
            assert ours == theirs and len(ours) == n and len(set(ours)) > 1
    finally:
        session.close()
        board.close()
