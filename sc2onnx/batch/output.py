"""The output of a job: rows are appended to a working file, whose length at the last checkpoint is
what counts.

Beside ``OUT`` stands ``OUT.job`` with the working file, the checkpoint, the settings and a lock. A
commit waits until the rows are on the disk, then replaces the checkpoint. Whatever ended a job, the
next one cuts the working file to the checkpoint's length and goes on with the row after: what a
killed process, a full disk or a power cut left behind it is computed again. ``OUT`` appears at the
end, whole: a renamed working file, or one made of it for Parquet.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sc2onnx.batch.checkpoint import Checkpoint
from sc2onnx.batch.parquet import needs_pyarrow, write_parquet
from sc2onnx.batch.settings import Settings, check_same, keep, kept
from sc2onnx.batch.sources import PARQUET
from sc2onnx.batch.tasks import Columns
from sc2onnx.bundle.files import lock, sync
from sc2onnx.errors import DiskSpaceError, OutputError, OutputExistsError, Sc2onnxError

_NAMES: Final = (".jsonl", ".ndjson", *PARQUET)

_HELD: Final = 1 << 20
"""Bytes of rows that are kept back before they are written, at most."""


class Output:
    """The rows of a job. For the process that holds its lock (:func:`locked`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = folder_of(path)
        self.checkpoint = self._kept = Checkpoint()
        self._lines = list[bytes]()
        self._held = 0
        self._file: int | None = None
        self._end = 0  # bytes of it that were written whole

    @property
    def _working(self) -> Path:
        return self.folder / "rows.jsonl"

    @property
    def _progress(self) -> Path:
        return self.folder / "progress.json"

    def open(self, settings: Settings, *, restart: bool = False) -> Checkpoint:
        """Begin, or go on where the last job stopped; gives how far that was.

        Raises :class:`~sc2onnx.errors.RequestError` where that had other settings, and
        :class:`OutputError`.
        """
        with self._told():
            place = self.folder / "settings.json"
            before = None if restart else kept(place)
            if before is None:  # the checkpoint goes first: without it nothing is done
                self._progress.unlink(missing_ok=True)
                keep(settings, place)
            else:
                check_same(before, settings)
            self.checkpoint = self._kept = Checkpoint.read(self._progress)
            if self.checkpoint.state == "under way":
                self._open_working()
            sync(self.folder)
        return self.checkpoint

    def _open_working(self) -> None:
        """Open the working file at the end of what counts."""
        self._file = os.open(
            self._working, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644
        )
        there, counted = os.fstat(self._file).st_size, self.checkpoint.nbytes
        if there < counted:
            found = f"{self._working} has {there:,} bytes, {counted:,} were written for good"
            raise OutputError(f"{found}: somebody changed it, begin the job anew (--restart)")
        os.ftruncate(self._file, counted)
        self._end = counted

    def write(self, row: Mapping[str, Any], tokens: int, sums: Mapping[str, float]) -> None:
        """Append a row. Raises :class:`OutputError`."""
        line = json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        self._lines.append(line)
        self._held += len(line)
        self.checkpoint = self.checkpoint.with_row(len(line), tokens, sums, failed="error" in row)
        if self._held >= _HELD:
            with self._told():
                self._flush()

    def _flush(self) -> None:
        assert self._file is not None
        os.lseek(self._file, self._end, os.SEEK_SET)  # the last time may have failed half-way
        data = memoryview(b"".join(self._lines))
        while data:
            data = data[os.write(self._file, data) :]
        self._end += self._held
        self._lines.clear()
        self._held = 0

    def commit(self) -> None:
        """Make the rows so far last. Raises :class:`OutputError`: then
        those of the last commit do.
        """
        if self._file is None or self.checkpoint == self._kept:
            return
        with self._told():
            self._flush()
            os.fsync(self._file)
            self._keep(self.checkpoint)

    def _keep(self, checkpoint: Checkpoint) -> None:
        checkpoint.write(self._progress)
        self.checkpoint = self._kept = checkpoint

    def finish(self, columns: Columns) -> None:
        """All rows are there: give the output its name. Whatever interrupts that, it can be done
        again. Raises :class:`OutputError`.
        """
        self.commit()
        self.close()
        with self._told():
            if self.checkpoint.state == "under way":
                self._keep(self.checkpoint.now("ending"))
            if self.checkpoint.state == "ending":
                self._name(columns)
                self._keep(self.checkpoint.now("done"))
            elif not self.path.exists():
                raise OutputError(
                    f"{self.path} was written whole and is gone: begin the job anew (--restart)"
                )
            self._working.unlink(missing_ok=True)

    def _name(self, columns: Columns) -> None:
        if not self._working.exists():  # it has it
            if not self.path.exists():
                raise OutputError(f"{self._working} is gone: begin the job anew (--restart)")
            return
        if not self.path.name.lower().endswith(PARQUET):
            os.replace(self._working, self.path)
        else:
            made = self.folder / "rows.parquet"
            with self._working.open("rb") as lines, made.open("wb") as file:
                write_parquet(lines, columns, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, self.path)
        sync(self.path.absolute().parent)

    def close(self) -> None:
        """Close the working file; what was not committed is lost."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the system as ours."""
        try:
            yield
        except Sc2onnxError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                found = (
                    f"the disk at {self.folder} took no more after {self._kept.rows:,} "
                    f"rows ({error.strerror})"
                )
                raise DiskSpaceError(
                    f"{found}: make room, and run the same command again to go on"
                ) from error
            found = f"{self.folder} cannot be written to ({error.strerror or error})"
            raise OutputError(f"{found}: choose another place or disk") from error


def folder_of(path: Path) -> Path:
    """Where the state of the job with this output is."""
    return path.with_name(path.name + ".job")


def check_output(path: Path) -> None:
    """Refuse an output that cannot be made, before any work. Raises :class:`OutputError` and
    :class:`~sc2onnx.errors.MissingDependencyError`.
    """
    if not path.name.lower().endswith(_NAMES):
        raise OutputError(f"--output is {path}, expected a name that ends in {', '.join(_NAMES)}")
    if path.name.lower().endswith(PARQUET):
        needs_pyarrow()
    if not path.absolute().parent.is_dir():
        found = f"{path.absolute().parent} is not a directory"
        raise OutputError(f"{found}, expected the place for {path.name}: create it first")
    if path.is_dir() or (path.exists() and not (folder_of(path) / "settings.json").exists()):
        raise OutputExistsError(
            f"{path} exists and is not this job's output: choose another --output, or move it away"
        )


@contextmanager
def locked(path: Path) -> Iterator[Output]:
    """Be the only job with this output; the system opens the lock when its holder dies.

    Raises :class:`OutputError` where another one is at work.
    """
    check_output(path)
    try:
        folder_of(path).mkdir(exist_ok=True)
        handle = os.open(folder_of(path) / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        found = f"{folder_of(path)} cannot be made ({error.strerror})"
        raise OutputError(f"{found}: choose another place for the output") from error
    try:
        try:
            lock(handle, False)
        except OSError as error:
            raise OutputError(
                f"another job is writing {path}: wait for it, or choose another --output"
            ) from error
        output = Output(path)
        try:
            yield output
        finally:
            output.close()
    finally:
        os.close(handle)
