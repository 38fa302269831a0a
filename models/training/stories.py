"""The text of the bundled models: reading it, holding some of it out, and finding what was copied from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

SEPARATOR = "<|end|>"  # alone on a line between stories
HELD_OUT = 0.05  # this share of the characters, at the end of the file, is never trained on


@dataclass(frozen=True)
class Text:
    """Stories of one file, in file order.  Held out are those that end in the last 5 % of the file."""

    train: list[str]
    held_out: list[str]


def read_text(path: Path) -> Text:
    """Read stories separated by lines ``<|end|>``; raises SystemExit with one line when there are too few."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: cannot be read as UTF-8 text: {error}") from None
    train: list[str] = []
    held_out: list[str] = []
    position = 0
    for piece in text.split(SEPARATOR):
        position += len(piece) + len(SEPARATOR)
        story = "\n".join(line.strip() for line in piece.strip().splitlines())
        if story:
            (train if position <= len(text) * (1 - HELD_OUT) else held_out).append(story)
    if not train or not held_out:
        raise SystemExit(f"{path}: needs at least a few dozen stories separated by lines {SEPARATOR!r}")
    return Text(train, held_out)


def encode(tokenizer: Tokenizer, stories: list[str]) -> list[list[int]]:
    """Each story as the model meets it: between two end tokens, the first of which is the begin token."""
    end = tokenizer.token_to_id(SEPARATOR)
    return [[end, *e.ids, end] for e in tokenizer.encode_batch(stories, add_special_tokens=False)]


class TrainingTokens:
    """The training text as tokens, to look for runs in.

    Tokens are held as characters of one string, stories apart by a character that is no token: Python's
    substring search then goes through some millions of tokens in about a millisecond.
    """

    def __init__(self, stories: Iterable[list[int]], vocab_size: int) -> None:
        self.text = chr(vocab_size).join("".join(map(chr, story)) for story in stories)

    def longest_run(self, tokens: list[int]) -> tuple[int, int]:
        """(start, end) of the longest run ``tokens[start:end]`` that occurs in one training story.

        Every part of a run that occurs occurs too, so the start only ever moves forward.
        """
        sample = "".join(map(chr, tokens))
        best, start = (0, 0), 0
        for end in range(1, len(sample) + 1):
            while sample[start:end] not in self.text:
                start += 1
            if end - start > best[1] - best[0]:
                best = (start, end)
        return best
