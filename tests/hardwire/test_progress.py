"""Long steps: they are silent in a library, and a program can show them."""

from contextlib import contextmanager

import pytest

from hardwire import progress


class Shown:
    """A display that records the calls of ``update``."""

    def __init__(self):
        self.steps: list[str] = []
        self.updates: list[tuple] = []

    @contextmanager
    def __call__(self, name: str):
        self.steps.append(name)
        yield self

    def update(self, what: str = "", done: float | None = None, total: float = 1.0) -> None:
        self.updates.append((what, done, total))


@pytest.fixture
def shown(monkeypatch) -> Shown:
    monkeypatch.setattr(progress, "_display", progress._display)  # monkeypatch restores it at the end
    display = Shown()
    progress.show_with(display)
    return display


def test_a_step_is_shown(shown):
    seconds: dict[str, float] = {}
    with progress.step("count", seconds) as running:
        running.update("sheep", 1, 3)
        running.update("goats")
    assert shown.steps == ["count"] and shown.updates == [("sheep", 1, 3), ("goats", None, 1.0)]
    assert 0 <= seconds["count"] < 1


def test_a_step_is_silent_unless_it_is_shown(monkeypatch, capfd):
    monkeypatch.setattr(progress, "_display", progress.silent)
    with progress.step("count") as running:
        running.update("sheep", 1, 3)
    assert capfd.readouterr() == ("", "")


def test_a_step_that_fails_has_no_time(shown):
    seconds: dict[str, float] = {}
    with pytest.raises(KeyError), progress.step("count", seconds):
        raise KeyError
    assert seconds == {}


def test_a_warning_is_silent_unless_it_is_shown(monkeypatch, capfd):
    for name in ("_display", "_warn"):
        monkeypatch.setattr(progress, name, getattr(progress, name))
    progress.show_with(progress.silent)
    progress.warn("sheep are missing")
    assert capfd.readouterr() == ("", "")
    said: list[str] = []
    progress.show_with(progress.silent, said.append)
    progress.warn("sheep are missing")
    assert said == ["sheep are missing"]
