"""Run the hardwire command in this process, and make small models for it."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from hardwire import progress
from hardwire.cli.main import main
from hardwire.cli.vocabulary import COMMANDS, SCHEMA, unknown
from tests.support.checkpoints import hugging_face_name, random_weights, write_hugging_face
from weights_to_rom.config import LlamaConfig

SHAPE = LlamaConfig(
    dim=32,
    n_layers=1,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    ffn_dim=40,
    vocab_size=41,
    max_seq_len=24,
    tied=True,
)


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Hardwire:
    """``hardwire("run", "out", ..., stdin="")``: exit code, stdout and stderr.  JSON must have the names that are described."""

    def __init__(self, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
        self._capsys, self._monkeypatch = capsys, monkeypatch
        for name in ("_display", "_warn"):  # the command replaces them until the test ends
            monkeypatch.setattr(progress, name, getattr(progress, name))

    def __call__(self, *arguments: object, stdin: str = "") -> Result:
        self._monkeypatch.setattr(sys, "argv", ["hardwire", *map(str, arguments)])
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        result = Result(exit.value.code, *self._capsys.readouterr())
        if "--json" in arguments and result.out:
            command = max((name for name in COMMANDS if " ".join(map(str, arguments)).startswith(name)), key=len)
            for text in result.out.splitlines() if command == "chat" else [result.out]:
                figures = json.loads(text)
                assert figures["schema"] == SCHEMA and unknown(command, figures) == []
        return result


TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_talker(folder: Path, model: str = "stories-tiny", template: str = TEMPLATE) -> Path:
    """Write a bundled model with a chat template.  It was not trained to chat, so its replies are random text."""
    shutil.copytree(Path("models") / model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def write_model(folder: Path, seed: int = 0, config: LlamaConfig = SHAPE) -> Path:
    """Write a random Hugging Face directory without a tokenizer.  Its activations are of order one."""
    weights = random_weights(config, seed)
    for name, w in weights.items():
        if w.ndim == 2 and name != "embed":
            w /= w.shape[1] ** 0.5
    write_hugging_face(folder, config, tensors={hugging_face_name(name): w for name, w in weights.items()})
    return folder
