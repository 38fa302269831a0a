"""Files that are not what their name says: pointers of git-lfs, PyTorch's archives, web pages, and other kinds."""

from pathlib import Path

from weights_to_rom.errors import HardwireError

_PYTORCH = "only safetensors are read, because a pickle runs code: save the model again with safe_serialization=True"
_OLD = "convert the original model to GGUF with a current llama.cpp"
_PACKED = "unpack it first"

# The first bytes of a file, and a description that ends in the remedy.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs.github.com/", "a git-lfs pointer, not the file itself: run `git lfs pull` in its folder"),
    (b"PK\x03\x04", f"a zip archive, as PyTorch writes it: {_PYTORCH}"),
    *((bytes([0x80, version]), f"a pickle, as old releases of PyTorch write it: {_PYTORCH}") for version in range(2, 6)),
    (b"lmgg", f"a GGML file of the time before GGUF: {_OLD}"),
    (b"fmgg", f"a GGMF file of the time before GGUF: {_OLD}"),
    (b"tjgg", f"a GGJT file of the time before GGUF: {_OLD}"),
    (b"algg", f"a GGLA adapter of the time before GGUF: {_OLD}"),
    (b"GGUF", "a GGUF file: give it as the model itself, with a name that ends in .gguf"),
    (b"\x93NUMPY", "a numpy array, not a model"),
    (b"\x89HDF", "an HDF5 file: convert it to safetensors"),
    (b"\x1f\x8b", f"compressed by gzip: {_PACKED}"),
    (b"BZh", f"compressed by bzip2: {_PACKED}"),
    (b"\xfd7zXZ", f"compressed by xz: {_PACKED}"),
    (b"\x28\xb5\x2f\xfd", f"compressed by zstd: {_PACKED}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_PACKED}"),
    (b"<!DOCTYPE", "a web page, not the file itself: download it again"),
    (b"<!doctype", "a web page, not the file itself: download it again"),
    (b"<html", "a web page, not the file itself: download it again"),
)


def other_kind(path: Path, *, text: bool = False) -> str | None:
    """Say which other kind of file ``path`` is by its first bytes, or None if they are of no kind that is known here.

    ``text`` says that the right file is a text; otherwise a text is another kind.
    """
    with path.open("rb") as file:
        head = file.read(64)
    for beginning, description in _BEGINNINGS:
        if head.startswith(beginning):
            return description
    start = head[:20]
    if not text and len(start) >= 8 and all(0x20 <= byte < 0x7F or byte in b"\r\n\t" for byte in start):
        return f"a text that begins {start.decode('ascii')!r}, not the file itself"
    return None


def refuse_other_kind(path: Path, error: type[HardwireError], *, text: bool = False) -> None:
    """Raise ``error``, which names the file and the remedy, if ``other_kind`` knows the file."""
    if kind := other_kind(path, text=text):
        raise error(f"{path}: {kind}")
