"""A folder for work in progress: one process has it, and a killed one leaves nothing for long."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from weights_to_rom.scratch import BusyError, empty, locked, remove_leftover

KILLED = """
import os, signal, sys
from pathlib import Path
from weights_to_rom.scratch import locked
with locked(Path(sys.argv[1])) as folder:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "half.part").write_text("half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path) -> None:
    """Let a process be killed while it has the folder."""
    assert subprocess.run([sys.executable, "-c", KILLED, folder]).returncode == -signal.SIGKILL
    assert (folder / "half.part").exists()


def test_the_folder_is_there_and_goes(tmp_path):
    with locked(tmp_path / "work") as folder:
        (folder / "file").touch()
        (folder / "link").symlink_to(tmp_path)
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "work") as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    assert [*tmp_path.iterdir()] == []


def test_the_second_is_refused(tmp_path):
    with locked(tmp_path / "work"), pytest.raises(BusyError, match=r"^not now$"), locked(tmp_path / "work", "not now"):
        raise AssertionError("two have it")
    with locked(tmp_path / "work", "not now"):
        pass


def test_the_second_waits(tmp_path):
    """Many threads count in one file; a lock that two of them had at once would lose a count."""
    count = tmp_path / "count"
    count.write_text("0")

    def add() -> None:
        for _ in range(20):
            with locked(tmp_path / "work") as folder:
                assert [path.name for path in folder.iterdir()] == ["lock"]
                (folder / "file").touch()
                count.write_text(str(int(count.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "80" and not (tmp_path / "work").exists()


def test_leftovers_of_a_killed_process_go(tmp_path):
    killed(tmp_path / "work")
    with locked(tmp_path / "work", "busy") as folder:
        empty(folder)
        assert [path.name for path in folder.iterdir()] == ["lock"]
    killed(tmp_path / "work")
    remove_leftover(tmp_path / "work")
    assert [*tmp_path.iterdir()] == []
    remove_leftover(tmp_path / "work")


def test_what_another_has_is_no_leftover(tmp_path):
    with locked(tmp_path / "work") as folder:
        (folder / "file").touch()
        remove_leftover(folder)
        assert (folder / "file").exists()
    assert [*tmp_path.iterdir()] == []
