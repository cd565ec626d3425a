"""The local cache of packed weights: where a packed form lies, whether it is
whole, which ones are kept.

A packed form is a directory (:mod:`sc2onnx.runtime.ort.packed_form`). Every byte is checked
before use. Writers hold the one lock, make a form under a name that begins with a dot, and rename
it when it is whole; readers need no lock. Making one is for
:mod:`sc2onnx.runtime.ort.packing`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle.directories import cache_directory, make_directory
from sc2onnx.bundle.files import lock, sync
from sc2onnx.bundle.trust import check_directories, check_file, is_link
from sc2onnx.errors import OutputError, RequestError
from sc2onnx.runtime.opening.stamps import Memo, Stamp
from sc2onnx.runtime.ort.packed_form import DATA, DEAD, ENTRY, Entry, PackedForm

DEFAULT_LIMIT: Final = 16_000_000_000
"""Of all packed forms together: a 15B model in int4 (8 GB) beside a few
smaller ones (3B: 1.8 GB).
"""

_RETRY_SECONDS: Final = 3600

_DRAFT: Final = ".draft-"
_NAME: Final = re.compile("[0-9a-f]{32}")


def limit() -> int:
    """Bytes that all packed forms may take: ``SC2ONNX_PACKED_BYTES``, 0 for none.
    Raises :class:`RequestError`.
    """
    chosen = os.environ.get("SC2ONNX_PACKED_BYTES", "")
    if not chosen:
        return DEFAULT_LIMIT
    if not chosen.isdecimal():
        raise RequestError(
            f"SC2ONNX_PACKED_BYTES is {chosen!r}, expected a number of bytes, 0 to "
            "keep no packed weights"
        )
    return int(chosen)


@dataclass(frozen=True, slots=True)
class PackedCache:
    """All packed forms of a user. Everything but :meth:`find` and :meth:`forms` is for the
    holder of the lock, or says so.
    """

    directory: Path
    limit: int

    @classmethod
    def open(cls) -> PackedCache:
        """Raises :class:`OutputError` where there is no home, and
        :class:`RequestError` for an impossible limit.
        """
        return cls(cache_directory() / "packed", limit())

    def find(self, name: str) -> PackedForm | None:
        """The packed form of this key if it is whole; whatever else is in its place goes away.

        Needs no lock. In a cache that somebody else could write to nothing is found or removed.
        """
        form = PackedForm(self.directory / name)
        try:
            self.check()
        except OSError:
            return None
        if not os.path.lexists(form.directory):
            return None
        stamp = _checked(self.directory, name)
        if stamp is None:
            form.discard()
            return None
        with suppress(OSError):  # in a directory that cannot be written nothing is removed either
            os.utime(form.directory / ENTRY)
        return PackedForm(form.directory, stamp)

    def check(self) -> None:
        """Raise :class:`OSError` where the cache is missing, or somebody else could write to it."""
        check_directories(self.directory.parent, self.directory.name)

    def prepare(self) -> None:
        """Make its directory if need be. Raises :class:`OSError`, also as :meth:`check`."""
        make_directory(self.directory)
        self.check()

    def forms(self) -> list[PackedForm]:
        """Those that are there, whatever they were made for, the least recently used first.
        Needs no lock.
        """
        found = []
        with suppress(OSError):
            for entry in sorted(self.directory.iterdir()):
                with suppress(OSError):  # another process may be removing it
                    if _NAME.fullmatch(entry.name) and _is_form(entry):
                        found.append((PackedForm(entry).used, entry))
        return [PackedForm(entry) for _, entry in sorted(found)]

    def due(self, name: str) -> bool:
        """Whether to try to make this one now; then nobody else is told so within the hour.
        Needs no lock.

        It may have come into place since the caller looked for it: then there is nothing to make. A
        failure, whatever it was, would be one at every load otherwise. Raises :class:`OSError` for
        a directory that cannot be written, or as :meth:`check`.
        """
        self.prepare()
        note = self._note(name)
        with suppress(FileNotFoundError):
            if 0 <= time.time() - note.lstat().st_mtime < _RETRY_SECONDS:
                return False
            note.unlink()
        try:
            note.open("x").close()
        except FileExistsError:  # another process was quicker
            return False
        if self.find(name) is None:
            return True
        note.unlink(missing_ok=True)
        return False

    @contextmanager
    def locked(self, *, wait: bool) -> Iterator[None]:
        """Be the only writer. The operating system opens the lock when its holder dies.

        Raises :class:`OutputError` if there is another one and ``wait`` is false, and
        :class:`OSError`, also as :meth:`check`.
        """
        self.prepare()
        path = self.directory / ".lock"
        if is_link(path):
            path.unlink()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            try:
                lock(handle, wait)
            except (BlockingIOError, PermissionError) as error:
                raise OutputError(
                    f"another process is writing to {self.directory}: try again when it is done"
                ) from error
            yield
        finally:
            os.close(handle)

    def sweep(self) -> None:
        """Remove what dead writers left, and what is in the place of a packed form but is none."""
        for entry in self.directory.iterdir():
            no_form = _NAME.fullmatch(entry.name) and not _is_form(entry)
            if no_form or entry.name.startswith((_DRAFT, DEAD)):
                _remove(entry)

    def sweep_if_idle(self) -> None:
        """The same where something was left and no writer is at work.
        Needs no lock; never fails.
        """
        with suppress(OSError):
            if any(entry.name.startswith((_DRAFT, DEAD)) for entry in self.directory.iterdir()):
                with self.locked(wait=False):
                    self.sweep()

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """A new directory to write in, gone afterwards."""
        directory = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.directory))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def keep(self, draft: Path, made_from: Sequence[str], layout: int) -> PackedForm:
        """Make a packed form of a draft that has its data.

        Others are removed, the least recently used first, to stay within the limit. ``made_from``,
        ``layout``: as in :class:`Entry`. Raises :class:`OutputError` and :class:`OSError`.
        """
        _settle(draft / DATA)
        memo = Memo(draft)
        files: dict[str, list[Any]] = {DATA: [(draft / DATA).stat().st_size, memo.digest(DATA)]}
        entry = Entry.of(made_from, layout, files)
        form = PackedForm(self.directory / entry.key)
        (draft / ENTRY).write_text(json.dumps(asdict(entry), indent=2) + "\n", encoding="utf-8")
        _settle(draft / ENTRY)
        draft.chmod(self.directory.stat().st_mode & 0o755)  # temporary ones are their owner's alone
        sync(draft)
        self.make_room(PackedForm(draft).nbytes)
        if os.path.lexists(form.directory):
            form.discard()
        os.rename(draft, form.directory)
        sync(self.directory)
        self._note(form.directory.name).unlink(missing_ok=True)
        replace(memo, directory=form.directory).save()
        return form

    def make_room(self, nbytes: int) -> None:
        """Remove packed forms, the least recently used first, until so many more bytes are within
        the limit. Raises :class:`OutputError`.
        """
        if nbytes > self.limit:
            raise OutputError(
                f"the packed weights are {nbytes:,} bytes, all of them together may be "
                f"{self.limit:,}: set SC2ONNX_PACKED_BYTES to more to keep them"
            )
        forms = self.forms()
        taken = sum(form.nbytes for form in forms)
        for form in forms:
            if taken + nbytes <= self.limit:
                break
            taken -= form.nbytes
            form.discard()

    def _note(self, name: str) -> Path:
        return self.directory / f".{name}.tried"


def _checked(cache: Path, name: str) -> Stamp | None:
    """The stamp of the data; None unless these were written for this key, by nobody else."""
    directory = cache / name
    try:
        check_directories(cache.parent, cache.name, name)
        check_file(directory / ENTRY)
        stamp = Stamp.of(check_file(directory / DATA))
        entry, memo = Entry.read(directory), Memo.open(directory)
        size, digest = entry.files[DATA]
        if entry.key != name or stamp.size != size or memo.digest(DATA, digest) != digest:
            return None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    memo.save()
    return stamp


def _is_form(entry: Path) -> bool:
    return not is_link(entry) and os.path.lexists(entry / ENTRY)


def _remove(entry: Path) -> None:
    """Remove whatever it is; of a link, the link. Never fails."""
    with suppress(OSError):
        if is_link(entry) or not entry.is_dir():
            entry.unlink()
        else:
            shutil.rmtree(entry, ignore_errors=True)


def _settle(file: Path) -> None:
    """Let nobody else write to a file, whatever the umask, and wait until it is on the disk."""
    file.chmod(file.stat().st_mode & 0o755)
    sync(file)
