"""Open a checkpoint of any format by its path or its known name."""

from pathlib import Path

from weights_to_rom.other_files import other_kind
from weights_to_rom.readers.base import Checkpoint, CheckpointError
from weights_to_rom.readers.gguf_file import GgufCheckpoint
from weights_to_rom.readers.huggingface import HuggingFaceCheckpoint
from weights_to_rom.readers.known_models import KnownModelError, is_known, no_such_model, resolve
from weights_to_rom.readers.llama2c import Llama2cCheckpoint
from weights_to_rom.readers.safetensors_file import SafetensorsError
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.open import read_tokenizer
from weights_to_rom.text.tokenizer import Tokenizer


def open_checkpoint(source: str | Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Open a Hugging Face directory, a ``.gguf`` file, a llama2.c ``.bin`` or a model known by name.

    A directory without a config.json may hold one ``.gguf`` file, which is the model then.

    ``tokenizer`` names a tokenizer that is not where the format puts it: tokenizer.json, tokenizer.model,
    llama2.c's tokenizer.bin, or a directory with one of the first two.  The names, shapes and file
    offsets of all tensors are checked here, their values when they are read.

    Raises CheckpointError.
    """
    path = Path(source)
    try:
        if not path.exists():
            if not is_known(str(source)):
                raise CheckpointError(no_such_model(source))
            path = resolve(str(source))
        given = None if tokenizer is None else read_tokenizer(Path(tokenizer))
        return _open(path, given)
    except (KnownModelError, TokenizerError, SafetensorsError) as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror or error}") from None


def _open(path: Path, tokenizer: Tokenizer | None) -> Checkpoint:
    if path.is_dir():
        inside = sorted(path.glob("*.gguf"))
        if len(inside) == 1 and not (path / "config.json").exists():
            return GgufCheckpoint(inside[0], tokenizer)
        return HuggingFaceCheckpoint(path, tokenizer)
    if not path.is_file():
        raise CheckpointError(f"{path}: neither a file nor a directory")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"GGUF" or path.suffix == ".gguf":
        return GgufCheckpoint(path, tokenizer)
    if path.suffix in (".safetensors", ".json"):
        if (path.parent / "adapter_config.json").is_file() and path.stem.startswith("adapter_"):
            raise CheckpointError(f"{path}: a part of a LoRA adapter: give its base model, and {path.parent} with --adapter")
        raise CheckpointError(f"{path}: give the directory that holds it, together with its config.json")
    if kind := other_kind(path, text=path.suffix != ".bin"):
        raise CheckpointError(f"{path}: {kind}")
    if path.suffix == ".bin":
        return Llama2cCheckpoint(path, tokenizer)
    raise CheckpointError(f"{path}: not a Hugging Face directory, a .gguf file or a llama2.c .bin")
