"""Greedy and Gumbel-max sampling from integer logits (docs/arithmetic.md, sampler)."""

import numpy as np
from numpy.typing import ArrayLike

from sim.golden.arithmetic import bitlen
from weights_to_rom.tables import gumbel_table, log2_table

LOG2 = np.array(log2_table(), np.int64)
H = np.array(gumbel_table(), np.int64)
MASK = np.uint64(0xFFFFFFFF)


Word = np.ndarray | np.uint64
"""32-bit words, each in a uint64."""


def _rotl(v: Word, n: int) -> Word:
    v = v & MASK
    return ((v << np.uint64(n)) | (v >> np.uint64(32 - n))) & MASK


def hash_round(v0: Word, v1: Word, v2: Word, v3: Word) -> tuple[Word, Word, Word, Word]:
    """One round of HalfSipHash on uint64 arrays that hold 32-bit words."""
    v0 = (v0 + v1) & MASK
    v1 = _rotl(v1, 5) ^ v0
    v0 = _rotl(v0, 16)
    v2 = (v2 + v3) & MASK
    v3 = _rotl(v3, 8) ^ v2
    v0 = (v0 + v3) & MASK
    v3 = _rotl(v3, 7) ^ v0
    v2 = (v2 + v1) & MASK
    v1 = _rotl(v1, 13) ^ v2
    v2 = _rotl(v2, 16)
    return v0, v1, v2, v3


def hash_words(seed: int, pos: int, index: ArrayLike) -> np.ndarray:
    """Hash each token number with the seed and the position to 32 bits, uint32[...]."""
    index = np.asarray(index, np.uint64)
    state = tuple(np.uint64(w) for w in (seed, pos, 0x6C796765, 0x74656462))
    for _ in range(4):
        state = hash_round(*state)
    v0, v1, v2, v3 = state
    state = v0, v1, v2, v3 ^ index
    for _ in range(3):
        state = hash_round(*state)
    return np.asarray(state[1] ^ state[3], np.uint32)


def log2_fixed(x: np.ndarray) -> np.ndarray:
    """Look up log2 of positive integers, LSB 2**-12."""
    n = bitlen(x) - 1
    below = np.where(n >= 8, x >> np.maximum(n - 8, 0), x << np.maximum(8 - n, 0)) & 255
    return (n << 12) + LOG2[below]


def gumbel_of_words(w: ArrayLike) -> np.ndarray:
    """Turn uniform 32-bit words into Gumbel noise to base two, LSB 2**-12."""
    w = np.asarray(w, np.int64)
    c = w & 0x7FFFFFFF
    a = (33 << 12) - log2_fixed(2 * c + 1)
    return np.where(w >> 31, a - H[c >> 25], (12 << 12) - log2_fixed(a))


def gumbel(seed: int, pos: int, index: ArrayLike) -> np.ndarray:
    """Draw the noise of the token numbers ``index`` at a position, int64[...], LSB 2**-12."""
    return gumbel_of_words(hash_words(seed, pos, index))


def inverse_temperature(temperature: float) -> int:
    """Convert a temperature to the sampler's setting: 2**10 / (temperature * ln 2), or 0 (greedy) for temperature 0."""
    if temperature == 0:
        return 0
    return int(min(65535, max(1, np.rint(2**10 / (temperature * np.log(2))))))


def sampler(logits: ArrayLike, inv_temperature: int = 0, seed: int = 0, pos: int = 0) -> int:
    """Choose a token from logits Wide[vocab_size]: the first of the largest scores.

    A score is the logit, or with ``inv_temperature`` the scaled logit plus noise.
    """
    logits = np.asarray(logits, np.int64)
    if inv_temperature:
        logits = logits * inv_temperature + (gumbel(seed, pos, np.arange(len(logits))) << 10)
    return int(np.argmax(logits))
