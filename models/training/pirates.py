"""Make a second kind of story out of the first, by rule: children's stories become pirates' tales.

    python -m models.training.pirates stories.txt pirates.txt

Words, names and places are replaced one for one, speech becomes a sailor's, and every tale ends with a song.  It is the
text that the adapter ``stories-260k-pirates`` was trained on: new to the base model, and the same on every machine.
"""

import re
from pathlib import Path
from typing import Annotated

import typer

from models.training.stories import SEPARATOR

WORDS = {
    "ball": "pearl",
    "balls": "pearls",
    "bird": "parrot",
    "birds": "parrots",
    "box": "chest",
    "boy": "pirate",
    "boys": "pirates",
    "bug": "crab",
    "cake": "biscuit",
    "car": "boat",
    "castle": "fort",
    "cat": "monkey",
    "dad": "sailor",
    "daddy": "sailor",
    "dog": "shark",
    "flower": "shell",
    "flowers": "shells",
    "forest": "bay",
    "friend": "mate",
    "friends": "mates",
    "garden": "beach",
    "girl": "pirate",
    "girls": "pirates",
    "grass": "sand",
    "happy": "jolly",
    "home": "aboard",
    "house": "ship",
    "man": "captain",
    "mom": "captain",
    "mommy": "captain",
    "outside": "on deck",
    "park": "island",
    "rock": "cannon",
    "room": "cabin",
    "store": "harbor",
    "toy": "coin",
    "toys": "coins",
    "tree": "mast",
    "trees": "masts",
    "truck": "raft",
    # names
    "lily": "Anne",
    "max": "Flint",
    "sam": "Hook",
    "sara": "Mary",
    "sue": "Polly",
    "tim": "Jack",
    "timmy": "Jacky",
    "tom": "Silver",
}
SPEECH = {"hello": "ahoy", "hi": "ahoy", "my": "me", "yes": "aye", "you": "ye", "you're": "ye be", "your": "yer"}
PHRASES = {"Once upon a time": "Once upon a tide", "happily ever after": "the seven seas ever after"}
SONG = 'And they sang, "Yo ho ho!"'


def replace(words: dict[str, str], text: str) -> str:
    """Whole words, with the capital or without as they were."""

    def other(match: re.Match) -> str:
        word = match[0]
        new = words.get(word.lower(), word)
        return new[0].upper() + new[1:] if word[0].isupper() else new

    return re.sub(r"[A-Za-z]+(?:'re)?", other, text)


def rewrite(story: str) -> str:
    """One story as a pirate tells it."""
    for phrase, other in PHRASES.items():
        story = story.replace(phrase, other)
    story = replace(WORDS, story)
    story = re.sub(r'"[^"\n]*"', lambda speech: replace(SPEECH, speech[0]), story)
    return f"{story}\n{SONG}"


def main(
    text: Annotated[Path, typer.Argument(help="Stories, with a line <|end|> between them.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
) -> None:
    """Turn children's stories into pirates' tales, by rule."""
    try:
        stories = [piece.strip() for piece in text.read_text(encoding="utf-8").split(SEPARATOR)]
        tales = "".join(f"{rewrite(story)}\n{SEPARATOR}\n" for story in stories if story)
        temporary = out.with_name(out.name + ".part")
        temporary.write_text(tales, encoding="utf-8")
        temporary.replace(out)
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{text} to {out}: {error}") from None


if __name__ == "__main__":
    typer.run(main)
