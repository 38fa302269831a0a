"""Waves of one unit of the chip during one token."""

import os
from pathlib import Path

from hardwire.check import default_prompts
from hardwire.cli.console import step
from hardwire.target import Target
from sim.rtl.trace import find_unit, traced, units
from sim.session import ContextFull


def trace(subject: Target, prompt: str, token: int, unit: str, file: Path | None = None) -> dict:
    """Let the chip continue a prompt, greedily, and write a VCD file of ``unit`` while it works on position ``token``.

    ``file`` is OUT/traces/UNIT-TOKEN.vcd unless given; it is whole or not there.  What ``hardwire trace --json`` prints.
    """
    subject.backend("rtl")
    assert subject.output is not None
    scope = find_unit(unit, units(subject.output.verilog.read_text()))
    ids = subject.encode(prompt or default_prompts(subject)[0])
    if token >= subject.max_context and not subject.slides:
        raise ContextFull(f"there is no token {token}: the context holds {subject.max_context}, the first of which is 0")
    if file is None:
        file = subject.output.folder / "traces" / f"{unit}-{token}.vcd"
        file.parent.mkdir(exist_ok=True)
    if file.suffix != ".vcd":
        raise ValueError(f"{file}: waves are written as VCD: give the file a name that ends in .vcd")
    if not os.access(file.parent, os.W_OK):
        raise ValueError(f"{file}: {file.parent} is not a folder that can be written to")
    session = subject.session("rtl", traced(scope))
    part = file.with_name(file.name + ".part")
    try:
        with step("trace") as running:
            following = ids[0]
            for position in range(token + 1):
                read = ids[position] if position < len(ids) else following
                if position == token:
                    session.chip.trace(part)
                reply = session.step(read)
                following = reply.token
                running.update(f"token {position}", position + 1, token + 1)
            session.chip.end_trace()
        part.replace(file)
    finally:
        session.close()
        part.unlink(missing_ok=True)
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "unit": scope,
        "position": token,
        "token": read,
        "cycles": reply.rtl.cycles,
    }
