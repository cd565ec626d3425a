"""Makes packed forms: the weights of a bundle as the kernels of ``sc2onnx-kernels`` read
them, kept for the next load.

Without one the kernels pack when they are loaded, into memory of the process's own. A packed
form is mapped instead: its pages are shared by processes and given back under pressure. What
lies in it is computed with as it is, so a form is named by the bytes that were read when it
was made, every byte of it is checked before use, and it is used only for a bundle that is
known to have those bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sc2onnx.bundle import records
from sc2onnx.bundle.contract import WEIGHTS_FILE
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import DiskSpaceError, OutputError, Sc2onnxError
from sc2onnx.runtime.limits import processors
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.opening.onnx_graph import MOST_BYTES, read_graph
from sc2onnx.runtime.opening.stamps import Memo, Stamp
from sc2onnx.runtime.ort import packed_file
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.kernels import Kernels, usable
from sc2onnx.runtime.ort.packed_cache import PackedCache
from sc2onnx.runtime.ort.packed_file import Contents, Matrix, matrices
from sc2onnx.runtime.ort.packed_form import DATA, PackedForm, key
from sc2onnx.runtime.ort.session import Session

Packed = Literal["auto", "now", "off"]
"""``auto`` uses packed weights where they are kept, and otherwise has a background process of low
priority make them for the next time, if the weights are large; ``now`` makes them first and
waits; ``off`` does neither.
"""

WORTHWHILE: Final = 64_000_000
"""Bytes of weights from which ``auto`` makes packed ones: below, packing takes less
time than a person notices.
"""


def find(bundle: Bundle, kernels: Kernels) -> PackedForm | None:
    """The packed form of a bundle's weights, if it is kept and whole.
    Never fails for what the cache is like.

    None also for a bundle opened with ``check="size"``, unless it is known what is in its files.
    """
    cache = _cache()
    made_from = _established(bundle) if cache else None
    return cache.find(key(made_from, kernels.layout)) if cache and made_from else None


def make(
    bundle: Bundle, kernels: Kernels, threads: int | None = None, *, wait: bool = True
) -> PackedForm:
    """The same, made if need be. Returns when it is on the disk.

    Of a bundle opened with ``check="size"`` the files are read: the form is for what is in them.
    ``threads`` pack, by default one per processor. ``wait``: for another process that is making
    one. Raises :class:`OutputError`, :class:`DiskSpaceError` and
    :class:`~sc2onnx.errors.InferenceError`.
    """
    cache = PackedCache.open()
    try:
        with cache.locked(wait=wait):
            cache.sweep()
            made_from = _established(bundle) or _Source.read(bundle).digests
            return cache.find(key(made_from, kernels.layout)) or _Maker(
                bundle, kernels, threads or processors()
            ).make(cache, made_from)
    except OutputError:
        raise
    except ValueError as error:
        raise OutputError(
            f"the weights of {bundle.directory} cannot be packed ({error}): export the bundle again"
        ) from error
    except OSError as error:
        raise OutputError(
            f"packed weights cannot be kept in {cache.directory} ({error}): set "
            "SC2ONNX_CACHE to another directory"
        ) from error


def make_in_background(bundle: Bundle, kernels: Kernels) -> None:
    """Start a process that makes it, unless it is not worthwhile, cannot be, or was tried within
    the hour. Never fails, never waits.

    A process, not a thread: it can be slow without slowing this one.
    """
    cache = _cache()
    if cache is None or not _python():
        return
    with suppress(OSError):
        if not WORTHWHILE <= bundle.weights.stat().st_size <= cache.limit:
            return
        cache.sweep_if_idle()
        made_from = _established(bundle) or ["unread", bundle.manifest.files[WEIGHTS_FILE].sha256]
        if cache.due(key(made_from, kernels.layout)):
            process = start_process(
                [sys.executable, "-P", "-m", __name__, str(bundle.directory.resolve())]
            )
            # else it stays behind as a zombie
            threading.Thread(target=process.wait, name="sc2onnx-packing", daemon=True).start()


def start_process(command: list[str]) -> subprocess.Popen[bytes]:
    """A process with this one's modules that outlives it, and that no terminal's Ctrl-C reaches."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    nothing = subprocess.DEVNULL
    # our own
    return subprocess.Popen(  # noqa: S603
        command,
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
        env=environment,
    )


def _python() -> bool:
    """Whether ``sys.executable`` runs modules: in an application with Python inside
    it may be the application.
    """
    return not getattr(sys, "frozen", False) and Path(sys.executable or "").name.lower().startswith(
        ("python", "pypy")
    )


def _cache() -> PackedCache | None:
    try:
        cache = PackedCache.open()
    except OutputError:  # no home
        return None
    return cache if cache.limit else None


def _packed_files(manifest: Manifest) -> tuple[str, ...]:
    """The files that a packed form is made from."""
    return (*manifest.kernel_graphs, WEIGHTS_FILE)


def _established(bundle: Bundle) -> list[str] | None:
    """The digests of a bundle's graphs and weights as opening it found them;
    None if they are not known.

    ``check="size"`` reads nothing: then they are if large files were hashed
    before and are unchanged.
    """
    names = _packed_files(bundle.manifest)
    if bundle.digests:
        return [bundle.digests[name] for name in names]
    memo = Memo.open(bundle.directory)
    with suppress(OSError):
        known = [memo.known(name) for name in names]
        return [digest for digest in known if digest] if all(known) else None
    return None


@dataclass(frozen=True, slots=True)
class _Source:
    """What is packed: the digests of its files, all of them read, and the files' stamps."""

    digests: list[str]
    stamps: list[Stamp]

    @classmethod
    def read(cls, bundle: Bundle) -> _Source:
        """Raises :class:`OSError`."""
        memo, names = Memo.open(bundle.directory), _packed_files(bundle.manifest)
        stamps = [Stamp.at(bundle.directory / name) for name in names]
        digests = [memo.digest(name) for name in names]
        memo.save()
        return cls(digests, stamps)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Packs one bundle."""

    bundle: Bundle
    kernels: Kernels
    threads: int

    def make(self, cache: PackedCache, expected: Sequence[str]) -> PackedForm:
        """``expected``: digests of what is to be packed.
        Other files, and those that change, are not.
        """
        before = _Source.read(self.bundle)
        if before.digests != list(expected):
            raise OutputError(
                f"{self.bundle.directory} changed after it was checked: load it again"
            )
        found = matrices(
            read_graph(records.contents(graph, MOST_BYTES)) for graph in self.bundle.kernel_graphs
        )
        size = Contents.of(found, self.kernels).end
        cache.make_room(size)  # better known before than after
        check_room(cache.directory, size)
        with cache.draft() as draft:
            self._write(draft / DATA, found)
            devices = (Device(),) * len(self.bundle.kernel_graphs)
            # whole, or it raises
            Session(self.bundle, 1, devices, kernels=self.kernels, packed=draft / DATA)
            if _Source.read(self.bundle) != before:
                raise OutputError(
                    f"{self.bundle.directory} changed while it was packed: load it again"
                )
            return cache.keep(draft, before.digests, self.kernels.layout)

    def _write(self, path: Path, found: Sequence[Matrix]) -> None:
        with self.bundle.weights.open("rb") as weights, path.open("wb") as file:
            packed_file.write(file, weights, found, self.kernels, self.threads)


def check_room(directory: Path, size: int) -> None:
    """Raise :class:`DiskSpaceError` if the disk is too small for a packed form."""
    free = shutil.disk_usage(directory).free
    if free < size + _SPARE:
        raise DiskSpaceError(
            f"the packed weights are {size:,} bytes, {directory} has {free:,} free: make room, or "
            "choose another directory with SC2ONNX_CACHE"
        )


_SPARE: Final = 64_000_000
"""Bytes of a disk that are left to others."""


def main(directory: str) -> None:
    """What the background process runs."""
    with suppress(Sc2onnxError, OSError, ValueError):
        bundle = Bundle.open(directory)
        if kernels := usable("on", bundle.manifest):
            make(bundle, kernels, 1, wait=False)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(19)
    main(sys.argv[1])
