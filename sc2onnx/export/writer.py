"""The only writer of bundles: temporary sibling, fsync, rename.
A bundle appears whole or not at all.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir
from filelock import FileLock, Timeout

from sc2onnx.bundle.contract import CARD_FILE, MANIFEST_FILE, WEIGHTS_FILE
from sc2onnx.bundle.entries import FileEntry
from sc2onnx.errors import DiskSpaceError, OutputError, OutputExistsError, Sc2onnxError
from sc2onnx.export.weights import LazyWeight

Buffer: TypeAlias = bytes | memoryview

PAGE: Final = 4096
"""Weights of a page or more start on a page, so that a runtime can map each on its own."""

_SMALL_ALIGNMENT: Final = 64
_SLACK: Final = 32 << 20
"""Room asked for beside the weights: graph, tokenizer, file system overhead."""

_LOCK: Final = ".lock"


def place(weights: Iterable[LazyWeight]) -> tuple[dict[str, ir.ExternalTensor], int]:
    """Where each weight will lie in the data file, decided from shapes alone, and
    the file's size in bytes.
    """
    placed: dict[str, ir.ExternalTensor] = {}
    end = 0
    for weight in weights:
        if weight.shares is not None:
            placed[weight.name] = _external(weight, placed[weight.shares].offset or 0)
            continue
        start = -(-end // (unit := PAGE if weight.nbytes >= PAGE else _SMALL_ALIGNMENT)) * unit
        placed[weight.name] = _external(weight, start)
        end = start + weight.nbytes
    return placed, end


def _external(weight: LazyWeight, offset: int) -> ir.ExternalTensor:
    dtype = ir.DataType.from_numpy(weight.dtype)
    return ir.ExternalTensor(
        WEIGHTS_FILE, offset, weight.nbytes, dtype, shape=ir.Shape(weight.shape), name=weight.name
    )


def clean_up(out: Path) -> None:
    """Undo what a killed export to the same path left: remove its partial bundle, put back
    the bundle it was replacing.

    Nothing is touched while another export to this path is at work.
    """
    name = glob.escape(out.name)
    for partial in out.parent.glob(f".{name}.partial-*"):
        try:
            with FileLock(partial / _LOCK, timeout=0):
                shutil.rmtree(partial, ignore_errors=True)
        except (Timeout, OSError):
            return
    for aside in out.parent.glob(f".{name}.replaced-*"):
        if os.path.lexists(out):
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with suppress(OSError):  # another export may be doing the same
                aside.rename(out)


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse an output path that is taken, before any work.
    ``overwrite`` replaces a bundle, and nothing else.
    """
    if not out.parent.is_dir():
        raise OutputError(
            f"{out.parent} is not a directory, expected the place to make "
            f"{out.name} in: create it first"
        )
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise OutputExistsError(
            f"{out} exists: choose another path, or pass --overwrite (overwrite=True) to "
            "replace the bundle there"
        )
    if (
        not out.is_dir()
        or out.is_symlink()
        or (any(out.iterdir()) and not (out / MANIFEST_FILE).is_file())
    ):
        raise OutputExistsError(
            f"{out} exists and is not a bundle, so it is not overwritten: choose another "
            "path, or remove it yourself"
        )


def space_needed(nbytes: int) -> int:
    """Bytes that must be free for a bundle with a data file of ``nbytes``."""
    return nbytes + _SLACK


def check_space(out: Path, nbytes: int) -> None:
    """Raise :class:`DiskSpaceError` unless a bundle with a data file of ``nbytes``
    fits beside what is there.
    """
    free, needed = shutil.disk_usage(out.parent).free, space_needed(nbytes)
    if free < needed:
        raise DiskSpaceError(
            f"the bundle needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free at "
            f"{out.parent}: free some space, choose another disk, or a smaller precision"
        )


@dataclass(slots=True)
class BundleWriter:
    """Files of a bundle in the making; :attr:`files` has the size and digest
    of each one written so far.
    """

    directory: Path
    files: dict[str, FileEntry] = field(default_factory=dict)

    def file(self, name: str, data: bytes) -> None:
        """Write one small file."""
        self._write(name, [data])

    def weights(
        self,
        weights: Mapping[str, LazyWeight],
        placed: Mapping[str, ir.ExternalTensor],
        advance: Callable[[int], None],
    ) -> None:
        """Stream every weight to its place; ``advance`` is told the bytes as they go out."""
        self._write(WEIGHTS_FILE, _data(weights, placed, advance))

    def graph(self, name: str, model: ir.Model) -> None:
        """Write a graph, its weights referring to the data file."""
        self.file(name, ir.to_proto(model).SerializeToString(deterministic=True))

    def _write(self, name: str, blocks: Iterable[Buffer]) -> None:
        digest, size = hashlib.sha256(), 0
        with (self.directory / name).open("xb") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
                size += len(block)
            file.flush()
            os.fsync(file.fileno())
        # people edit the card, and the manifest cannot contain itself
        if name not in (CARD_FILE, MANIFEST_FILE):
            self.files[name] = FileEntry(size, digest.hexdigest())


@contextmanager
def new_bundle(out: Path, overwrite: bool) -> Iterator[BundleWriter]:
    """A writer whose files become ``out`` when the block ends well, and vanish when it does not.

    A lock inside tells other processes that this one is at work (see :func:`clean_up`).
    """
    partial = out.parent / f".{out.name}.partial-{secrets.token_hex(4)}"
    try:  # first of all: a signal may end the process after any line
        try:
            partial.mkdir()
        except OSError as error:
            raise OutputError(
                f"cannot write in {out.parent} ({error.strerror}): choose another path"
            ) from error
        with FileLock(partial / _LOCK):
            yield BundleWriter(partial)
            check_output(out, overwrite)  # again: much may have happened meanwhile
            _replace(partial, out)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskSpaceError(
                f"the disk at {out.parent} filled up while writing {out.name}: free some "
                "space and export again"
            ) from error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and os.path.lexists(out):
            raise OutputExistsError(
                f"{out} appeared while its bundle was being written: remove it, "
                "or choose another path"
            ) from error
        if isinstance(error, Sc2onnxError):
            raise
        raise OutputError(
            f"{out} cannot be written ({error.strerror or error}): choose another path or disk"
        ) from error
    finally:
        _remove(partial)


def _data(
    weights: Mapping[str, LazyWeight],
    placed: Mapping[str, ir.ExternalTensor],
    advance: Callable[[int], None],
) -> Iterator[Buffer]:
    end = 0
    for name, tensor in placed.items():
        if weights[name].shares is not None:
            continue
        start = tensor.offset or 0
        yield bytes(start - end)
        end = start
        for rows in weights[name].chunks():
            advance(rows.nbytes)
            end += rows.nbytes
            yield rows.view(np.uint8).reshape(-1).data
        assert end == start + weights[name].nbytes, (
            f"{name} yielded {end - start} bytes, not {weights[name].nbytes}"
        )


def _replace(partial: Path, out: Path) -> None:
    """Rename into place; an old bundle steps aside first and comes back if that fails."""
    _sync(partial)
    aside = out.parent / f".{out.name}.replaced-{secrets.token_hex(4)}"
    try:  # a signal may end the process after any line
        try:
            if out.exists():
                out.rename(aside)
            partial.rename(out)
        except BaseException:
            if aside.exists() and partial.exists():
                aside.rename(out)
            raise
        finally:
            if not partial.exists():
                # only now: without it another export would take the directory for a dead one's
                (out / _LOCK).unlink(missing_ok=True)
        _sync(out.parent)
    finally:
        if not partial.exists():  # the new one is in place
            _remove(aside)


def _remove(directory: Path) -> None:
    """Remove it, if it is there, also where a signal ends the process meanwhile."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _sync(directory: Path) -> None:
    """Make renames in a directory durable, where the system lets a directory be opened."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            with suppress(OSError):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
