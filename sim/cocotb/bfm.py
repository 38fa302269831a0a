"""Bus functional models for cocotb: a driver and a monitor for valid/ready streams, with seeded stalls.

Ports are flat, as Amaranth writes them: ``<stream>__valid``, ``<stream>__ready``, ``<stream>__payload``.  In
a cycle in which no beat can move, no Python runs: both models wait for an edge of the other side's signal.
"""

import random

from cocotb.triggers import RisingEdge


class StreamDriver:
    """Offers payloads to an input of the design.  The payload is noise in idle cycles.

    Parameters
    ----------
    dut
        cocotb's handle of the design, which has the clock ``clk``.
    name : str
        The stream's name, without ``__valid``.
    stall : float
        Until a beat is offered, each cycle is idle with this probability, 0 to below 1.
    seed : int
        Seed of the stalls and of the noise.
    """

    def __init__(self, dut, name: str, *, stall: float, seed: int):
        self._clk, self._stall, self._rng = dut.clk, stall, random.Random(f"drive {name} {seed}")
        self._valid, self._ready, self._payload = (getattr(dut, f"{name}__{part}") for part in ("valid", "ready", "payload"))
        self._valid.value = 0

    async def send(self, payload: int) -> None:
        """Offer one beat, and return with the clock edge at which it moves."""
        while self._rng.random() < self._stall:
            self._payload.value = self._rng.getrandbits(len(self._payload))
            await RisingEdge(self._clk)
        self._payload.value = payload
        self._valid.value = 1
        while True:
            await RisingEdge(self._clk)  # a value read now is the one from before the edge
            if self._ready.value:
                break
            await RisingEdge(self._ready)
        self._valid.value = 0


class StreamMonitor:
    """Takes payloads from an output of the design.  It asserts that an offered beat stays until it is taken.

    Parameters
    ----------
    dut, name, seed
        As in ``StreamDriver``.
    stall : float
        In each cycle ready is low with this probability, 0 to below 1.
    """

    def __init__(self, dut, name: str, *, stall: float, seed: int):
        self._name, self._clk, self._stall = name, dut.clk, stall
        self._rng = random.Random(f"monitor {name} {seed}")
        self._valid, self._ready, self._payload = (getattr(dut, f"{name}__{part}") for part in ("valid", "ready", "payload"))
        self._ready.value = 0

    async def receive(self) -> int:
        """Take the next payload, and return with the clock edge at which it moves."""
        ready = self._rng.random() >= self._stall  # ready may be high while valid is still low, or wait for valid
        self._ready.value = int(ready)
        offered = None
        while True:
            await RisingEdge(self._clk)
            if not self._valid.value:
                assert offered is None, f"{self._name}: valid was withdrawn"
                await RisingEdge(self._valid)
                continue
            payload = int(self._payload.value)
            assert offered in (None, payload), f"{self._name}: the payload changed before it moved"
            if ready:
                break
            offered, ready = payload, self._rng.random() >= self._stall
            self._ready.value = int(ready)
        self._ready.value = 0
        return payload
