"""Reading stories, holding some of them out, and finding what was copied."""

import numpy as np
import pytest

from models.training.stories import TrainingTokens, read_text


def test_the_end_of_the_file_is_held_out(tmp_path):
    stories = [f"story {i:03}" for i in range(200)]
    path = tmp_path / "stories.txt"
    path.write_text("".join(f"{story}\n<|end|>\n" for story in stories))
    text = read_text(path)
    assert text.train + text.held_out == stories
    assert len(text.held_out) == pytest.approx(10, abs=1)


@pytest.mark.parametrize("content", [b"", b"only one story", b"\xff\xfe"])
def test_refuses_what_is_no_text_of_stories(tmp_path, content):
    path = tmp_path / "stories.txt"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"stories\.txt: "):
        read_text(path)


def longest_run(stories, tokens):
    """The slow way: every part of the sample against every story."""
    runs = (
        tokens[start:end]
        for start in range(len(tokens))
        for end in range(start, len(tokens) + 1)
        if any(tokens[start:end] == s[i : i + end - start] for s in stories for i in range(len(s) + 1))
    )
    return max(map(len, runs))


@pytest.mark.parametrize("seed", range(10))
def test_longest_run(seed):
    rng = np.random.default_rng(seed)
    stories = [rng.integers(0, 4, 12).tolist() for _ in range(3)]
    tokens = rng.integers(0, 4, 15).tolist()
    start, end = TrainingTokens(stories, 4).longest_run(tokens)
    assert end - start == longest_run(stories, tokens)
