"""The files that a manifest lists: their names, sizes and digests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from sc2onnx.bundle.contract import (
    CARD_FILE,
    MANIFEST_FILE,
    plain_file_name,
)
from sc2onnx.bundle.facts import MOST_BYTES
from sc2onnx.bundle.records import record
from sc2onnx.errors import (
    BundleIntegrityError,
)

_AGAIN: Final = "export the bundle again"
_DISTRUST: Final = "do not trust this bundle"

MOST_FILES: Final = 1000
"""Files that a bundle may have."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle: bytes and SHA-256."""

    size: int
    sha256: str


def listed_files(raw: Any) -> dict[str, FileEntry]:
    """Check the entries of ``files``: names inside the bundle, possible sizes and digests."""
    files = {name: record(FileEntry, entry) for name, entry in raw.items()}
    if len(files) > MOST_FILES:
        raise BundleIntegrityError(
            f"{MANIFEST_FILE} lists {len(files):,} files, expected at most "
            f"{MOST_FILES:,}: {_DISTRUST}"
        )
    for name, entry in files.items():
        if not plain_file_name(name):
            expected = "a plain file name inside the bundle"
            raise BundleIntegrityError(
                f"{MANIFEST_FILE} lists {name[:300]!r}, expected {expected}: {_DISTRUST}"
            )
        if name in (MANIFEST_FILE, CARD_FILE):
            raise BundleIntegrityError(
                f"{MANIFEST_FILE} lists {name}, which is not of the files that it "
                f"vouches for: {_AGAIN}"
            )
        if not 0 <= entry.size <= MOST_BYTES or not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            found = (
                f"{MANIFEST_FILE} lists {name} with {entry.size} bytes and SHA-256 "
                f"{entry.sha256[:80]!r}"
            )
            raise BundleIntegrityError(
                f"{found}, expected a size and 64 hexadecimal digits: {_AGAIN}"
            )
    return files
