"""Makes packed forms: has onnxruntime pack the weights of a bundle, and keeps what is worth keeping of what it writes.

onnxruntime saves an optimised graph with its weights and, between them, what its kernels made of them. The weights are in the
bundle already, so only the rest is kept, and the graph says where each lies. At load onnxruntime packs every weight once
more, looks the result up by its digest among all that the graph lists, compares the bytes, and takes the mapped ones in its
place: what another processor or version packed is not found, what was damaged is refused, and neither is computed with.
That comparison does not cover what is copied beside them, nor the graph. So a packed form is named
by the bytes that were read when it was made, and used only for a bundle that is known to have those.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from mmap import ACCESS_READ, ALLOCATIONGRANULARITY, mmap
from pathlib import Path
from typing import BinaryIO, Final, Literal

from sc2onnx.errors import DiskSpaceError, InferenceError, OutputError, RequestError, Sc2onnxError
from sc2onnx.manifest import GRAPH_FILE, WEIGHTS_FILE, Manifest
from sc2onnx.runtime.bundle import Bundle
from sc2onnx.runtime.memory import available
from sc2onnx.runtime.prepacked import DATA, GRAPH, IN_BUNDLE, IN_CACHE, PackedCache, PackedForm, key, processor
from sc2onnx.runtime.session import Session, Substitute, build, save_packed
from sc2onnx.runtime.stamps import Memo, Stamp
from sc2onnx.runtime.wire import Place, places, with_places

Packed = Literal["auto", "now", "off"]
"""``auto`` uses packed weights where they are kept, and otherwise has a background process of low priority make them for the
next time, if the weights are large; ``now`` makes them first and waits; ``off`` does neither."""

WORTHWHILE: Final = 64_000_000
"""Bytes of weights from which ``auto`` makes packed ones: below, packing takes less time than a person notices."""

_PREPACKED: Final = "prepacked_"
_PACKED_FILES: Final = (GRAPH_FILE, WEIGHTS_FILE)


def check_packed(packed: str) -> None:
    """Raise :class:`RequestError` unless it is one of :data:`Packed`."""
    if packed not in ("auto", "now", "off"):
        raise RequestError(f"packed is {packed!r}, expected 'auto', 'now' or 'off'")


def find(bundle: Bundle) -> PackedForm | None:
    """The packed form of a bundle's weights, if it is kept and whole. Never fails for what the cache is like.

    None also for a bundle opened with ``check="size"``, unless it is known what is in its files.
    """
    cache = _cache(bundle)
    made_from = _established(bundle) if cache else None
    return cache.find(key(made_from, _made_for())) if cache and made_from else None


def make(bundle: Bundle, *, wait: bool = True) -> PackedForm | None:
    """The same, made if need be; None for float weights, which run as they are. Returns when it is on the disk.

    Of a bundle opened with ``check="size"`` the files are read: the form is for what is in them.
    ``wait``: for another process that is making one. Raises :class:`OutputError`, :class:`DiskSpaceError` and
    :class:`~sc2onnx.errors.InferenceError`.
    """
    if not packable(bundle.manifest):
        return None
    cache = PackedCache.open()
    try:
        with cache.locked(wait=wait):
            cache.sweep()
            made_from = _established(bundle) or _Source.read(bundle).digests
            return cache.find(key(made_from, _made_for())) or _write(bundle, cache, made_from)
    except OutputError:
        raise
    except (ValueError, KeyError) as error:
        raise OutputError(f"{build()} saved {bundle.graphs[0]} in a form that this version does not know ({error!r}): upgrade sc2onnx") from error
    except OSError as error:
        raise OutputError(f"packed weights cannot be kept in {cache.directory} ({error}): set SC2ONNX_CACHE to another directory") from error


def packable(manifest: Manifest) -> bool:
    """Whether ONNX Runtime packs its weights on the CPU, all of them for one graph."""
    return manifest.quantization is not None and manifest.target != "cuda" and not manifest.stages


def make_in_background(bundle: Bundle) -> None:
    """Start a process that makes it, unless it is not worthwhile, cannot be, or was tried within the hour. Never fails, never waits.

    A process, not a thread: its memory goes back when it is done, and it can be slow without slowing this one.
    """
    cache = _cache(bundle)
    if cache is None or not _python():
        return
    with suppress(OSError):
        if not WORTHWHILE <= bundle.weights.stat().st_size <= cache.limit:
            return
        cache.sweep_if_idle()
        made_from = _established(bundle) or ["unread", bundle.manifest.files[WEIGHTS_FILE].sha256]
        if cache.due(key(made_from, _made_for())):
            process = _start([sys.executable, "-P", "-m", __name__, str(bundle.directory.resolve())])
            threading.Thread(target=process.wait, name="sc2onnx-packing", daemon=True).start()  # else it stays behind as a zombie


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """A process with this one's modules that outlives it, and that no terminal's Ctrl-C reaches."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, env=environment)  # noqa: S603  # our own


def _python() -> bool:
    """Whether ``sys.executable`` runs modules: in an application with Python inside it may be the application."""
    return not getattr(sys, "frozen", False) and Path(sys.executable or "").name.lower().startswith(("python", "pypy"))


def _cache(bundle: Bundle) -> PackedCache | None:
    if not packable(bundle.manifest):
        return None
    try:
        cache = PackedCache.open()
    except OutputError:  # no home
        return None
    return cache if cache.limit else None


def _made_for() -> list[str]:
    """What packed weights fit: a build of onnxruntime, and a processor."""
    return [build(), *processor()]


def _established(bundle: Bundle) -> list[str] | None:
    """The digests of a bundle's graph and weights as opening it found them; None if they are not known.

    ``check="size"`` reads nothing: then they are if large files were hashed before and are unchanged.
    """
    if bundle.digests:
        return [bundle.digests[name] for name in _PACKED_FILES]
    memo = Memo.open(bundle.directory)
    with suppress(OSError):
        known = [memo.known(name) for name in _PACKED_FILES]
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
        memo = Memo.open(bundle.directory)
        stamps = [Stamp.at(bundle.directory / name) for name in _PACKED_FILES]
        digests = [memo.digest(name) for name in _PACKED_FILES]
        memo.save()
        return cls(digests, stamps)


def _write(bundle: Bundle, cache: PackedCache, expected: Sequence[str]) -> PackedForm:
    """``expected``: digests of what is to be packed. Other files, and those that change, are not."""
    weights = bundle.weights.stat().st_size
    cache.make_room(weights)  # about what it will be: better known before than after
    _check_room(cache.directory, weights)
    before = _Source.read(bundle)
    if before.digests != list(expected):
        raise OutputError(f"{bundle.directory} changed after it was checked: load it again")
    with cache.draft() as draft:
        saved = draft / "saved"
        saved.mkdir()
        _save(bundle.graphs[0], saved, weights)
        _split(bundle, saved, draft)
        shutil.rmtree(saved)
        source = PackedForm(draft).graph(bundle.weights)
        Session(bundle, 1, instead=[Substitute(*source, optimised=True)])  # whole, or it raises
        if _Source.read(bundle) != before:
            raise OutputError(f"{bundle.directory} changed while it was packed: load it again")
        return cache.keep(draft, before.digests, _made_for())


def _save(graph: Path, directory: Path, weights: int) -> None:
    """Have onnxruntime write a graph and its ``weights`` bytes, packed.

    A full disk is to it what a bad graph is. Raises :class:`DiskSpaceError`, :class:`InferenceError`.
    """
    try:
        save_packed(graph, directory / GRAPH_FILE, WEIGHTS_FILE)
    except InferenceError as error:
        if (free := shutil.disk_usage(directory).free) >= weights:
            raise
        raise DiskSpaceError(
            f"the disk of {directory.parent.parent} filled up while {weights:,} bytes of weights were "
            f"packed, {free:,} are free: make room, or choose another directory with SC2ONNX_CACHE"
        ) from error


def _check_room(directory: Path, weights: int) -> None:
    """Raise :class:`DiskSpaceError` or :class:`OutputError` if the disk or the memory is too small for making a packed form.

    onnxruntime writes the weights twice, as they are and packed, the latter are then copied; and it packs into private memory.
    """
    free, memory = shutil.disk_usage(directory).free, available()
    if free < 4 * weights:
        raise DiskSpaceError(
            f"packing the weights takes {4 * weights:,} bytes of disk for a moment, {directory} has {free:,} free: "
            "make room, or choose another directory with SC2ONNX_CACHE"
        )
    if memory is not None and memory < 2 * weights:
        raise OutputError(f"packing the weights takes {2 * weights:,} bytes of memory, {memory:,} are free: try again when there is more")


def _split(bundle: Bundle, saved: Path, into: Path) -> None:
    """What onnxruntime saved -> graph and data of a packed form, which refer to the bundle's file for what is in it.

    All packed weights are listed with one initializer, as what is listed with it must be in its own file.
    """
    graph = (saved / GRAPH_FILE).read_bytes()
    theirs, ours = places(graph), places(bundle.graphs[0].read_bytes())
    with _mapped(saved / WEIGHTS_FILE) as copy, _mapped(bundle.weights) as original, (into / DATA).open("wb") as file:
        data = _Data(copy, file)
        same = {name for name, place in theirs.items() if name in ours and _bytes(copy, place) == _bytes(original, ours[name])}
        carrier = min(theirs, key=lambda name: (name in same, int(theirs[name]["length"])))
        moved = {name: data.tensor(place) for name, place in theirs.items() if name not in same or name == carrier}
        moved |= {name: {**_plain(ours[name]), "location": IN_BUNDLE} for name in same - {carrier}}
        packed = [value for place in theirs.values() for entry, value in place.items() if entry.startswith(_PREPACKED)]
        if not packed:
            raise OutputError(f"onnxruntime packed no weight of {bundle.graphs[0]}: there is nothing to keep")
        moved[carrier] = {**moved[carrier], **{f"{_PREPACKED}{number}": data.packed(value) for number, value in enumerate(packed)}}
    (into / GRAPH).write_bytes(with_places(graph, lambda name, _: moved[name]))


def _mapped(file: Path) -> mmap:
    with file.open("rb") as opened:
        return mmap(opened.fileno(), 0, access=ACCESS_READ)


def _bytes(mapped: mmap, place: Place) -> bytes:
    offset = int(place.get("offset", "0"))
    return mapped[offset : offset + int(place["length"])]


def _plain(place: Place) -> Mapping[str, str]:
    return {entry: value for entry, value in place.items() if entry in ("offset", "length")}


@dataclass(slots=True)
class _Data:
    """The packed form's data while it is written: parts of onnxruntime's file, each where a mapping may begin."""

    source: mmap
    file: BinaryIO
    end: int = field(default=0)

    def tensor(self, place: Place) -> Place:
        """A weight as it is."""
        offset = self._copy(int(place.get("offset", "0")), int(place["length"]))
        return {"location": IN_CACHE, "offset": str(offset), "length": place["length"]}

    def packed(self, listed: str) -> str:
        """A packed one, which may have several buffers: ``KEY|OFFSET;LENGTH;SIZE|...`` -> the same with new offsets."""
        name, *buffers = listed.split("|")
        parts = [buffer.split(";") for buffer in buffers]
        return "|".join([name, *(";".join([str(self._copy(int(offset), int(length))), length, *rest]) for offset, length, *rest in parts)])

    def _copy(self, offset: int, length: int) -> int:
        begin = -(-self.end // ALLOCATIONGRANULARITY) * ALLOCATIONGRANULARITY
        self.file.write(bytes(begin - self.end))
        self.file.write(self.source[offset : offset + length])
        self.end = begin + length
        return begin


def main(directory: str) -> None:
    """What the background process runs."""
    with suppress(Sc2onnxError, OSError, ValueError):
        make(Bundle.open(directory), wait=False)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(19)
    main(sys.argv[1])
