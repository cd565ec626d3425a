from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sc2onnx
from sc2onnx.errors import RequestError
from sc2onnx.evaluate.text import Document, cut, passage, read, shares
from sc2onnx.runtime.text.codec import Codec


@pytest.fixture(scope="module")
def codec(model: sc2onnx.Model) -> Codec:
    return model.codec


@given(size=st.integers(0, 60), length=st.integers(1, 20), most=st.integers(0, 80))
def test_windows_score_each_next_token_once_and_never_more_than_asked(
    size: int, length: int, most: int
) -> None:
    windows = list(cut(range(100, 100 + size), length, most))
    read_tokens = [token for window in windows for token in window.tokens.tolist()]
    scored = [token for window in windows for token in window.following.tolist()]
    expected = max(0, min(size - 1, most))
    assert read_tokens == list(range(100, 100 + expected))
    assert scored == [token + 1 for token in read_tokens]
    assert all(1 <= len(window) <= length for window in windows)
    assert all(len(window) == length for window in windows[:-1])


def test_the_worked_example_of_windows() -> None:
    assert [(w.tokens.tolist(), w.following.tolist()) for w in cut(range(10), 4, 20)] == [
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([4, 5, 6, 7], [5, 6, 7, 8]),
        ([8], [9]),
    ]
    # token 8 has none after it
    assert [w.tokens.tolist() for w in cut(range(9), 4, 20)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@given(sizes=st.lists(st.integers(0, 50), max_size=8), total=st.integers(0, 200))
def test_shares_are_fair_and_use_everything(sizes: list[int], total: int) -> None:
    granted = shares(sizes, total)
    assert sum(granted) == min(total, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(granted, sizes, strict=True))
    cut_short = [share for share, size in zip(granted, sizes, strict=True) if share < size]
    # who got less than all of its own got as much as anyone
    assert not cut_short or max(granted) - min(cut_short) <= 1


def test_shares_of_the_docstring() -> None:
    assert shares([2, 9, 9], 12) == [2, 5, 5]
    assert shares([9, 2, 9], 12) == [5, 2, 5]


@settings(deadline=None)
@given(text=st.text(min_size=1))
def test_bytes_are_those_of_the_scored_text(codec: Codec, text: str) -> None:
    ids = codec.encode(text, special=False)
    if len(ids) < 2:
        return
    found = passage([Document("x", text)], codec, 7, 10_000)
    assert found.positions == len(ids) - 1
    # the first token is never scored
    assert found.nbytes == len(text.encode()) - len(codec.token_bytes(ids[0]))


def test_bytes_are_not_characters(codec: Codec) -> None:
    text = "# Größe 日本語 🙂\nx = 1\n"
    found = passage([Document("x", "\n" + text)], codec, 100, 10_000)
    assert codec.encode("\n" + text, special=False)[0] == codec.encode("\n", special=False)[0]
    assert found.nbytes == len(text.encode()) > len(text)


def test_no_window_crosses_files_and_each_begins_at_its_start(codec: Codec) -> None:
    texts = ["def a():\n    return 1\n", "class B:\n    x = 2\n" * 9]
    ids = [codec.encode(text, special=False) for text in texts]
    found = passage([Document(f"{i}.py", text) for i, text in enumerate(texts)], codec, 16, 40)
    assert found.files == ("0.py", "1.py")
    assert found.positions == 40
    first = (len(ids[0]) - 2) // 16 + 1  # windows of the first file
    assert found.windows[first].tokens.tolist() == ids[1][:16]
    assert [
        token for window in found.windows[:first] for token in window.following.tolist()
    ] == ids[0][1:]


def test_special_tokens_in_a_file_are_its_text(codec: Codec) -> None:
    found = passage([Document("x", "a = '<|endoftext|>'")], codec, 100, 100)
    assert codec.special_id("<|endoftext|>") not in found.windows[0].following


def test_files_that_cannot_be_scored_are_named(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_bytes(b"")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    for name, message in (
        ("empty.py", r"empty\.py is empty"),
        ("latin.py", r"latin\.py is not UTF-8 text \(.* at byte 5\)"),
        ("no.py", "cannot be read"),
    ):
        with pytest.raises(RequestError, match=message):
            read([tmp_path / name])
    with pytest.raises(RequestError, match="there are no files"):
        read([])
    with pytest.raises(RequestError, match="no token that follows another"):
        passage([Document("x", "a")], codec, 10, 10)


def test_line_ends_are_kept(tmp_path: Path) -> None:
    (tmp_path / "dos.py").write_bytes(b"a\r\nb\r\n")
    assert read([tmp_path / "dos.py"]) == [Document("dos.py", "a\r\nb\r\n")]
