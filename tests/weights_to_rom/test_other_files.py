"""Files that are something else are named as what they are, in every place where a file is read."""

import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest

from tests.support.checkpoints import SHAPE, write_gguf, write_hugging_face
from weights_to_rom.adapters.peft import AdapterError, open_peft
from weights_to_rom.errors import HardwireError
from weights_to_rom.other_files import other_kind
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    return data.getvalue()


KINDS = {
    "a git-lfs pointer, not the file itself: run `git lfs pull`": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
    "a zip archive, as PyTorch writes it: only safetensors": zipped(),
    "a pickle, as old releases of PyTorch write it": pickle.dumps({"model.norm.weight": list(range(100))}, 2),
    "a GGJT file of the time before GGUF: convert": b"tjgg\3\0\0\0" + bytes(100),
    "a GGML file of the time before GGUF": b"lmgg" + bytes(100),
    "a web page, not the file itself: download it again": b"<!DOCTYPE html><html><body>404</body></html>",
    "compressed by gzip: unpack it": gzip.compress(b"x" * 100),
    "a text that begins 'Entry not found": b"Entry not found, or no access to this repository",
}
GIVEN = ["model/model.safetensors", "model.gguf", "model.bin", "model/tokenizer.model", "model/config.json", "model/tokenizer.json"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GIVEN)
def test_a_file_of_another_kind_is_named(tmp_path, name, kind):
    write_hugging_face(tmp_path / "model")
    write_gguf(tmp_path / "model.gguf")
    path = tmp_path / name
    path.write_bytes(KINDS[kind])
    text = name.endswith(".json") and "a text" in kind
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path.parent if path.parent != tmp_path else path)
    assert str(caught.value).startswith(f"{path}: not " if text else f"{path}: {kind}")


@pytest.mark.parametrize("data", [b"", b"{}", b"short", b"\x0a\x0e\x0a\x05", b"GGU", bytes(64)])
def test_other_beginnings_are_of_no_known_kind(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    assert other_kind(tmp_path / "file") is None


def test_a_safetensors_header_as_long_as_a_pickle_begins(tmp_path):
    """0x0280 bytes: the file begins as a pickle of protocol 2 does."""
    tensors = write_hugging_face(tmp_path / "model", SHAPE)
    path = tmp_path / "model" / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].ljust(0x10280)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert path.read_bytes().startswith(b"\x80\x02")
    assert np.array_equal(open_checkpoint(tmp_path / "model").tensor("norm"), tensors["model.norm.weight"])


def test_an_adapter_given_as_a_model_and_a_model_given_as_an_adapter(tmp_path):
    write_hugging_face(tmp_path / "model")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(bytes(8))
    with pytest.raises(CheckpointError, match=r"adapter: config\.json is missing: a LoRA adapter, not a model: .*--adapter"):
        open_checkpoint(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: a part of a LoRA adapter"):
        open_checkpoint(tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"model: a model, not an adapter .*: give it as MODEL"):
        open_peft(tmp_path / "model", SHAPE)
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: a file: give the folder that peft wrote"):
        open_peft(tmp_path / "adapter" / "adapter_model.safetensors", SHAPE)


def test_a_folder_with_one_gguf_file_is_that_model(tmp_path):
    (tmp_path / "folder").mkdir()
    write_gguf(tmp_path / "folder" / "a.gguf")
    assert open_checkpoint(tmp_path / "folder").source == str(tmp_path / "folder" / "a.gguf")
    write_gguf(tmp_path / "folder" / "b.gguf")
    with pytest.raises(CheckpointError, match=r"the folder holds several models: give one of them, such as .*/a\.gguf"):
        open_checkpoint(tmp_path / "folder")


def test_other_folders_are_named(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "params.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"a model in Meta's own format: convert it"):
        open_checkpoint(tmp_path / "meta")
    write_hugging_face(tmp_path / "inner")
    (tmp_path / "hub" / "snapshots").mkdir(parents=True)
    (tmp_path / "inner").rename(tmp_path / "hub" / "snapshots" / "0a1b")
    with pytest.raises(CheckpointError, match=r"give the folder inside: .*snapshots/0a1b"):
        open_checkpoint(tmp_path / "hub")
    weights = tmp_path / "hub" / "snapshots" / "0a1b" / "model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: a link to a file that is gone"):
        open_checkpoint(weights.parent)


def test_errors_are_hardwires():
    assert issubclass(CheckpointError, HardwireError) and issubclass(AdapterError, HardwireError)
