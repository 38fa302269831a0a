"""Files and folders that appear whole or not at all: killed writers, two writers, full disks, read-only folders."""

import errno
import resource
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from hardwire.compiled import write_json
from hardwire.folders import DiskError, check_room, place_for, room_for, write_whole, written_whole
from tests.support.privileges import ordinary_user
from weights_to_rom.scratch import BusyError
from weights_to_rom.tensor_file import save_tensors

KILLED = """
import os, signal, sys
from pathlib import Path
from hardwire.folders import written_whole
out, when = Path(sys.argv[1]), sys.argv[2]
with written_whole(out) as new:
    (new / "file").write_text("new")
    (new / "half.part").write_text("half")
    if when == "between":
        out.rename(new.parent / "old")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def small_files():
    """No file may be larger than 10,000 bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("when", ["before", "between"])
def test_leftovers_of_a_killed_writer_go(tmp_path, when):
    """Even if it was killed while it replaced the folder: then the old folder is put back."""
    out = tmp_path / "out"
    with written_whole(out) as new:
        (new / "file").write_text("old")
    (tmp_path / ".out-other").mkdir()
    ran = subprocess.run([sys.executable, "-c", KILLED, out, when])
    assert ran.returncode == -signal.SIGKILL
    assert (tmp_path / ".out-hardwire" / "new" / "half.part").exists()
    with pytest.raises(RuntimeError), written_whole(out) as new:
        assert [*new.iterdir()] == []
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-other", "out"]
    assert (out / "file").read_text() == "old"


def test_leftovers_of_earlier_versions_go(tmp_path):
    for name, part in ((".out-a1b2_c3d", "new"), (".out-20240101", "photos"), (".out-a1b2_c3d4", "new"), ("out-a1b2_c3d", "new")):
        (tmp_path / name / part).mkdir(parents=True)
    with written_whole(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-20240101", ".out-a1b2_c3d4", "out", "out-a1b2_c3d"]


def test_two_writers(tmp_path):
    with written_whole(tmp_path / "out") as new:
        (new / "file").write_text("first")
        busy = r"out: another hardwire writes it now: wait for its end, or name another folder$"
        with pytest.raises(BusyError, match=busy), written_whole(tmp_path / "out"):
            raise AssertionError("both write")
        with written_whole(tmp_path / "other"):
            pass
    assert (tmp_path / "out" / "file").read_text() == "first"


def test_a_full_disk_names_path_and_sizes(tmp_path, small_files):
    words = r"^{}: File too large: it takes about {}, and [\d,.]+ MB are free on that disk$"
    with pytest.raises(DiskError, match=words.format(tmp_path / "x", "20,000 bytes")):
        write_whole(tmp_path / "x", bytes(20_000))
    with pytest.raises(DiskError, match=words.format(tmp_path / "x.json", "1.0 MB")):
        write_json(tmp_path / "x.json", "x" * 1_000_000)
    with (
        pytest.raises(DiskError, match=words.format(tmp_path / "out", "5.0 MB")),
        written_whole(tmp_path / "out", 5_000_000) as new,
    ):
        save_tensors(new / "file", {"x": np.zeros(20_000)}, {})
    assert [*tmp_path.iterdir()] == []
    write_whole(tmp_path / "x", bytes(10_000))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_named(tmp_path, number):
    with (
        pytest.raises(DiskError, match=rf"^{tmp_path}/new/deep: .*: it takes about 7 bytes, and "),
        room_for(tmp_path / "new/deep", 7),
    ):
        raise OSError(number, "full")
    with pytest.raises(FileNotFoundError), room_for(tmp_path):
        (tmp_path / "nothing").read_bytes()


def test_room_is_checked_before(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("usage", "free")(1_500_000))
    check_room(tmp_path / "out", 1_500_000)
    with pytest.raises(
        DiskError, match=r"out: No space left on device: it takes about 2\.0 MB, and 1\.5 MB are free on that disk$"
    ):
        check_room(tmp_path / "out", 2_000_000)


def test_a_read_only_folder_has_its_place_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, cache = tmp_path / "out" / "simulation", tmp_path / "cache" / "hardwire" / "simulation"
    assert place_for(folder, "simulation") == folder and [*folder.iterdir()] == []
    folder.chmod(0o555)
    folder.parent.chmod(0o555)
    with ordinary_user():
        assert place_for(folder, "simulation") == cache and cache.is_dir()
        assert place_for(folder.parent / "traces", "simulation") == cache
        assert place_for(folder, "simulation", Path.is_dir) == folder  # it has what is asked for
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with ordinary_user():
        assert place_for(folder, "simulation") == tmp_path / "home" / ".cache" / "hardwire" / "simulation"
