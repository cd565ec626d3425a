"""Files of rows as they are found: what is no row is told of in its
place, and the others are read.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from sc2onnx.batch import json_lines
from sc2onnx.batch.identities import told_apart
from sc2onnx.batch.records import Fields, Record
from sc2onnx.batch.sources import Reader, input_files
from sc2onnx.errors import RequestError

FIELDS = Fields.of(("text",), {})


def records(*paths: Path, fields: Fields = FIELDS) -> list[Record]:
    return list(Reader(input_files(paths, paths[0].parent / "elsewhere" / "out.jsonl"), fields))


def test_rows_have_the_numbers_of_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"id": 7, "text": "a", "other": NaN}\n\n  {"text": "b", "id": null}\r\n'
        b'{"text": "c"}'
    )
    name = path.as_posix()
    assert records(path) == [
        Record(name, 1, 7, {"text": "a"}),
        Record(name, 3, None, {"text": "b"}),
        Record(name, 4, None, {"text": "c"}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": ', "not JSON"),
        (b"[1]", "a list"),
        (b"1" * 5000, "not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"text": "a", "id": [1]}', r"id is \[1\]"),
        (b'{"text": "a", "id": "\\ud800"}', "surrogates"),
        (b'{"text": "a", "id": true}', "id is True"),
        (b'{"text": "a", "id": "' + b"x" * 600 + b'"}', "512 characters"),
        (b'{"text": "' + b"x" * 300 + b'"}', "more than 200 bytes"),
    ],
)
def test_what_is_no_row_is_an_error_in_its_place(
    tmp_path: Path, line: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "200" in message:
        monkeypatch.setattr(json_lines, "MOST_BYTES", 200)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    first, wrong, last = records(tmp_path / "a.jsonl")
    assert wrong.error is not None
    with pytest.raises(RequestError, match=message):
        raise RequestError(wrong.error)
    assert (first.error, last.error, wrong.number, last.fields) == (None, None, 2, {"text": "b"})


def test_lines_that_are_too_long_are_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "MOST_BYTES", 100)
    lines = [b"x" * size for size in (101, 102, 202, 203, 1000)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines, b'{"text": "b"}', b"y" * 500]))
    found = records(tmp_path / "a.jsonl")
    assert [record.number for record in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [record.error is None for record in found] == [False] * 5 + [True, False]


def test_compressed_lines_and_where_they_break_off(tmp_path: Path) -> None:
    data = gzip.compress(
        b"".join(json.dumps({"text": f"{i * 7919}"}).encode() + b"\n" for i in range(20_000))
    )
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "d.jsonl").write_text('{"text": "d"}\n')
    assert [record.fields["text"] for record in records(tmp_path / "a.jsonl.gz")] == [
        f"{i * 7919}" for i in range(20_000)
    ]
    *whole, broken = records(tmp_path / "b.jsonl.gz")
    assert len(whole) > 1000
    assert broken.number == len(whole) + 1
    assert broken.error is not None
    assert "cannot be decompressed" in broken.error
    wrong, after = records(tmp_path / "c.jsonl.gz", tmp_path / "d.jsonl")
    assert (wrong.error is None, after.fields) == (False, {"text": "d"})


def test_a_directory_is_read_in_order_of_its_names(tmp_path: Path) -> None:
    for name in (
        "b.jsonl",
        "a/z.ndjson",
        "a/.hidden.jsonl",
        "_work/x.jsonl",
        "notes.txt",
        "c.JSONL",
    ):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "in" / name).write_text('{"text": "a"}\n')
    names = [
        Path(file.name).relative_to(tmp_path / "in").as_posix()
        for file in input_files([tmp_path / "in"], tmp_path / "out.jsonl")
    ]
    assert names == ["a/z.ndjson", "b.jsonl", "c.JSONL"]
    (tmp_path / "empty").mkdir()
    refusals = {
        tmp_path / "empty": "no file of rows",
        tmp_path / "in" / "notes.txt": "of no kind that is known",
        tmp_path / "absent.jsonl": "no file and no directory",
    }
    for path, message in refusals.items():
        with pytest.raises(RequestError, match=message):
            input_files([path], tmp_path / "out.jsonl")
    with pytest.raises(RequestError, match="choose another place for the output"):
        input_files([tmp_path / "in"], tmp_path / "in" / "out.jsonl")
    with pytest.raises(RequestError, match="given twice"):
        input_files([tmp_path / "in" / "b.jsonl"] * 2, tmp_path / "out.jsonl")


def test_position_is_the_part_that_was_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "' + "a" * 500 + '"}\n' * 1)
    reader = Reader(
        input_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "o.jsonl"), FIELDS
    )
    positions = [reader.position for _ in reader]
    assert positions == [0.5, 1.0]
    assert reader.position == 1


def test_a_file_that_goes_away_ends_the_job(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    reader = Reader(input_files([tmp_path / "a.jsonl"], tmp_path / "o.jsonl"), FIELDS)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(RequestError, match="cannot be read"):
        list(reader)


def test_fields_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "a", "id": 1, "sha": "x"}\n')
    (record,) = records(
        tmp_path / "a.jsonl", fields=Fields.of(("text",), {"text": "content", "id": "sha"})
    )
    assert (record.id, record.fields) == ("x", {"text": "a"})
    (record,) = records(
        tmp_path / "a.jsonl", fields=Fields.of(("text",), {"text": "content", "id": ""})
    )
    assert record.id is None
    with pytest.raises(RequestError, match="--field names 'prompt', expected one of id, text"):
        Fields.of(("text",), {"prompt": "content"})


def test_ids_tell_rows_apart_also_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sc2onnx.batch.identities._FRESH", 16)
    given = [Record("f", number, number % 900) for number in range(1000)]
    found = list(told_apart(given))
    assert [record.error is None for record in found] == [True] * 900 + [False] * 100
    assert "as an earlier row's is" in str(found[-1].error)
    assert [record.number for record in found] == list(range(1000))
    nameless = [Record("f", number) for number in range(20)]
    assert list(told_apart(nameless)) == nameless
