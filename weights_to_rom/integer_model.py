"""The integer model: every integer a chip contains, in one safetensors file.

The golden model and the hardware are built from it and from nothing else.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from weights_to_rom.errors import HardwireError
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.projections import LINEARS
from weights_to_rom.quantise.blocks import QuantisedMatrix
from weights_to_rom.tensor_file import save_tensors

KIND = "hardwire integer model 1"

PARTS = ("q", "d", "m", "e", "k")
"""The names of a matrix' arrays in the file, in the order of ``QuantisedMatrix.parts``."""


class IntegerModelError(HardwireError):
    """The file of an integer model cannot be used.  The message says why in one line."""


@dataclass(frozen=True)
class Norm:
    """The integer constants of one norm (docs/arithmetic.md, rmsnorm).

    gain * sqrt(dim) = gain_q * 2**gain_exp        eps_q = dim * eps * 4**residual_shift, LSB 2**-24
    """

    gain_q: np.ndarray  # int16[dim_padded]
    gain_exp: int
    eps_q: int


@dataclass(frozen=True)
class IntegerModel:
    """Matrices and norms by canonical name (``LlamaConfig.tensor_shapes``), padded as docs/arithmetic.md says.

    ``freq_q`` holds the turns that each pair of RoPE makes a position, LSB 2**-32.  The chip's residual is the checkpoint's
    times 2**``residual_shift``.  ``report`` counts the blocks that ``compile.quantise_checkpoint`` kept and changed.
    """

    format: ModelFormat
    matrices: Mapping[str, QuantisedMatrix]
    norms: Mapping[str, Norm]
    freq_q: np.ndarray  # uint32[head_dim // 2]
    residual_shift: int
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    report: dict = field(default_factory=dict)

    @property
    def head(self) -> QuantisedMatrix:
        """The LM head: the embedding, if the model is tied."""
        return self.matrices["embed" if self.format.tied else "head"]

    def parameters(self) -> int:
        """Count the weights of the checkpoint, without padding."""
        f = self.format
        layer = f.dim * f.head_dim * (f.n_heads + f.n_kv_heads) * 2 + 3 * f.dim * f.ffn_dim + 2 * f.dim
        return f.n_layers * layer + f.dim + f.vocab_size * f.dim * (1 if f.tied else 2)

    def save(self, path: Path) -> None:
        """Write the file.  It takes its name when it is complete, so that no reader meets half a file."""
        tensors: dict[str, np.ndarray] = {"rope.freq_q": self.freq_q}
        for name, matrix in self.matrices.items():
            tensors |= {f"{name}.{part}": values for part, values in zip(PARTS, matrix.parts, strict=True)}
        for name, norm in self.norms.items():
            tensors[f"{name}.g_q"] = norm.gain_q
            tensors[f"{name}.ge"] = np.array([norm.gain_exp], np.int8)
            tensors[f"{name}.eps_q"] = np.array([norm.eps_q], np.uint32)
        about = {
            "kind": KIND,
            "format": self.format.as_dict(),
            "residual_shift": self.residual_shift,
            "eos_token_ids": self.eos_token_ids,
            "bos_token_id": self.bos_token_id,
            "bits": {name: matrix.bits for name, matrix in self.matrices.items()},
            "report": self.report,
        }
        # All in one entry, because safetensors writes several entries in an order that changes from file to file.
        save_tensors(path, tensors, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> "IntegerModel":
        """Read a file that ``save`` wrote.

        Raises IntegerModelError if it is missing, truncated or of another kind.
        """
        try:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                if about.get("kind") != KIND:
                    raise IntegerModelError(f"{path}: is not a {KIND!r} file")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no dict)
        except (OSError, SafetensorError) as error:
            raise IntegerModelError(f"{path}: cannot be read as an integer model ({error})") from error
        matrices = {
            name: QuantisedMatrix(*(tensors[f"{name}.{part}"] for part in PARTS), bits=bits) for name, bits in about["bits"].items()
        }
        norms = {
            name.removesuffix(".g_q"): Norm(
                tensors[name], int(tensors[name.replace(".g_q", ".ge")][0]), int(tensors[name.replace(".g_q", ".eps_q")][0])
            )
            for name in tensors
            if name.endswith(".g_q")
        }
        return cls(
            ModelFormat(**about["format"]),
            matrices,
            norms,
            tensors["rope.freq_q"],
            about["residual_shift"],
            tuple(about["eos_token_ids"]),
            about["bos_token_id"],
            about["report"],
        )


def matrix_names(fmt: ModelFormat) -> Iterator[str]:
    """Canonical names of the matrices, in the order in which the data flows."""
    yield "embed"
    for i in range(fmt.n_layers):
        for kind in LINEARS:
            yield f"layers.{i}.{kind}"
    if not fmt.tied:
        yield "head"
