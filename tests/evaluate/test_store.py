from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sc2onnx.errors import DiskSpaceError
from sc2onnx.evaluate.store import LogitStore, logit_store


def test_what_is_written_is_read_bit_for_bit_as_often_as_wanted_and_in_other_pieces() -> None:
    rows = np.random.default_rng(1).standard_normal((10, 33)).astype(np.float32)
    with logit_store(10, 33) as store:
        for part in (rows[:4], rows[4:5], rows[5:]):
            store.write(part)
        for _ in range(2):
            store.rewind()
            read = np.concatenate([store.read(7), store.read(3)])
            assert np.array_equal(read, rows)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with logit_store(1, 4) as store:
        store.write(np.ones((1, 4), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        pytest.raises(
            DiskSpaceError,
            match=r"positions take 1966080\.00 GB in .*: give fewer --score-tokens, or set TMPDIR",
        ),
        logit_store(10**10, 49152),
    ):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_says_what_to_do() -> None:
    with (
        pytest.raises(DiskSpaceError, match=r"No space left.*--score-tokens"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        LogitStore(full, 4).write(np.ones((1, 4), np.float32))
