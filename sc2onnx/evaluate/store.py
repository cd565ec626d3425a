"""The reference's logits between its turn and the bundles': a temporary file, because
they take 200 kB a position.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final

import numpy as np

from sc2onnx.errors import DiskSpaceError
from sc2onnx.evaluate.measure import Floats

_SPARE: Final = 100_000_000
"""Bytes to leave free on the disk."""


class LogitStore:
    """Float32 rows (vocab,), written once in order and read again in order.
    Half precision would drown KL divergences of 1e-4.

    Written and read as a file, not mapped: a disk that fills up is then an error, where a
    mapping would end the process.
    """

    def __init__(self, file: IO[bytes], vocab: int) -> None:
        self._file, self._vocab = file, vocab

    def write(self, logits: Floats) -> None:
        """Append (n, vocab). Raises :class:`DiskSpaceError` if the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(logits, dtype=np.float32).data.cast("B"))
            self._file.flush()
        except OSError as error:
            raise DiskSpaceError(
                f"the reference's logits could not be written to {_place()} "
                f"({error.strerror}): {_ADVICE}"
            ) from error

    def rewind(self) -> None:
        """Read from the first row again."""
        self._file.seek(0)

    def read(self, count: int) -> Floats:
        """The next rows, (count, vocab)."""
        rows = np.empty((count, self._vocab), dtype=np.float32)
        got = self._file.readinto(rows.data.cast("B"))  # type: ignore[attr-defined]
        assert got == rows.nbytes
        return rows


_ADVICE: Final = "give fewer --score-tokens, or set TMPDIR to a directory on a disk with more room"


@contextmanager
def logit_store(rows: int, vocab: int) -> Iterator[LogitStore]:
    """A store in the directory for temporary files, gone afterwards.
    Raises :class:`DiskSpaceError` unless ``rows`` fit there.
    """
    need, free = rows * vocab * 4, shutil.disk_usage(_place()).free
    if need + _SPARE > free:
        raise DiskSpaceError(
            f"the reference's logits of {rows:,} positions take {need / 1e9:.2f} GB in {_place()}, "
            f"which has {free / 1e9:.2f} GB free: {_ADVICE}"
        )
    file = tempfile.TemporaryFile(prefix="sc2onnx-")  # noqa: SIM115 - closed below
    try:
        yield LogitStore(file, vocab)
    finally:
        with suppress(OSError):  # closing writes what a full disk did not take, and fails once more
            file.close()


def _place() -> str:
    return tempfile.gettempdir()
