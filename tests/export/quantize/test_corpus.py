"""The text that calibration reads: how it is cut, whose it is, and what is said
of text that will not do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from sc2onnx.errors import RequestError, TokenizerError
from sc2onnx.export.quantize import corpus
from sc2onnx.export.quantize.corpus import DEFAULT_TOKENS, LENGTH, CalibrationText, read

Write = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(
        str(Path(__file__).parents[3] / "examples" / "starcoder2-mini" / "tokenizer.json")
    )


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def code() -> str:
    """Lines that all differ."""
    return "".join(
        f"def function_{number}(value):\n    return value * {number * 17 % 1009}\n\n\n"
        for number in range(200)
    )


def test_windows_are_the_text_in_order(
    checkpoint: Path, tokenizer: Tokenizer, write: Write, code: str
) -> None:
    path = write("code.py", code)
    ids = tokenizer.encode(code, add_special_tokens=False).ids
    found = read(checkpoint, [path], 1 << 20, 2048, None)
    assert found.windows.dtype == np.int64
    assert found.windows.shape == (len(ids) // LENGTH, LENGTH)
    assert found.windows.reshape(-1).tolist() == ids[: found.windows.size]
    assert found.description.startswith(f"{found.windows.size} tokens of 1 file (SHA-256 ")


def test_files_are_joined_by_the_separator(
    checkpoint: Path, tokenizer: Tokenizer, write: Write, code: str
) -> None:
    files = [
        write("a.py", code),
        write("b.py", code[: len(code) // 2]),
        write("c.py", "x = 1\n" * 300),
    ]
    ids = [
        token
        for path in files
        for token in [*tokenizer.encode(path.read_text(), add_special_tokens=False).ids, 7]
    ]
    found = read(checkpoint, files, 1 << 20, 2048, 7).windows.reshape(-1)
    assert found.tolist() == ids[: len(found)]
    assert (found == 7).sum() >= 2


@pytest.mark.parametrize(
    ("tokens", "count"), [(1, 1), (2 * LENGTH - 1, 1), (2 * LENGTH, 2), (5 * LENGTH + 3, 5)]
)
def test_as_many_windows_as_are_asked_for_from_the_whole_text(
    checkpoint: Path, write: Write, code: str, tokens: int, count: int
) -> None:
    path = write("code.py", code)
    every = read(checkpoint, [path], 1 << 20, 2048, 0).windows
    assert len(every) > 6
    found = read(checkpoint, [path], tokens, 2048, 0).windows
    assert found.shape == (count, LENGTH)
    places = [
        next(place for place, window in enumerate(every) if np.array_equal(window, taken))
        for taken in found
    ]
    assert places == sorted(set(places))
    assert places[0] == 0
    assert count == 1 or places[-1] == len(every) - 1


class Counting:
    """A tokenizer that keeps what it is given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.texts = tokenizer, list[str]()

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        self.texts.append(text)
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("files", [1, 5000])
def test_of_long_texts_pieces_are_tokenised_from_the_whole(
    checkpoint: Path,
    tokenizer: Tokenizer,
    write: Write,
    files: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4 million characters, in one file and in many."""
    lines = [f"value_{number} = {number * 17 % 1009}\n".ljust(40, "#") for number in range(100_000)]
    step = len(lines) // files
    paths = [
        write(f"{first}.py", "".join(lines[first : first + step]))
        for first in range(0, len(lines), step)
    ]
    counting = Counting(tokenizer)
    monkeypatch.setattr(corpus, "tokenizer_of", lambda _: counting)
    found = read(checkpoint, paths, 8 * LENGTH, 2048, 0)
    given = sum(map(len, counting.texts))
    assert 0.99 * corpus.ENOUGH < given < 1.01 * corpus.ENOUGH
    assert max(map(len, counting.texts)) <= corpus.PIECE
    assert found.windows.shape == (8, LENGTH)
    numbers = [
        int(re.findall(r"value_(\d+) =", tokenizer.decode(window.tolist()))[0])
        for window in found.windows
    ]
    np.testing.assert_allclose(numbers, np.linspace(0, len(lines), 8), atol=2000)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
    assert (
        found.description
        == f"{8 * LENGTH} tokens of {files} file{'s' if files > 1 else ''} (SHA-256 {digest})"
    )


def test_the_packages_own_text_is_tokenised_whole() -> None:
    texts = list(corpus.packaged_texts())
    assert list(corpus.evenly_spread(texts, corpus.ENOUGH)) == texts


def test_no_window_is_longer_than_the_context(checkpoint: Path, write: Write, code: str) -> None:
    assert read(checkpoint, [write("code.py", code)], 128, 64, None).windows.shape == (2, 64)


def test_a_sample_is_spread_over_the_text() -> None:
    text = CalibrationText(np.repeat(np.arange(9)[:, None], 4, axis=1), "")
    assert text.sample(12)[:, 0].tolist() == [0, 4, 8]
    assert text.sample(3)[:, 0].tolist() == [0]
    assert text.sample(1000)[:, 0].tolist() == list(range(9))


def test_special_tokens_are_read_as_such(
    checkpoint: Path, tokenizer: Tokenizer, write: Write, code: str
) -> None:
    """Calibration on infilling needs the tokens that mark its parts, not the
    letters they are written with.
    """
    found = read(
        checkpoint,
        [write("code.py", "<fim_prefix>a<fim_suffix>b<fim_middle>c<|endoftext|>" + code)],
        LENGTH,
        2048,
        None,
    ).windows[0]
    marks = [
        tokenizer.token_to_id(name)
        for name in ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>")
    ]
    assert None not in marks
    assert found[[0, 2, 4, 6]].tolist() == marks


def test_the_packages_own_text(checkpoint: Path, tokenizer: Tokenizer) -> None:
    """Many languages, infilling, and enough of it; every file in use, no two the same."""
    files = list((resources.files("sc2onnx.export.quantize") / "corpus").iterdir())
    texts = {entry.name: entry.read_text(encoding="utf-8") for entry in files}
    assert len(set(texts.values())) == len(texts) >= 30
    for ending in (
        "py.txt",
        "js.txt",
        "go.txt",
        "rs.txt",
        "java.txt",
        "c.txt",
        "md.txt",
        "sql.txt",
    ):
        assert any(name.endswith(ending) for name in texts)
    total = sum(
        len(tokenizer.encode(text, add_special_tokens=False).ids) + 1 for text in texts.values()
    )
    found = read(checkpoint, None, 1 << 20, 2048, 0)
    assert found.windows.size == total // LENGTH * LENGTH >= DEFAULT_TOKENS
    assert {
        tokenizer.token_to_id(name) for name in ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    } < set(found.windows.reshape(-1).tolist())
    assert "code shipped with sc2onnx" in found.description


def test_the_description_tells_texts_apart(checkpoint: Path, write: Write, code: str) -> None:
    one, other = (
        read(checkpoint, [write("code.py", text)], LENGTH, 2048, None)
        for text in (code, code + "#")
    )
    assert np.array_equal(one.windows, other.windows)
    assert one.description != other.description


def test_a_tokenizer_that_would_truncate_does_not(
    tmp_path: Path, checkpoint: Path, write: Write, code: str
) -> None:
    settings = json.loads((checkpoint / "tokenizer.json").read_text())
    settings["truncation"] = {
        "direction": "Right",
        "max_length": 100,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    write("tokenizer.json", json.dumps(settings))
    path = write("code.py", code)
    np.testing.assert_array_equal(
        read(tmp_path, [path], 1 << 20, 2048, 0).windows,
        read(checkpoint, [path], 1 << 20, 2048, 0).windows,
    )


def test_texts_that_will_not_do(checkpoint: Path, tmp_path: Path, write: Write) -> None:
    with pytest.raises(RequestError, match=r"absent\.py cannot be read \(No such file"):
        read(checkpoint, [tmp_path / "absent.py"], LENGTH, 2048, None)
    with pytest.raises(RequestError, match="cannot be read"):
        read(checkpoint, [tmp_path], LENGTH, 2048, None)
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    with pytest.raises(RequestError, match=r"latin\.py is not UTF-8 text .* at byte 5"):
        read(checkpoint, [tmp_path / "latin.py"], LENGTH, 2048, None)
    with pytest.raises(RequestError, match=rf"has \d tokens, expected {LENGTH} at least"):
        read(checkpoint, [write("short.py", "x = 1\n")], LENGTH, 2048, None)
    with pytest.raises(RequestError, match="has 0 tokens"):
        read(checkpoint, [write("empty.py", "")], LENGTH, 2048, None)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\0"])
def test_tokenizers_that_will_not_do(tmp_path: Path, content: str, write: Write) -> None:
    with pytest.raises(
        RequestError,
        match=(
            r"no tokenizer\.json, which calibration needs to read text: add it, or "
            r"pass --no-calibration"
        ),
    ):
        read(tmp_path, None, LENGTH, 2048, None)
    write("tokenizer.json", content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json .*pass --no-calibration"):
        read(tmp_path, None, LENGTH, 2048, None)
