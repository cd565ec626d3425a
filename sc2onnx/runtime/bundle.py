"""Opens and checks a bundle: everything the manifest lists is there, whole and unaltered."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sc2onnx.errors import BundleIntegrityError
from sc2onnx.manifest import GRAPH_FILE, TOKENIZER_FILE, WEIGHTS_FILE, FileEntry, Manifest, replace_text

Check = Literal["auto", "full", "size"]
"""``full`` hashes every file; ``auto`` skips large ones that it has hashed before and that have not changed since
(same size, modification time and inode); ``size`` compares sizes only."""

_LARGE: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose files are what the manifest says."""

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: str | Path, check: Check = "auto") -> Bundle:
        """Raises :class:`BundleError` and its subclasses."""
        if check not in ("auto", "full", "size"):
            raise ValueError(f"check is {check!r}, expected 'auto', 'full' or 'size'")
        path = Path(directory)
        manifest = Manifest.read(path)
        for name in (GRAPH_FILE, WEIGHTS_FILE):
            if name not in manifest.files:
                raise BundleIntegrityError(f"the manifest of {path} does not list {name}: export the bundle again")
        for name, entry in manifest.files.items():
            _check_size(path / name, entry)
        if check != "size":
            _check_digests(path, manifest, trust_stamps=check == "auto")
        return cls(path, manifest)

    @property
    def graph(self) -> Path:
        """The ONNX graph, its weights beside it."""
        return self.directory / GRAPH_FILE

    @property
    def tokenizer(self) -> Path:
        """Where the tokenizer is, if the bundle has one."""
        return self.directory / TOKENIZER_FILE

    @property
    def weights(self) -> Path:
        """The file that the graph's weights lie in."""
        return self.directory / WEIGHTS_FILE


def _check_size(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise BundleIntegrityError(f"{path.name} is missing from {path.parent}, the manifest lists it: copy or export the bundle again")
    if (size := path.stat().st_size) != entry.size:
        raise BundleIntegrityError(f"{path} is {size} bytes, the manifest says {entry.size}: copy or export the bundle again")


def _check_digests(directory: Path, manifest: Manifest, trust_stamps: bool) -> None:
    stamp_file = _stamp_file(directory)
    stamps = _read_stamps(stamp_file) if trust_stamps else {}
    fresh: dict[str, list[object]] = {}
    for name, entry in manifest.files.items():
        status = (directory / name).stat()
        stamp: list[object] = [status.st_size, status.st_mtime_ns, status.st_ino, entry.sha256]
        if entry.size >= _LARGE and stamps.get(name) == stamp:
            fresh[name] = stamp
            continue
        with (directory / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry.sha256:
            raise BundleIntegrityError(
                f"{directory / name} has SHA-256 {digest[:16]}..., the manifest says {entry.sha256[:16]}...: it was altered or damaged, "
                "copy or export the bundle again"
            )
        if entry.size >= _LARGE:
            fresh[name] = stamp
    if fresh and fresh != stamps:
        with suppress(OSError):  # a home that cannot be written only costs the next load its hashing
            stamp_file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(stamp_file, json.dumps(fresh))


def _read_stamps(path: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        stamps = json.loads(path.read_text(encoding="utf-8"))
        return stamps if isinstance(stamps, dict) else {}
    return {}


def cache_directory() -> Path:
    """Where sc2onnx keeps what it can make again: ``SC2ONNX_CACHE``, or the user's cache directory."""
    if chosen := os.environ.get("SC2ONNX_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "sc2onnx"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sc2onnx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sc2onnx"


def _stamp_file(directory: Path) -> Path:
    key = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()
    return cache_directory() / "checked" / f"{key[:32]}.json"
