"""Files that are replaced after they were checked, and before they were
opened, are not computed with.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.loading import Place
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort.kernels import usable
from sc2onnx.runtime.ort.packing import make
from sc2onnx.runtime.ort.session import Session

PROMPT = "def fib(n):"


@pytest.fixture
def copy(int8_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8_bundle, tmp_path / "copy"))


@pytest.fixture
def before_opening(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """``before_opening(act)``: what happens after everything was checked."""

    def arrange(act: Callable[[], object]) -> None:
        opened = Place.session

        def session(place: Place, *arguments: Any, **keywords: Any) -> Session:
            act()
            return opened(place, *arguments, **keywords)

        monkeypatch.setattr(Place, "session", session)

    return arrange


EPSILON = struct.pack("<f", 1e-5), struct.pack("<f", 1.0)


def replaced(path: Path, old: bytes, new: bytes) -> None:
    """Another file of the same name, size and time, in which some bytes are others."""
    data, status = path.read_bytes(), path.stat()
    assert old in data
    (path.parent / "new").write_bytes(data.replace(old, new))
    os.utime(path.parent / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(path.parent / "new", path)


@pytest.mark.parametrize(
    ("name", "change"), [("model.onnx", EPSILON), ("model.onnx.data", (b"\x80\x80", b"\x80\x81"))]
)
def test_a_bundle_that_changes_while_it_is_loaded(
    copy: Path, before_opening: Any, name: str, change: tuple[bytes, bytes]
) -> None:
    before_opening(lambda: replaced(copy / name, *change))
    with pytest.raises(
        BundleIntegrityError, match=rf"{name} changed after it was checked: load the bundle again"
    ):
        sc2onnx.load(copy, packed="off", kernels="off")


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("name", "change"),
    [("model.kernels.onnx", EPSILON), ("model.onnx.data", (b"\x80\x80", b"\x80\x81"))],
)
def test_a_bundle_that_changes_while_it_is_loaded_for_the_kernels(
    copy: Path, before_opening: Any, name: str, change: tuple[bytes, bytes]
) -> None:
    before_opening(lambda: replaced(copy / name, *change))
    with pytest.raises(
        BundleIntegrityError, match=rf"{name} changed after it was checked: load the bundle again"
    ):
        sc2onnx.load(copy, packed="off", kernels="on")


def test_the_same_bytes_in_another_file_are_no_change(copy: Path, before_opening: Any) -> None:
    def again() -> None:
        shutil.copy2(copy / "model.onnx", copy / "new")
        os.replace(copy / "new", copy / "model.onnx")

    before_opening(again)
    sc2onnx.load(copy, packed="off")


@pytest.mark.kernels
def test_a_packed_form_that_changes_while_it_is_loaded_is_dropped(
    copy: Path, before_opening: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SC2ONNX_CACHE", str(tmp_path / "cache"))
    opened = Bundle.open(copy)
    kernels = usable("on", opened.manifest)
    assert kernels is not None
    form = make(opened, kernels)
    assert sc2onnx.load(copy).packed
    expected = sc2onnx.load(copy, packed="off").generate(PROMPT, max_new_tokens=8)
    todo = [lambda: replaced(form.data, form.data.read_bytes()[-64:], bytes(64))]
    before_opening(lambda: todo.pop()() if todo else None)
    model = sc2onnx.load(copy)
    assert not todo
    assert not model.packed
    assert not form.directory.exists()
    assert model.generate(PROMPT, max_new_tokens=8) == expected


def test_a_tokenizer_that_is_another_when_text_is_first_asked_for(copy: Path) -> None:
    model = sc2onnx.load(copy)
    path = copy / "tokenizer.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"\\n', b'"\\t', 1) if b'"\\n' in data else data + b"\n")
    with pytest.raises(BundleIntegrityError, match=r"tokenizer\.json changed after it was checked"):
        model.generate(PROMPT, max_new_tokens=1)
