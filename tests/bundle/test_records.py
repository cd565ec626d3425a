"""JSON from strangers: what is refused before anything uses it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sc2onnx.bundle.records import parse, read


def test_a_plain_object_comes_back_as_json_reads_it() -> None:
    text = (
        '{"a": [1, -2.5, true, null, "\\u00e9\\ud83d\\ude00"], "b": {"c": '
        "1000000000000000019884624838656}}"
    )
    assert parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting"),
        (b"[1]", "it holds a list, expected an object"),
        (b"null", "it holds a NoneType"),
        (b"\xff\xfe{}", "can't decode"),
        (b"\xef\xbb\xbf{}", "it begins with a byte order mark, save it as UTF-8 without one"),
        (b'{"a": 1, "b": 2, "a": 3}', "it has the key 'a' twice"),
        (b'{"a": {"b": 1, "b": 1}}', "it has the key 'b' twice"),
        (b'{"a": NaN}', "it has NaN"),
        (b'{"a": -Infinity}', "it has -Infinity"),
        (b'{"a": 1e400}', "it has the number 1e400, which is not finite"),
        (b'{"a": ' + b"9" * 41 + b"}", "it has an integer of 41 digits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it has an integer of 5000 digits"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "it is nested deeper than 64"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "it is nested deeper than 64"),
        (b'{"a":' * 200_000, "it is nested deeper than 64"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
    ],
)
def test_what_the_code_behind_it_would_stumble_over_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_63_levels_below_the_object_are_taken() -> None:
    assert parse(b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}")["a"]


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": "' + b"x" * 91 + b'"}')
    assert len(read(path, 100)["a"]) == 91
    with pytest.raises(ValueError, match="more than 99 bytes"):
        read(path, 99)


def test_a_key_twice_among_very_many_is_found_at_once() -> None:
    keys = [f'"{number}": 0' for number in range(200_000)]
    began = time.process_time()
    with pytest.raises(ValueError, match=r"it has the key '199999' twice"):
        parse(f"{{{', '.join([*keys, keys[-1]])}}}".encode())
    assert time.process_time() - began < 5
