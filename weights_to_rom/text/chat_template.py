"""Chat templates: programs in the language of jinja2 that come with a model and turn messages into a prompt.

A template is a stranger's program.  It runs in a process of its own (``template_worker``), because only a process can be stopped
at any instruction and held to an amount of memory, also where signals do not work: outside of the main thread.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from weights_to_rom.text.errors import TokenizerError

SECONDS = 2
"""The time of the processor that a template may take."""

MEGABYTES = 1024
"""The memory of the process that renders templates."""

CHARACTERS = 1 << 20
"""The length of the text that a template may write.  No context of a Llama holds more."""


class ChatTemplate:
    """One template, rendered as ``render_jinja_template`` in transformers renders it.

    Parameters
    ----------
    source : str   the template's text
    """

    def __init__(self, source: str) -> None:
        self._source = source

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, special: Mapping[str, str]) -> str:
        """Return the text of ``messages``; ``special`` are the texts of bos_token, eos_token, ...

        Raises TokenizerError for anything that is raised while the template is compiled or rendered, and for a template that takes
        more than SECONDS, MEGABYTES or CHARACTERS.
        """
        variables = {"messages": list(messages), "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
        text, error = _worker.render(self._source, variables | dict(special))
        if error:
            raise TokenizerError(f"chat template: {error}")
        return text


class _Worker:
    """The process that renders templates.  It starts at the first use, and again after a template that had to be stopped."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._inherited: subprocess.Popen[bytes] | None = None  # kept, because Python warns of pipes that are never closed

    def render(self, source: str, variables: dict[str, Any]) -> tuple[str, str]:
        """Return the text that the template writes, and an error message: one of the two is empty."""
        try:
            request = json.dumps([source, variables, CHARACTERS, SECONDS]).encode()
        except (TypeError, ValueError) as error:
            return "", f"the messages are not JSON: {error}"
        with self._lock:
            if self._process is not None and self._process.poll() is not None:  # somebody has ended it
                self.stop()
            process = self._process = self._process or self._start()
            assert process.stdin and process.stdout
            reply = b""
            try:
                process.stdin.write(request + b"\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                pass  # the process has ended, and its status says why
            except BaseException:  # an interrupt must not leave a reply behind for the next request
                process.kill()
                self.stop()
                raise
            status = None if reply.endswith(b"\n") else self.stop()
        if status is None:
            text, error = json.loads(reply)
            return text, error
        return "", f"takes more than {SECONDS} seconds" if status == -signal.SIGPROF else f"its process ended with status {status}"

    @staticmethod
    def _start() -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "weights_to_rom.text.template_worker", str(MEGABYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone
        )

    def stop(self) -> int:
        """End the process, if there is one, and return its status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin and process.stdout
        with suppress(BrokenPipeError):  # what could not be written is written no more
            process.stdin.close()
        process.stdout.close()
        # Without its input it ends by itself, and its own status tells more than that of being killed.
        try:
            return process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def forget(self) -> None:
        """After a fork: the process is the parent's."""
        if self._process is not None:
            self._process.returncode = 0  # Popen would warn of a process that still runs
        self._inherited, self._process, self._lock = self._process, None, threading.Lock()


_worker = _Worker()
atexit.register(_worker.stop)
os.register_at_fork(after_in_child=_worker.forget)
