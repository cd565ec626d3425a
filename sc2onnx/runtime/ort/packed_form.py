"""A packed form: the directory of one bundle's packed weights, and the entry
that says for what they are.

It is named by its key, which says for which bytes and which layout it is. In it are ``packed.data``
(the weights as the kernels read them, :mod:`sc2onnx.runtime.ort.packed_file`) and ``entry.json``
(what the key was made of, and the digest of the data). Where forms are kept is for
:mod:`sc2onnx.runtime.ort.packed_cache` to say.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle import records
from sc2onnx.runtime.opening.stamps import Stamp

FORMAT: Final = 3
"""Part of every key. Raised whenever what is written changes, beside the layout of the matrices,
which has its own number.
"""

DATA: Final = "packed.data"
ENTRY: Final = "entry.json"

DEAD: Final = ".dead-"
"""How the names of directories begin that hold forms on their way out."""

_MOST_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """What ``entry.json`` says of a packed form.

    ``made_from``: the digests of the bundle's graphs for the kernels and of its weights, as they
    were read to be packed. ``layout``: of the packed matrices. ``files``: bytes and SHA-256 of the
    form's data, by name. Neither the processor is in it, nor onnxruntime, nor how many threads
    packed: none of them changes a byte.
    """

    format: int
    made_from: list[str]
    layout: int
    files: dict[str, list[Any]]

    @classmethod
    def read(cls, directory: Path) -> Entry:
        """Raises :class:`OSError`, or :class:`ValueError` or :class:`TypeError` for no entry."""
        return records.record(cls, records.read(directory / ENTRY, _MOST_BYTES))

    @classmethod
    def of(cls, made_from: Sequence[str], layout: int, files: dict[str, list[Any]]) -> Entry:
        """That of a form of this version."""
        return cls(FORMAT, list(made_from), layout, files)

    @property
    def key(self) -> str:
        """The name of a form made from this. Raises :class:`ValueError` for other formats."""
        if self.format != FORMAT:
            raise ValueError(f"a packed form of format {self.format}, expected {FORMAT}")
        return key(self.made_from, self.layout)


def key(made_from: Sequence[str], layout: int) -> str:
    """The name of a packed form, by what :class:`Entry` says that it depends on."""
    parts = json.dumps([FORMAT, list(made_from), layout])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class PackedForm:
    """One whole packed form. ``stamp``: of its data, taken before they were checked."""

    directory: Path
    stamp: Stamp | None = field(default=None, repr=False, compare=False)

    @property
    def unchanged(self) -> bool:
        """Whether its data are those that were checked.

        Asked after they were opened, it shows that nothing else was opened in their place.
        """
        try:
            return Stamp.at(self.data) == self.stamp
        except OSError:
            return False

    @property
    def data(self) -> Path:
        """The packed weights, to be mapped."""
        return self.directory / DATA

    @property
    def nbytes(self) -> int:
        """What it takes of the disk."""
        return sum(file.lstat().st_size for file in self.directory.iterdir())

    @property
    def used(self) -> float:
        """When it was last used, in seconds since the epoch."""
        return (self.directory / ENTRY).lstat().st_mtime

    def discard(self) -> None:
        """Remove it, which other processes may go on using (except on Windows, where it then
        stays). Needs no lock; never fails.
        """
        with suppress(OSError):
            dead = Path(tempfile.mkdtemp(prefix=DEAD, dir=self.directory.parent))
            try:
                # out of sight at once: nobody finds half of it
                os.rename(self.directory, dead / "form")
            finally:
                shutil.rmtree(dead, ignore_errors=True)
