"""An index of directories, from its file to what it tells of a text."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc2onnx.attribution import Index, Match, Rules, Source
from sc2onnx.attribution.storage import digest_of
from sc2onnx.errors import OutputError, RequestError, Sc2onnxError
from tests.conftest import ROOT

CODE = (ROOT / "sc2onnx" / "bundle" / "files.py").read_text(encoding="utf-8")
LINES = CODE.splitlines(keepends=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two projects, one of which says under which licence it is."""
    root = tmp_path_factory.mktemp("sources")
    (root / "one" / "src").mkdir(parents=True)
    (root / "one" / "LICENSE").write_text("MIT License\n")
    (root / "one" / "src" / "files.py").write_text(CODE)
    (root / "two").mkdir()
    declared = "# SPDX-License-Identifier: Apache-2.0 OR MIT\n\n"
    (root / "two" / "copy.py").write_text(declared + "".join(LINES[20:60]))
    return root


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build([folder], tmp_path_factory.mktemp("index") / "sources.index")


def test_a_copy_is_told_of_with_its_places_and_licences(index: Index, folder: Path) -> None:
    text = "x = 1\n" + "".join(LINES[30:50]) + "y = 2\n"
    (match,) = index.matches(text)
    assert text[match.begin : match.end] == "".join(LINES[30:50]).strip()
    one = Source(f"{folder}/one/src/files.py", 31, 50, None, licence_file=f"{folder}/one/LICENSE")
    two = Source(f"{folder}/two/copy.py", 13, 32, "Apache-2.0 OR MIT")
    assert match.sources == (one, two)
    assert (match.file, match.line, match.places) == (one.file, 31, 2)
    assert match.told.endswith(
        f"repeat {folder}/one/src/files.py, lines 31-50 (licence: {folder}/one/LICENSE); "
        f"{folder}/two/copy.py, lines 13-32 (licence: Apache-2.0 OR MIT)"
    )


def test_the_longest_stretch_is_told_of_and_its_sources_alone(index: Index) -> None:
    (match,) = index.matches("".join(LINES[15:70]))
    assert [source.line for source in match.sources] == [16]
    assert match.places == 1


def test_a_copy_with_other_white_space_is_one(index: Index) -> None:
    code = "".join(LINES[30:50])
    for text in (textwrap.indent(code, "\t\t"), " ".join(code.split()), code.replace("\n", "\r\n")):
        (match,) = index.matches(text)
        assert match.length == index.matches(code)[0].length
        assert (match.begin, match.end) == (len(text) - len(text.lstrip()), len(text.rstrip()))


def test_characters_are_counted_and_not_bytes(index: Index) -> None:
    before = "# é€🙂 \ud800\n"
    text = before + "".join(LINES[30:50])
    (match,) = index.matches(text)
    assert text[match.begin : match.end] == "".join(LINES[30:50]).strip()


def test_what_stands_in_the_prompt_is_nobodys(index: Index) -> None:
    text = "".join(LINES[30:50])
    assert index.matches(text, prompts=["other", f"before {text} after"]) == []
    assert len(index.matches(text, prompts=["".join(LINES[:29])])) == 1
    assert index.matches(text, prompts=["".join(LINES[:49])]) == []  # but for a line


def test_what_stands_in_many_files_does_not_count(folder: Path, tmp_path: Path) -> None:
    header = "".join(LINES[30:50])
    for number in range(4):
        (tmp_path / f"{number}.py").write_text(f"{header}\nname_{number} = {number}\n")
    index = Index.build([tmp_path], tmp_path / "i")
    assert index.matches(header, rules=Rules(most_files=3)) == []
    (match,) = index.matches(header, rules=Rules(most_files=4, most_sources=3))
    assert (match.places, len(match.sources)) == (4, 3)
    assert match.told.endswith("; and 1 more")
    with_own = f"{header}\nname_2 = 2\n"
    assert index.matches(with_own, rules=Rules(most_files=3)) == []
    assert len(index.matches(with_own, rules=Rules(most_files=None))) == 1


def test_short_texts_and_tables_are_no_repetition(tmp_path: Path) -> None:
    table = "rows = [" + "0, 1, 2, " * 40 + "]\n"
    (tmp_path / "table.py").write_text(table)
    index = Index.build([tmp_path], tmp_path / "i")
    assert index.matches(table) == []
    for text in ("", " \n", "x", "import os\n"):
        assert index.matches(text) == []


def test_an_index_is_opened_again_and_replaced_whole(index: Index, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(index.path, copy)
    again, text = Index.open(copy), "".join(LINES[30:50])
    assert len(again) == len(index) == 3  # with the licence
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "other.py").write_text("a = 1\n")
    other = Index.build([tmp_path / "x"], copy)
    assert again.matches(text) == index.matches(text) != other.matches(text)
    assert sorted(os.listdir(tmp_path)) == ["copy", "x"]


def test_nothing_is_left_where_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="there is no text in"):
        Index.build([tmp_path / "empty"], tmp_path / "i")
    with pytest.raises(RequestError, match="is not there, expected a directory"):
        Index.build([tmp_path / "missing"], tmp_path / "i")
    with pytest.raises(OutputError, match="cannot be written"):
        Index.build([ROOT / "docs"], tmp_path / "missing" / "i")
    assert os.listdir(tmp_path) == ["empty"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_file_that_was_changed_is_refused(index: Index, data: st.DataObject) -> None:
    whole = bytearray(index.path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    whole[at] ^= bit
    changed = index.path.with_name("changed")
    changed.write_bytes(whole)
    try:
        found = Index.open(changed)
    except RequestError:
        return
    assert at < 4096  # in what fills the header up
    assert found.matches(CODE) == index.matches(CODE)


@pytest.mark.parametrize("length", [0, 1, 100, 4095, 4096, 5000, -1])
def test_a_file_that_was_cut_is_refused(index: Index, length: int) -> None:
    cut = index.path.with_name("cut")
    cut.write_bytes(index.path.read_bytes()[:length])
    with pytest.raises(RequestError, match=r"is no index of sources|is not as it was written"):
        Index.open(cut)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "of another version of sc2onnx, expected format 1"),
        ({"gram": 15}, "of another version"),
        ({"kind": "other"}, "is no index of sources"),
        ({"arrays": {}}, "not as it was written"),
        ({"arrays": []}, "is no index of sources"),
    ],
)
def test_a_header_that_is_none_is_refused(
    index: Index, change: dict[str, object], told: str
) -> None:
    data, copy = index.path.read_bytes(), index.path.with_name("headed")
    changed = with_header(data, copy, lambda header: header.update(change))
    with pytest.raises(RequestError, match=told):
        Index.open(changed)


@pytest.mark.parametrize("name", ["codes", "keys", "places", "texts", "line_lexemes", "lines"])
@pytest.mark.parametrize("place", [[0, 10**15], [-64, 4], [4096, 3], [2**70, 1], ["a", 1], None])
def test_arrays_that_are_elsewhere_are_refused(index: Index, name: str, place: object) -> None:
    """A digest is no proof: whoever makes a file can write a right one."""

    def moved(header: dict[str, Any]) -> None:
        header["arrays"][name] = place

    with pytest.raises(RequestError, match="not as it was written"):
        Index.open(with_header(index.path.read_bytes(), index.path.with_name("moved"), moved))


def with_header(data: bytes, copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A file of an index with another header, and the digest that belongs to it."""
    header = json.loads(data[:4096].rstrip(b"\0"))
    header.pop("sha256")
    change(header)
    header["sha256"] = digest_of(data, header)
    copy.write_bytes(json.dumps(header).encode().ljust(4095) + b"\0" + data[4096:])
    return copy


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_hostile_file_with_a_right_digest_ends_in_an_answer(
    index: Index, data: st.DataObject
) -> None:
    """It is refused, or says something: no place is outside of an array."""
    whole = bytearray(index.path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = 4 * data.draw(st.integers(1024, len(whole) // 4 - 1))
        value = data.draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1]) | st.integers(0, 2**20))
        whole[at : at + 4] = value.to_bytes(4, "little")
    hostile = with_header(bytes(whole), index.path.with_name("hostile"), lambda header: None)
    try:
        found = Index.open(hostile).matches(CODE)
    except Sc2onnxError:
        return
    assert all(isinstance(match, Match) for match in found)
