"""Regular expressions in a tokenizer.json: those that can take exponential time are found before a text meets them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import tokenizers

_REPEAT = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
_ESCAPE = re.compile(r"\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.", re.DOTALL)
# The longest pattern of a published tokenizer has about 1,000 characters.
_MOST_CHARACTERS = 20_000


def endless_pattern(model: tokenizers.Tokenizer) -> str | None:
    """Return a pattern of a tokenizer that can take exponential time or is very long, or None.

    Such a pattern repeats without bound a group of which one repetition can match texts of several lengths, as in ``(a+)+``.
    Its package ends a match after ten million steps, but with a panic.
    """
    for part in (model.normalizer, model.pre_tokenizer, model.decoder):
        if part is not None:
            for pattern in _patterns(json.loads(part.__getstate__())):
                if len(pattern) > _MOST_CHARACTERS or may_explode(pattern):
                    return pattern
    return None


def _patterns(root: Any) -> Iterator[str]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(pattern := node.get("Regex"), str):
                yield pattern
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def may_explode(pattern: str) -> bool:
    """Whether a group that is repeated without bound holds a repetition of variable length."""
    # For each open group: whether its contents vary in length.
    varies = [False]
    at = 0
    while at < len(pattern):
        closed = False
        if escape := _ESCAPE.match(pattern, at):
            at = escape.end()
        elif pattern[at] == "[":
            at = _after_class(pattern, at)
        elif pattern[at] == "(":
            varies.append(False)
            # The mark of the kind of group is no repetition: (?:  (?=  (?<name>
            at += 2 if pattern.startswith("(?", at) else 1
            continue
        else:
            closed = pattern[at] == ")" and len(varies) > 1
            at += 1
        inner = varies.pop() if closed else False
        while repeat := _REPEAT.match(pattern, at):
            low, comma, high = repeat.groups()
            unbounded = repeat[0] in "*+" or (comma == "," and not high) or int(high or 0) > 100
            if inner and unbounded:
                return True
            inner |= repeat[0] in "*+?" or (comma == "," and low != high)
            at = repeat.end()
        varies[-1] |= inner
    return False


def _after_class(pattern: str, at: int) -> int:
    """The place after a class of characters, which may hold others."""
    depth = 0
    while at < len(pattern):
        if escape := _ESCAPE.match(pattern, at):
            at = escape.end()
            continue
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 1
        if not depth:
            break
    return at
