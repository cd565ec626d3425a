"""The small files of a checkpoint: read whole and once, each bounded.

What is no file of the checkpoint's own is left behind, by name: a link that leads out of it would
carry a file of the machine's into a bundle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle import records
from sc2onnx.bundle.contract import TOKENIZER_FILE, plain_file_name
from sc2onnx.bundle.links import inside
from sc2onnx.errors import CorruptCheckpointError
from sc2onnx.export.shown import name_of
from sc2onnx.export.stored import refuse_pointer

TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
SPECIAL_TOKENS_FILE: Final = "special_tokens_map.json"
GENERATION_FILE: Final = "generation_config.json"
CHAT_TEMPLATE_FILE: Final = "chat_template.jinja"

VOCAB_FILE: Final = "vocab.json"
MERGES_FILE: Final = "merges.txt"
ADDED_TOKENS_FILE: Final = "added_tokens.json"
CHAT_TEMPLATE_JSON: Final = "chat_template.json"
CHAT_TEMPLATE_FOLDER: Final = "additional_chat_templates"

COPIED: Final = (
    TOKENIZER_FILE,
    "config.json",
    GENERATION_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
)
"""Files that a bundle takes over as they are, beside the licences."""

SOURCES: Final = (VOCAB_FILE, MERGES_FILE, ADDED_TOKENS_FILE, CHAT_TEMPLATE_JSON)
"""Files that others are made from."""

_LICENSE: Final = "LICENSE"
LICENSES: Final = f"{_LICENSE}*"
TEMPLATES: Final = f"{CHAT_TEMPLATE_FOLDER}/*.jinja"

TEXT_FILES: Final = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    *SOURCES,
)
"""Files of a tokenizer and its chat template, which an adapter may bring."""

TEXT_PATTERNS: Final = (*TEXT_FILES, TEMPLATES)

PATTERNS: Final = (*COPIED, *SOURCES, LICENSES, TEMPLATES)
"""What to download of a checkpoint on the hub, beside the weights."""

_MOST_BYTES: Final[Mapping[str, int]] = dict.fromkeys(
    (TOKENIZER_FILE, VOCAB_FILE, MERGES_FILE), 32 << 20
)
"""Bytes of files that may be larger than settings. The tokenizer of StarCoder2 has 2 MB."""

_MOST_BYTES_OF_TEXT: Final = 1 << 20
"""Bytes of a licence or template."""

_MOST_FILES: Final = 100
"""Licences, and templates."""


@dataclass(frozen=True, slots=True)
class SmallFiles:
    """The small files of a checkpoint by name, and why others were left behind.

    Names have a ``/`` where a file lies in a folder of the checkpoint's.
    """

    contents: Mapping[str, bytes]
    left: tuple[str, ...] = field(default=())

    @classmethod
    def read(cls, directory: Path) -> SmallFiles:
        """Read those that a bundle may need, as far as the checkpoint has them.

        Raises :class:`CorruptCheckpointError` for a file that cannot be read, and for a pointer of
        Git LFS in a file's place.
        """
        contents: dict[str, bytes] = {}
        left: list[str] = []
        for name in _names(directory):
            reason = _reason_to_leave(directory, name)
            if reason is None:
                contents[name] = _read(directory / name, name)
            elif reason:
                left.append(f"{name_of(name)} is left behind: it {reason}")
        return cls(contents, tuple(left))

    def copied(self) -> dict[str, bytes]:
        """The files that belong into a bundle unchanged."""
        ready = {name: self.contents[name] for name in COPIED if name in self.contents}
        licenses = {name: data for name, data in self.contents.items() if name.startswith(_LICENSE)}
        return ready | licenses

    def with_text_of(self, other: SmallFiles) -> SmallFiles:
        """The same files, with those of another's tokenizer and chat template in their place.

        A tokenizer takes the place of all there is; without one, file takes the place of file.
        """
        theirs = {name: data for name, data in other.contents.items() if _is_text(name)}
        own = dict(self.contents)
        if other.has_tokenizer:
            own = {name: data for name, data in own.items() if not _is_text(name)}
        left = dict.fromkeys((*self.left, *other.left))
        return SmallFiles(own | theirs, tuple(left))

    def with_json(self, name: str, value: Mapping[str, Any]) -> SmallFiles:
        """The same files, with another value in a file of settings; as it is if that says so."""
        if self.json(name) == value:
            return self
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        return replace(self, contents={**self.contents, name: text.encode()})

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer is there, or what it is made of."""
        return TOKENIZER_FILE in self.contents or {VOCAB_FILE, MERGES_FILE} <= self.contents.keys()

    def json(self, name: str) -> dict[str, Any]:
        """A file of settings, empty if there is none. Raises :class:`CorruptCheckpointError`."""
        if name not in self.contents:
            return {}
        return parse(name, self.contents[name])


def parse(name: str, data: bytes) -> dict[str, Any]:
    """The JSON object in a file of this name. Raises :class:`CorruptCheckpointError`."""
    try:
        return records.parse(data)
    except ValueError as error:
        raise CorruptCheckpointError(
            f"{name} cannot be read as JSON ({_one_line(error)}): download it again"
        ) from error


def _is_text(name: str) -> bool:
    return name in TEXT_FILES or name.startswith(f"{CHAT_TEMPLATE_FOLDER}/")


def _names(directory: Path) -> Iterator[str]:
    """Names of what is there, whatever it is."""
    yield from (name for name in (*COPIED, *SOURCES) if os.path.lexists(directory / name))
    for pattern in (LICENSES, TEMPLATES):
        for path in islice(sorted(directory.glob(pattern)), _MOST_FILES):
            yield path.relative_to(directory).as_posix()


def _reason_to_leave(directory: Path, name: str) -> str | None:
    """Why a file is not taken; empty where nobody needs to know, None if it is taken."""
    path = directory / name
    if not inside(directory, path):
        return (
            "is a link that leads out of the checkpoint, or nowhere: put the "
            "file itself in its place"
        )
    if not path.is_file():
        return "" if path.is_dir() and name.startswith(_LICENSE) else "is no regular file"
    if "/" not in name and not plain_file_name(name):
        return (
            "has a name that a bundle cannot hold: use letters, digits, dots, dashes, underscores"
        )
    size, most = path.stat().st_size, _most_bytes(name)
    return f"has {size:,} bytes, expected at most {most:,}" if size > most else None


def _most_bytes(name: str) -> int:
    if name in _MOST_BYTES:
        return _MOST_BYTES[name]
    return records.MOST_BYTES if name.endswith(".json") else _MOST_BYTES_OF_TEXT


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_most_bytes(name))
    except OSError as error:
        raise CorruptCheckpointError(
            f"{name} cannot be read ({error.strerror}): correct its permissions, or remove it"
        ) from error
    refuse_pointer(name, data)
    return data


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
