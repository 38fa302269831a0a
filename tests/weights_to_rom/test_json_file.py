"""One JSON object a file, and the caller's own error for anything else."""

import pytest

from weights_to_rom.errors import HardwireError
from weights_to_rom.json_file import read_json_object


class OwnError(HardwireError):
    pass


def test_reads_an_object(tmp_path):
    (tmp_path / "a.json").write_text('{"é": [1, null]}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json", OwnError) == {"é": [1, None]}
    (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json_object(tmp_path / "a.json", OwnError) == {"a": "😀"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON: "),
        (b'{"a": ', "not JSON: "),
        (b'{"a": "\xff"}', "not JSON: "),
        (b'{"a": "\\ud83d"}', "not JSON: .*surrogates not allowed"),
        (b'{"a": ["\\uDE00\\uD83D"]}', "not JSON: .*surrogates not allowed"),
        (b"[1]", "not a JSON object$"),
        (b"null", "not a JSON object$"),
    ],
)
def test_refuses(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(OwnError, match=rf"a\.json: {message}"):
        read_json_object(tmp_path / "a.json", OwnError)
