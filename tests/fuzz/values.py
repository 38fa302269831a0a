"""Changes of values, of JSON trees and of bytes: what damaged and hostile files hold."""

import copy
import json
import math
import random
from typing import Any

NUMBERS = [0, 1, -1, 2, 7, 8, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64, -(2**31), 10**30, 0.0, -0.0, 0.5, 1.0, -1.5,
           1e-320, 1e-45, 1e-30, 1e30, 3.5e38, 1e308, math.nan, math.inf, -math.inf]  # fmt: skip
TEXTS = ["", "x", "0", "-1", "nan", "true", "\0", "\n", "\x1b[31m", "é", "你好", "\u2581", "\ud800", "<s>", "</s>", "..",
         "/etc/passwd", "a" * 300, "llama", "default", "(", "[a-", "{{", "{% for %}", "%s%n", "\u202e"]  # fmt: skip


def value(rng: random.Random) -> Any:
    """Any value that JSON can hold."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice(TEXTS)
    if kind == 4:
        return rng.choice([None, True, False])
    if kind == 5:
        return [value(rng) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {rng.choice(TEXTS): value(rng) for _ in range(rng.randrange(3))}
    deep: Any = 1
    for _ in range(rng.choice([3, 30, 200])):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep


def near(rng: random.Random, old: Any) -> Any:
    """A value of the same type, or of one that a careless writer takes for it."""
    if isinstance(old, bool):
        return rng.choice([not old, int(old), str(old).lower(), None])
    if isinstance(old, int | float):
        return rng.choice([old + 1, old - 1, old * 2, -old, float(old), str(old), [old], old + 0.5, rng.choice(NUMBERS), 0])
    if isinstance(old, str):
        cut = rng.randrange(len(old) + 1)
        return rng.choice([old + "x", old[:cut], old[:cut] + rng.choice(TEXTS) + old[cut:], [old], old.upper(), rng.choice(TEXTS)])
    if isinstance(old, list):
        twice = [*old, *old]
        return rng.choice([old[: len(old) // 2], twice, old[::-1], [value(rng), *old], old[0] if old else None, []])
    if isinstance(old, dict):
        kept = list(old.items())
        rng.shuffle(kept)
        return rng.choice([dict(kept), dict(kept[: len(kept) // 2]), [list(pair) for pair in kept], {}])
    return value(rng)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree, as its container and key."""
    found = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in list(entries):
            found.append((node, key))
            waiting.append(child)
    return found


def tree(rng: random.Random, original: Any, keys: list[str] = [], most: int = 3) -> Any:  # noqa: B006 (it is not changed)
    """A copy of a JSON tree with one to ``most`` changes.  ``keys`` are names of fields that may be added at the top."""
    changed = copy.deepcopy(original)
    for _ in range(rng.choice([1, 1, rng.randint(1, most)])):
        places = _places(changed)
        # The top has few places in a large tree, and matters most.
        top = [place for place in places if place[0] is changed]
        if not places or (keys and rng.random() < 0.3):
            changed[rng.choice(keys or TEXTS)] = value(rng)
            continue
        node, key = rng.choice(top if rng.random() < 0.5 else places)
        what = rng.random()
        if what < 0.4:
            node[key] = near(rng, node[key])
        elif what < 0.75:
            node[key] = value(rng)
        elif what < 0.85:
            del node[key]
        elif isinstance(node, dict):
            name = rng.choice([key + "x", key.upper(), key[:-1], *keys]) if isinstance(key, str) else key
            node[name] = node.pop(key) if what < 0.93 else copy.deepcopy(node[key])
        else:
            node.insert(key, copy.deepcopy(rng.choice(places)[0]))
    return changed


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Bytes with some of them changed, cut off or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        what = rng.randrange(5)
        if what == 0:
            del changed[at:]
        elif what == 1:
            changed[at:at] = rng.randbytes(rng.randint(1, 9))
        elif what == 2:
            changed[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), (2**63).to_bytes(8, "little"), b"\xff\xff\xff\x7f"])
        elif at < len(changed):
            changed[at] ^= 1 << rng.randrange(8) if what == 3 else rng.randrange(1, 256)
    return bytes(changed)


def encoded(rng: random.Random, root: Any, damaged: float = 0.08) -> bytes:
    """A tree as JSON; some of them with damaged bytes."""
    data = json.dumps(root, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return flipped(rng, data) if rng.random() < damaged else data


def has_nonfinite(root: Any) -> bool:
    """Whether a NaN or an infinity is anywhere in a tree."""
    leaves = [root, *(node[key] for node, key in _places(root))]
    return any(isinstance(leaf, float) and not math.isfinite(leaf) for leaf in leaves)
