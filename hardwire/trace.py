"""Waves of one unit of the chip while it works on one token."""

import os
from pathlib import Path

from hardwire.check import default_prompts
from hardwire.folders import place_for
from hardwire.progress import step
from hardwire.sessions import rtl_session
from hardwire.target import Target
from hdl.verilog import TOP
from sim.rtl.trace import TracedChip, find_unit, traced, units
from sim.session import ContextFull
from weights_to_rom.errors import HardwireError


def trace(target: Target, prompt: str, token: int, unit: str, file: Path | None = None) -> dict:
    """Let the chip continue a prompt, greedily, and write the waves of a unit while it works on one token.

    Parameters
    ----------
    target : Target    a compiled model
    prompt : str       the text to continue; if it is empty, an opening of a story
    token : int        position of the token, counted from 0 through prompt and continuation
    unit : str         name of a unit, or path of a part of one
    file : Path        the VCD file, by default OUT/traces/UNIT-TOKEN.vcd, or a file in the cache if OUT is read-only; it is
                       written whole or not at all

    Returns the figures that ``hardwire trace --json`` prints.
    """
    compiled = target.compiled()
    scope = find_unit(unit, units(compiled.verilog.read_text(), compiled.config.module(TOP)))
    ids = target.encode(prompt or default_prompts(target)[0])
    if token >= target.max_context and not target.slides:
        raise ContextFull(f"there is no token {token}: the context holds {target.max_context}, the first of which is 0")
    if file is None:
        file = place_for(compiled.folder / "traces", f"traces-{compiled.identity:016x}") / f"{unit}-{token}.vcd"
    if file.suffix != ".vcd":
        raise HardwireError(f"{file}: waves are written as VCD: give the file a name that ends in .vcd")
    if not os.access(file.parent, os.W_OK):
        raise HardwireError(f"{file}: {file.parent} is not a folder that can be written to")
    session = rtl_session(target, traced(scope))
    assert isinstance(session.chip, TracedChip)
    part = file.with_name(file.name + ".part")
    try:
        with step("trace") as running:
            read = ids[0]
            for position in range(token):
                reply = session.step(read)
                read = ids[position + 1] if position + 1 < len(ids) else reply.token
                running.update(f"token {position}", position + 1, token + 1)
            session.chip.trace(part)
            reply = session.step(read)
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
        "cycles": reply.rtl.cycles if reply.rtl else 0,
    }
