"""Regular expressions of files, which may be written so that a match never ends: they run in a process that is stopped then."""

import json
import subprocess
import sys
from collections.abc import Collection, Sequence

from weights_to_rom.errors import HardwireError
from weights_to_rom.schema import short

MATCH_SECONDS = 5.0
_MEMORY_BYTES = 256 << 20
_MOST_CHARACTERS = 100_000

_PROGRAM = f"""
import json, re, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY_BYTES}, {_MEMORY_BYTES}))
warnings.simplefilter("ignore")
questions, texts = json.load(sys.stdin)
answers = []
for method, pattern in questions:
    try:
        match = getattr(re.compile(pattern), method)
    except (re.error, OverflowError, RecursionError) as error:
        print(json.dumps([pattern, str(error)]))
        sys.exit()
    found = [match(text) for text in texts]
    answers.append([one and one.groups() for one in found])
print(json.dumps(answers))
"""

Question = tuple[str, str]
"""A method of a compiled pattern, "match" or "fullmatch", and the pattern."""
Answer = dict[str, tuple[str | None, ...]]
"""The groups of a match, by the text that matches."""


def matches(
    questions: Collection[Question], texts: Sequence[str], where: str, error: type[HardwireError]
) -> dict[Question, Answer]:
    """Match every pattern with every text, with the package ``re``, in at most ``MATCH_SECONDS``.

    Raises ``error``, which begins with ``where``, for a pattern that is no regular expression or cannot be matched in time.
    """
    asked = list(dict.fromkeys(questions))
    if not asked:
        return {}
    if (length := sum(len(pattern) for _, pattern in asked)) > _MOST_CHARACTERS:
        raise error(f"{where}: its patterns have {length} characters, more than {_MOST_CHARACTERS}")
    try:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", _PROGRAM], input=json.dumps([asked, list(texts)]), text=True,
                              capture_output=True, timeout=MATCH_SECONDS, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise error(f"{where}: {_named(asked)} cannot be matched in {MATCH_SECONDS} seconds") from None
    if done.returncode:
        last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise error(f"{where}: {_named(asked)} cannot be matched: {last}")
    answers = json.loads(done.stdout)
    if answers and isinstance(answers[0], str):
        raise error(f"{where}: {short(answers[0])} is no regular expression: {answers[1]}")
    return {
        question: {text: tuple(one) for text, one in zip(texts, groups, strict=True) if one is not None}
        for question, groups in zip(asked, answers, strict=True)
    }


def _named(asked: Sequence[Question]) -> str:
    others = f", or one of {len(asked) - 1} others," if asked[1:] else ""
    return f"the pattern {short(asked[0][1])}{others}"
