"""Checks of built wheels and source distributions: what they hold, and how large it is."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

LIMITS = {
    "sc2onnx-*.whl": 1_200_000,
    "sc2onnx_runtime-*.whl": 260_000,
    "sc2onnx_kernels-*.whl": 3_000_000,
    "sc2onnx-*.tar.gz": 4_000_000,
    "sc2onnx_kernels-*.tar.gz": 600_000,
}
"""Bytes that an archive may have, by the pattern of its name. Each must match one archive."""

LARGEST = 1_500_000
"""Bytes that one file in an archive may have, unpacked; shared libraries may have three times."""

UNWANTED = ("__pycache__", "node_modules", ".venv", ".git", "build", "bundles")
"""Folders that no archive may have."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an archive: its name and its unpacked size in bytes."""

    name: str
    size: int


def faults(folder: Path) -> Iterator[str]:
    """What is wrong with the archives of a folder; one sentence each."""
    archives = sorted(folder.iterdir())
    for pattern, limit in LIMITS.items():
        matching = [path for path in archives if path.match(pattern)]
        if len(matching) != 1:
            yield f"{len(matching)} archives are called {pattern}, expected one"
        for path in matching:
            yield from _faults_of(path, limit)
    yield from _shared([path for path in archives if path.suffix == ".whl"])


def _faults_of(path: Path, limit: int) -> Iterator[str]:
    if (size := path.stat().st_size) > limit:
        yield f"{path.name} has {size:,} bytes, expected at most {limit:,}"
    held = entries(path)
    for entry in held:
        if entry.size > LARGEST * (3 if _is_library(entry.name) else 1):
            yield f"{entry.name} in {path.name} has {entry.size:,} bytes"
        if not set(UNWANTED).isdisjoint(PurePosixPath(entry.name).parts):
            yield f"{entry.name} is in {path.name}, expected nothing of {', '.join(UNWANTED)}"
    if not any("LICENSE" in PurePosixPath(entry.name).parts[-1] for entry in held):
        yield f"{path.name} has no LICENSE"


def _shared(wheels: Sequence[Path]) -> Iterator[str]:
    owner = dict[str, str]()
    for path in wheels:
        for entry in entries(path):
            if (other := owner.setdefault(entry.name, path.name)) != path.name:
                yield f"{entry.name} is in {other} and in {path.name}, expected in one of them"


def entries(path: Path) -> list[Entry]:
    """The files of a wheel or of a source distribution."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return [Entry(each.filename, each.file_size) for each in wheel.infolist()]
    with tarfile.open(path) as source:
        return [Entry(each.name, each.size) for each in source.getmembers() if each.isfile()]


def checksums(folder: Path) -> str:
    """SHA-256 of every archive, in the form that ``sha256sum --check`` reads."""
    return "".join(f"{digest(path)}  {path.name}\n" for path in sorted(folder.iterdir()))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_library(name: str) -> bool:
    return PurePosixPath(name).suffix in (".so", ".dylib", ".dll")
