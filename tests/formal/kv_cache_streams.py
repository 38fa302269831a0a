"""The streams of the KV cache keep the rule of streams: an offered payload stays until it moves."""

from harness import Bug, Proof
from kv_cache_model import SHAPES, KvCacheModel

import hdl.attention.kv_cache

MOVES = "a word that changes or is withdrawn before it has moved"


def stay(model: KvCacheModel):
    for stream in (model.dut.k, model.dut.v):
        model.claim(MOVES, model.stays(stream))


PROOFS = [
    Proof(
        "KV cache: an offered word stays until it moves",
        hdl.attention.kv_cache,
        KvCacheModel,
        stay,
        SHAPES,
        "prove",
        2,
        [
            Bug("the memory reads on while the stream waits", "port.en.eq(busy & advance)", "port.en.eq(busy)", MOVES, "cut", 30),
            Bug(
                "valid falls with busy",
                "advance.eq(~o.valid | o.ready)",
                "advance.eq(~o.valid | o.ready | ~busy)",
                MOVES,
                "gathered",
                30,
            ),
        ],
    ),
]
