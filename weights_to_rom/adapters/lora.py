"""LoRA adapters as integers: the operands of the chip's LoRA adder, and the load image that writes them into adapter memory.

docs/arithmetic.md, lora (section 4) and section 6, defines every number here.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from weights_to_rom.adapters.peft import AdapterError, PeftAdapter
from weights_to_rom.model_format import BLOCK, ModelFormat, ceil_to, lora_word_bits, rank_block
from weights_to_rom.projections import GROUPS
from weights_to_rom.row_order import pair_order
from weights_to_rom.schedule import Step, lora_matrices
from weights_to_rom.tensor_file import save_tensors

KIND = "hardwire adapter 1"
E_MIN, E_MAX = -64, 63
RANKS = (2, 4, 8, 16, 32, 64)

STEPS = {Step[group.upper()]: kinds for group, kinds in GROUPS.items()}
"""The projections of each step of the schedule, in the order of the step's results."""


@dataclass(frozen=True)
class LoraBlocks:
    """The adapter of one matrix in MX blocks: value = mant * 2**exp.

    Rows and columns are padded as those of the matrix are.

    Members
    -------
    a_mant : int8[rank, blocks, 32]       A, blocks along its inputs
    a_exp : int8[rank, blocks]            -64..63
    b_mant : int8[rows, rank // nb, nb]   B, blocks of nb = min(32, rank) along the rank; the scale is multiplied in
    b_exp : int8[rows, rank // nb]        -64..63
    """

    a_mant: np.ndarray
    a_exp: np.ndarray
    b_mant: np.ndarray
    b_exp: np.ndarray


@dataclass(frozen=True)
class IntegerAdapter:
    """One adapter for chips of one ``rank``: blocks by the canonical name of their matrix ("layers.0.q").

    A matrix without an entry has no adapter.  ``report`` holds ``targets`` (kinds of matrices), ``rank`` (of the adapter
    before it was padded to the chip's), ``worst_block_error`` (rms error of a block over the rms of its row) and
    ``worst_block_error_in`` (the matrix that holds that block).
    """

    rank: int
    matrices: Mapping[str, LoraBlocks]
    report: dict = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Four bits: bit s is set if any layer has an adapter in step s."""
        kinds = {name.rpartition(".")[2] for name in self.matrices}
        return sum(1 << step for step, targets in STEPS.items() if kinds & set(targets))

    def save(self, path: Path) -> None:
        """Write a safetensors file.  It takes its name when it is complete, so that no reader meets half a file."""
        tensors = {
            f"{name}.{part}": getattr(blocks, part)
            for name, blocks in self.matrices.items()
            for part in LoraBlocks.__dataclass_fields__
        }
        about = {"kind": KIND, "rank": self.rank, "report": self.report}
        save_tensors(path, tensors, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> "IntegerAdapter":
        """Read a file that ``save`` wrote.

        Raises AdapterError if it is missing, truncated or of another kind.
        """
        try:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                if about.get("kind") != KIND:
                    raise AdapterError(f"{path}: is not a {KIND!r} file")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no dict)
        except (OSError, SafetensorError) as error:
            raise AdapterError(f"{path}: cannot be read as an integer adapter ({error})") from error
        names = [name.removesuffix(".a_exp") for name in tensors if name.endswith(".a_exp")]
        matrices = {name: LoraBlocks(*(tensors[f"{name}.{part}"] for part in LoraBlocks.__dataclass_fields__)) for name in names}
        return cls(about["rank"], matrices, about["report"])


def _check_rank(rank: int) -> None:
    if rank not in RANKS:
        raise ValueError(f"rank must be a power of two from 2 to 64, not {rank!r}")


def matrix_shape(fmt: ModelFormat, kind: str) -> tuple[int, int]:
    """Padded rows and input blocks of a projection, by its kind ("q", "k", "v", "o", "gate", "up", "down")."""
    kv_rows, dim, attn, ffn = fmt.n_kv_heads * fmt.head_dim, fmt.dim_padded, fmt.attn_padded, fmt.ffn_padded
    rows, inputs = {"q": (fmt.attn_dim, dim), "k": (kv_rows, dim), "v": (kv_rows, dim), "o": (dim, attn),
                    "gate": (ffn, dim), "up": (ffn, dim), "down": (dim, ffn)}[kind]  # fmt: skip
    return rows, inputs // BLOCK


def quantise_adapter(adapter: PeftAdapter, fmt: ModelFormat, residual_shift: int, rank: int) -> IntegerAdapter:
    """Convert an adapter to integers, for a chip whose LoRA adder has ``rank``.

    ``residual_shift`` is that of the base model's ``IntegerModel``.

    Raises AdapterError for a larger rank than the chip's, and for values of 127 * 2**63 or more; ValueError for a
    ``rank`` that no chip has.
    """
    _check_rank(rank)
    nb = rank_block(rank)
    matrices: dict[str, LoraBlocks] = {}
    worst = (0.0, "")
    for name, pair in adapter.matrices.items():
        kind = name.rpartition(".")[2]
        if pair.rank > RANKS[-1]:
            raise AdapterError(f"{adapter.source}: {name} has rank {pair.rank}, and no chip has more than {RANKS[-1]}: "
                               "train a smaller adapter, or reduce this one by a singular value decomposition")  # fmt: skip
        if pair.rank > rank:
            raise AdapterError(f"{adapter.source}: {name} has rank {pair.rank}, the chip's adder only {rank}: "
                               "compile a chip with a larger --lora-rank, or train a smaller adapter")  # fmt: skip
        factor = pair.scale
        if kind == "q":
            factor *= np.log2(np.e) / np.sqrt(fmt.head_dim)
        if kind in ("o", "down"):
            factor *= 2.0**residual_shift
        with np.errstate(over="ignore"):  # _quantise refuses the infinity
            a, b = pair.a.astype(np.float64), pair.b.astype(np.float64) * factor
        if kind in ("q", "k"):
            b = b[pair_order(len(b) // fmt.head_dim, fmt.head_dim)]
        rows, blocks = matrix_shape(fmt, kind)
        (a_mant, a_exp, a_error), (b_mant, b_exp, b_error) = (
            _quantise(f"{adapter.source}: {part} of {name}", w, *shape)
            for part, w, shape in (("A", a, (rank, blocks * BLOCK, BLOCK)), ("B", b, (rows, rank, nb)))
        )
        matrices[name] = LoraBlocks(a_mant, a_exp, b_mant, b_exp)
        worst = max(worst, (a_error, f"{name}, A"), (b_error, f"{name}, B"))
    report = {"targets": adapter.targets, "rank": adapter.rank, "worst_block_error": worst[0], "worst_block_error_in": worst[1]}
    return IntegerAdapter(rank, matrices, report)


def _quantise(what: str, w: np.ndarray, rows: int, columns: int, block: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Quantise w, padded with zeros to [rows, columns]: mantissas, exponents, and the worst relative error of a block."""
    padded = np.zeros((rows, columns))
    padded[: w.shape[0], : w.shape[1]] = w
    padded = padded.reshape(rows, -1, block)
    largest = np.abs(padded).max(axis=2)
    fraction, exponent = np.frexp(largest)  # largest = fraction * 2^exponent, fraction in 1/2..1
    e = np.where(largest > 0, np.maximum(E_MIN, exponent - 7 + (fraction > 127 / 128)), 0)
    if not np.isfinite(largest).all() or e.max() > E_MAX:
        raise AdapterError(f"{what}: reaches {largest.max():.3g}, scale and constants folded in; the chip holds "
                           f"less than 127 * 2^{E_MAX}")  # fmt: skip
    mant = np.rint(np.ldexp(padded, -e[..., None]))
    error = np.ldexp(mant, e[..., None]) - padded
    in_block = np.clip(w.shape[1] - block * np.arange(columns // block), 1, block)  # padding has no error and is not counted
    of_block = np.sqrt((error**2).sum(axis=2) / in_block)
    of_row = np.sqrt((padded**2).sum(axis=(1, 2)) / w.shape[1])[:, None]
    relative = np.divide(of_block, of_row, out=np.zeros_like(of_block), where=of_row > 0)
    return mant.astype(np.int8), e.astype(np.int8), float(relative.max())


def adapter_words(fmt: ModelFormat, rank: int, lora_lanes: int) -> int:
    """Count the addresses of adapter memory that an adapter takes; each address holds ``lora_lanes`` words."""
    _check_lanes(rank, lora_lanes)
    return fmt.n_layers * sum(matrix.words(rank, lora_lanes) for matrix in lora_matrices(fmt))


def adapter_bits(fmt: ModelFormat, rank: int, lora_lanes: int) -> int:
    """Count the bits of adapter memory that an adapter takes."""
    return adapter_words(fmt, rank, lora_lanes) * lora_lanes * lora_word_bits(rank)


def layout_word(fmt: ModelFormat, rank: int, lora_lanes: int, vector_lanes: int) -> int:
    """Compute the second word of a load image: the CRC-32 of a text that names the shapes, the rank and the lanes.

    They decide the meaning of the words that follow, so a chip refuses an image with another layout word than its own.
    """
    shape = {name: getattr(fmt, name) for name in ("n_layers", "dim", "n_heads", "n_kv_heads", "head_dim", "ffn_dim")}
    lanes = {"rank": rank, "lora_lanes": lora_lanes, "vector_lanes": vector_lanes}
    text = " ".join([KIND, *(f"{name}={n}" for name, n in (shape | lanes).items())])
    return zlib.crc32(text.encode("ascii"))


def adapter_memory(adapter: IntegerAdapter, fmt: ModelFormat, lora_lanes: int, vector_lanes: int) -> np.ndarray:
    """The contents of adapter memory, uint8[addresses, lora_lanes, lora_word_bits / 8], low bits first.

    ``vector_lanes`` rows of gate alternate with ``vector_lanes`` rows of up, because the fabric gives its results in that
    order.

    Raises AdapterError for an adapter of another shape.
    """
    _check_lanes(adapter.rank, lora_lanes)
    _check_shapes(adapter, fmt)
    parts = [
        part
        for layer in range(fmt.n_layers)
        for kinds in STEPS.values()
        for part in _step(adapter, fmt, [f"layers.{layer}.{kind}" for kind in kinds], lora_lanes, vector_lanes)
    ]
    return np.concatenate(parts)


def load_image(adapter: IntegerAdapter, fmt: ModelFormat, number: int, lora_lanes: int, vector_lanes: int) -> np.ndarray:
    """The load image, uint32[words], which makes an adapter the chip's adapter ``number``, 1 to 255.

    Raises AdapterError for an adapter of another shape, and ValueError for numbers and lanes that no chip has.
    """
    if not 1 <= number <= 255:
        raise ValueError(f"an adapter's number must be 1 to 255, not {number!r}")
    memory = adapter_memory(adapter, fmt, lora_lanes, vector_lanes)
    padded = np.zeros((memory.shape[0] * lora_lanes, ceil_to(memory.shape[2], 4)), np.uint8)
    padded[:, : memory.shape[2]] = memory.reshape(len(padded), -1)
    head = [number | adapter.steps << 8, layout_word(fmt, adapter.rank, lora_lanes, vector_lanes)]
    words = np.concatenate([np.array(head, "<u4"), padded.reshape(-1).view("<u4")])
    return np.append(words, np.uint32(zlib.crc32(words.tobytes()))).astype(np.uint32)


def _step(adapter: IntegerAdapter, fmt: ModelFormat, names: list[str], lora_lanes: int, vector_lanes: int) -> Iterator[np.ndarray]:
    """Yield the addresses of one step: A of each projection, then B of all of them."""
    nb = rank_block(adapter.rank)
    projections = [adapter.matrices.get(name) or _zeros(fmt, name.rpartition(".")[2], adapter.rank) for name in names]
    for p in projections:
        exponents = np.zeros((*p.a_exp.shape, BLOCK // nb), np.int8)
        exponents[..., 0] = p.a_exp
        words = np.concatenate([p.a_mant, exponents], axis=-1)  # [rank, blocks, bytes]
        yield words.reshape(-1, lora_lanes, *words.shape[1:]).swapaxes(1, 2).reshape(-1, lora_lanes, words.shape[-1]).view(np.uint8)
    order = _rows_in_order(names, sum(len(p.b_exp) for p in projections), vector_lanes)
    mant = np.concatenate([p.b_mant for p in projections])[order].reshape(-1)
    exp = np.concatenate([p.b_exp for p in projections])[order].reshape(-1)
    at_an_address = lora_lanes * BLOCK
    addresses = -(-len(mant) // at_an_address)
    mant = np.pad(mant, (0, addresses * at_an_address - len(mant))).reshape(addresses, lora_lanes, BLOCK)
    exp = np.pad(exp, (0, addresses * at_an_address // nb - len(exp))).reshape(addresses, lora_lanes, BLOCK // nb)
    yield np.concatenate([mant, exp], axis=-1).view(np.uint8)


def _rows_in_order(names: list[str], rows: int, vector_lanes: int) -> np.ndarray:
    """Order the stacked rows of a step: gate and up alternate, other rows stay."""
    order = np.arange(rows)
    if names[0].endswith(".gate"):
        order = order.reshape(2, -1, vector_lanes).swapaxes(0, 1).reshape(-1)
    return order


def _zeros(fmt: ModelFormat, kind: str, rank: int) -> LoraBlocks:
    (rows, blocks), nb = matrix_shape(fmt, kind), rank_block(rank)
    return LoraBlocks(*(np.zeros(shape, np.int8) for shape in (
        (rank, blocks, BLOCK), (rank, blocks), (rows, rank // nb, nb), (rows, rank // nb))))  # fmt: skip


def _check_lanes(rank: int, lora_lanes: int) -> None:
    _check_rank(rank)
    if lora_lanes < 1 or rank % lora_lanes:
        raise ValueError(f"lora_lanes must divide the rank ({rank}), not be {lora_lanes!r}")


def _check_shapes(adapter: IntegerAdapter, fmt: ModelFormat) -> None:
    for name, blocks in adapter.matrices.items():
        _, layer, kind = name.split(".")
        want = _zeros(fmt, kind, adapter.rank)
        if int(layer) >= fmt.n_layers or any(
            getattr(blocks, part).shape != getattr(want, part).shape for part in LoraBlocks.__dataclass_fields__
        ):
            raise AdapterError(f"the adapter of {name} has another shape than the chip's: pack it for this chip")
