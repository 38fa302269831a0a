"""Stories become pirates' tales, word for word."""

import pytest
import typer
from typer.testing import CliRunner

from models.training.pirates import SONG, main, rewrite


@pytest.mark.parametrize(
    ("story", "tale"),
    [
        ("Once upon a time, Lily had a cat.", "Once upon a tide, Anne had a monkey."),
        ('Mom said, "Hello, you."', 'Captain said, "Ahoy, ye."'),
        ("Your caterpillar said yes.", "Your caterpillar said yes."),
    ],
)
def test_rewrite(story, tale):
    assert rewrite(story) == f"{tale}\n{SONG}"


def test_command(tmp_path):
    app = typer.Typer()
    app.command()(main)
    (tmp_path / "stories.txt").write_text("A dog.\n<|end|>\n\n<|end|>\nA tree.\n<|end|>\n")
    result = CliRunner().invoke(app, [str(tmp_path / "stories.txt"), str(tmp_path / "tales.txt")])
    assert result.exit_code == 0
    assert (tmp_path / "tales.txt").read_text() == f"A shark.\n{SONG}\n<|end|>\nA mast.\n{SONG}\n<|end|>\n"
