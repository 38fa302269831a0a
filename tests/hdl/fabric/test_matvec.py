# amaranth: UnusedElaboratable=no
"""The fabric against golden: shapes of lanes, planes, exponents, stalls, cycle counts, and broken copies."""

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

import hdl.fabric.matvec
import hdl.fabric.row_lane
from hdl.fabric.code_dot import MULTIPLIERS
from hdl.fabric.matvec import Matvec
from hdl.lib.rom import RowRom, WeightRom
from sim.golden.matvec import matvec
from tests.support.streams import collect, drive, simulate
from weights_to_rom.pack.planes import planes
from weights_to_rom.quantise.blocks import QuantisedMatrix
from weights_to_rom.schedule import MatrixShape, Step

LANES = [(1, 4, 2), (1, 32, 4), (2, 8, 4), (16, 32, 8), (12, 16, 4), (64, 32, 32)]


@dataclass
class Job:
    """A matrix, a vector for it, and how its command looks."""

    matrix: QuantisedMatrix
    mant: np.ndarray
    exp: np.ndarray
    tag: int
    restart: bool = False

    @property
    def shape(self):
        """rows, blocks, planes"""
        return (*self.matrix.q.shape[:2], self.matrix.bits // 4)


def random_job(rng, rows, blocks, bits, tag, *, exponents="near"):
    """``near``: terms as in a model; ``wild``: shifts from zero to saturation; ``far``: the outermost."""
    eight = bits == 8
    q = rng.integers(0, 256 if eight else 16, (rows, blocks, 32)).astype(np.uint8)
    d, m = rng.integers(0, 256, (2, rows, blocks)).astype(np.uint8)
    k = np.full(rows, 3) if eight else rng.integers(0, 5, rows)
    e, exp = {
        "near": lambda: (rng.integers(-16, -9, rows), rng.integers(-12, 0, blocks)),
        "wild": lambda: (rng.integers(-64, 60, rows), rng.integers(-60, 61, blocks)),
        "far": lambda: (rng.choice([-64, 59], rows), rng.choice([-128, 127], blocks)),
    }[exponents]()
    matrix = QuantisedMatrix(q, d, d if eight else m, e.astype(np.int8), k.astype(np.uint8), bits)
    mant = rng.integers(-127, 128, (blocks, 32))
    if rng.random() < 0.2:
        mant[rng.integers(blocks)] = rng.choice([-127, 0, 127])
    return Job(matrix, mant, exp.astype(np.int64), tag)


def pack(jobs, r, b):
    """Weight words of each lane and row words, written anew from the order in Matvec's and RowLane's text."""
    weights, rows = [[] for _ in range(r)], []
    for job in jobs:
        n_rows, n_blocks, _ = job.shape
        for group in range(0, n_rows, r):
            word = 0
            for lane in range(r):
                row = group + lane
                if row < n_rows:
                    e, k = int(job.matrix.e[row]), int(planes(job.matrix)[0].k[row])
                    word |= ((e & 127) | k << 7) << 10 * lane
                for block in range(n_blocks):
                    for plane in planes(job.matrix):
                        for part in range(32 // b):
                            bits = 0
                            if row < n_rows:
                                for j in range(b):
                                    bits |= int(plane.q[row, block, part * b + j]) << 4 * j
                                dm = int(plane.d[row, block]) | int(plane.m[row, block]) << 8
                                bits |= (dm >> part * b // 2 & (1 << b // 2) - 1) << 4 * b
                            weights[lane].append(bits)
            rows.append(word)
    return weights, rows


class Bench(wiring.Component):
    """The fabric with its ROMs."""

    def __init__(self, jobs, lanes, wide_bits=32, multiplier="booth"):
        r, b, vl = lanes
        stored = [job for job in jobs if not job.restart] or jobs[:1]  # a restart reads again what is there
        weights, rows = pack(stored, r, b)
        self.dut = Matvec(
            row_lanes=r,
            block_lanes=b,
            vector_lanes=vl,
            x_lanes=x_lanes(lanes),
            multiplier=multiplier,
            wide_bits=wide_bits,
            matrices=[MatrixShape(Step.O, *job.shape) for job in stored],
        )
        self.weight_rom = WeightRom(width=9 * b // 2, depth=len(weights[0]), lanes=r, init=weights)
        self.row_rom = RowRom(width=10, depth=len(rows), lanes=r, init=rows)
        members = self.dut.signature.members
        super().__init__({name: members[name] for name in ("command", "x", "o", "busy")})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut, m.submodules.weights, m.submodules.rows = self.dut, self.weight_rom, self.row_rom
        connect(m, self.dut.weights, self.weight_rom.port)
        connect(m, self.dut.rows, self.row_rom.port)
        for name in ("command", "x"):
            connect(m, flipped(getattr(self, name)), getattr(self.dut, name))
        connect(m, self.dut.o, flipped(self.o))
        m.d.comb += self.busy.eq(self.dut.busy)
        return m


def x_lanes(lanes):
    """As ``ChipConfig`` has them."""
    _, b, vl = lanes
    return min(2 * vl, b)


def commands(jobs):
    return [
        {
            "tag": job.tag,
            "restart": job.restart or i == 0,
            "blocks": job.shape[1],
            "two_planes": job.shape[2] == 2,
            "rows": job.shape[0],
        }
        for i, job in enumerate(jobs)
    ]


def vector_beats(job, vl):
    mant = job.mant.reshape(-1, vl).tolist()
    per_block = 32 // vl
    return [{"mant": values, "exp": int(job.exp[i // per_block]), "last": i == len(mant) - 1} for i, values in enumerate(mant)]


def expected(job, vl, wide_bits):
    y = matvec(job.matrix, job.mant, job.exp, wide_bits).tolist()
    y += [0] * (-len(y) % vl)
    return [{"data": y[i : i + vl], "tag": job.tag, "last": int(i + vl == len(y))} for i in range(0, len(y), vl)]


def check(jobs, lanes, *, stalls=(0.0,), seed=0, wide_bits=32, **more):
    """Run the jobs once with each probability of stalls, one run behind the other.

    Returns the cycles of each vector's last beat, of each beat out, and of each weight read.
    """
    vl = lanes[2]
    bench = Bench(jobs, lanes, wide_bits, **more)
    want = [beat for job in jobs for beat in expected(job, vl, wide_bits)]
    beats = [beat for job in jobs for beat in vector_beats(job, x_lanes(lanes))]
    moved, out, busy = [], [], []

    async def watch(ctx):
        cycle = 0
        async for *_, on in ctx.tick().sample(bench.busy):
            if on:
                busy.append(cycle)
            cycle += 1

    async def command(ctx):
        for stall in stalls:
            await drive(ctx, bench.command, commands(jobs), stall, seed)

    async def vectors(ctx):
        for stall in stalls:
            await drive(ctx, bench.x, beats, stall, seed + 1, moved)

    async def results(ctx):
        return [await collect(ctx, bench.o, len(want), stall, seed + 2, out) for stall in stalls]

    *_, got = simulate(bench, command, vectors, results, background=[watch])
    for run in got:
        assert run == want
    return [cycle for cycle, beat in zip(moved, beats * len(stalls), strict=True) if beat["last"]], out, busy


def mixed_jobs(seed, lanes):
    """Matrices of all kinds, one after another, and the first of them again."""
    rng = np.random.default_rng(seed)
    r = lanes[0]
    vl = lanes[2]
    shapes = [(2 * r + 1, 2, 4), (vl, 1, 8), (max(1, r - 1), 3, 8), (3 * r, 1, 4), (r + vl, 2, 8)]
    jobs = [random_job(rng, *shape, tag) for tag, shape in enumerate(shapes)]
    again = Job(jobs[0].matrix, rng.integers(-127, 128, jobs[0].mant.shape), jobs[0].exp, 7, restart=True)
    return [*jobs, again]


@pytest.mark.parametrize("lanes", LANES, ids=str)
def test_equals_golden(lanes):
    """Small fabrics with Booth's multiplier, large ones with the one that simulates fastest."""
    multiplier = "booth" if lanes[0] * lanes[1] < 64 else "plain"
    check(mixed_jobs(1, lanes), lanes, stalls=(0.0, 0.2, 0.6), seed=3, multiplier=multiplier)


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_multipliers_change_places(multiplier):
    check(mixed_jobs(2, (2, 16, 4)), (2, 16, 4), stalls=(0.2,), multiplier=multiplier)


@pytest.mark.parametrize("wide_bits", [24, 32])
@pytest.mark.parametrize("exponents", ["wild", "far"])
def test_every_shift(exponents, wide_bits):
    """Enough rows that every shift from -112 to 112 occurs ('wild'), and the outermost ('far')."""
    rng = np.random.default_rng(9)
    jobs = [random_job(rng, 300, 4, 4, 3, exponents=exponents)]
    check(jobs, (2, 32, 2), wide_bits=wide_bits)


@pytest.mark.parametrize("wide_bits", [24, 32])
def test_corners(wide_bits):
    """The largest T of either sign, and T = -1 and 1, at every shift from -64 to 63."""
    e = np.arange(-64, 64)
    q = np.zeros((4, len(e), 1, 32), np.uint8)
    d = np.zeros((4, len(e), 1), np.uint8)
    m = np.zeros_like(d)
    q[0], d[0] = 15, 255  # P at its largest, no minimum
    m[1] = 255  # the minimum alone
    q[2], d[2], m[2] = 15, 255, 255  # both
    q[3, ..., 0], d[3] = 1, 1  # T = x[0]
    matrix = QuantisedMatrix(
        q.reshape(-1, 1, 32), d.reshape(-1, 1), m.reshape(-1, 1), np.tile(e, 4).astype(np.int8), np.full(4 * len(e), 4, np.uint8), 4
    )
    jobs = [Job(matrix, np.full((1, 32), x), np.array([-16]), 0, restart=True) for x in (127, -127, 1, -1)]
    check(jobs, (2, 32, 2), wide_bits=wide_bits)


@pytest.mark.parametrize("lanes", [(4, 32, 4), (4, 8, 4), (2, 32, 8), (8, 16, 2)], ids=str)
def test_cycles(lanes):
    """Without stalls: no gap in a matrix, one cycle between two, and the latency of every beat."""
    rng = np.random.default_rng(4)
    r, b, vl = lanes
    shapes = [(24 * r, 2, 4), (8 * r, 3, 8)]
    jobs = [random_job(rng, *shape, tag) for tag, shape in enumerate(shapes)]
    ends, out, busy = check(jobs, lanes)
    cycle, want_busy, group_ends = ends[0] + 3, [], []
    for rows, blocks, bits in shapes:
        group_cycles = blocks * (bits // 4) * (32 // b)
        for _ in range(rows // r):
            want_busy += range(cycle, cycle + group_cycles)
            cycle += group_cycles
            group_ends.append(cycle - 1)
        cycle += 1
    assert busy == want_busy
    latency = {32: 17, 16: 17, 8: 16}[b]
    groups_per_beat = max(1, vl // r)
    want_out = [
        end + latency + beat for end in group_ends[groups_per_beat - 1 :: groups_per_beat] for beat in range(max(1, r // vl))
    ]
    assert out == want_out


def test_one_cycle_groups():
    """A group a cycle: the queue is deep enough; with more row lanes than vector lanes the output limits."""
    rng = np.random.default_rng(6)
    ends, _, busy = check([random_job(rng, 160, 1, 4, 1)], (2, 32, 4))
    assert busy[0] == ends[0] + 3
    assert busy[-1] - busy[0] + 1 == 80
    _, out, busy = check([random_job(rng, 320, 1, 4, 1)], (8, 32, 2))
    assert out[-1] - out[0] + 1 == 160
    assert busy[-1] - busy[0] + 1 <= 160


def test_busy_while_vectors_come():
    """Vectors written while the previous matrix runs: 90 % and more from the first weight to the last."""
    rng = np.random.default_rng(7)
    jobs = [random_job(rng, 64, 4, 4, i) for i in range(4)]
    *_, busy = check(jobs, (4, 16, 4))
    assert len(busy) / (busy[-1] - busy[0] + 1) >= 0.98


BROKEN = {
    "the term is not rounded": (hdl.fabric.row_lane, "ROUND_TERM", 0),
    "the result is not rounded": (hdl.fabric.row_lane, "ROUND_RESULT", 0),
    "exponents are off by one": (hdl.fabric.matvec, "TERM_FRACTION", 15),
    "the high plane's exponent is off by one": (hdl.fabric.matvec, "HIGH_PLANE", 3),
    "results wrap": (hdl.fabric.row_lane, "saturate", lambda value, width: value[:width].as_signed()),
}


def check_broken():
    rng = np.random.default_rng(8)
    check([random_job(rng, 8, 2, 8, 1), random_job(rng, 40, 2, 4, 2, exponents="wild")], (2, 8, 2))


def test_unbroken():
    check_broken()


@pytest.mark.parametrize("what", BROKEN)
def test_the_check_catches(what, monkeypatch):
    monkeypatch.setattr(*BROKEN[what])
    with pytest.raises(AssertionError):
        check_broken()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"block_lanes": 12}, "block_lanes must be 4, 8, 16 or 32, not 12"),
        ({"multiplier": "dsp"}, "multiplier must be one of booth, magic, plain, not 'dsp'"),
        ({"matrices": []}, "matrices must not be empty"),
        ({"row_lanes": 3}, r"one of row_lanes \(3\) and vector_lanes \(4\) must divide the other"),
    ],
)
def test_refusals(change, message):
    arguments = {
        "row_lanes": 4,
        "block_lanes": 8,
        "vector_lanes": 4,
        "x_lanes": 8,
        "multiplier": "booth",
        "wide_bits": 32,
        "matrices": [MatrixShape(Step.O, 8, 2, 1)],
    } | change
    with pytest.raises(ValueError, match=f"^{message}$"):
        Matvec(**arguments)
