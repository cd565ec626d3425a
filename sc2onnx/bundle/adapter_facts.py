"""What an adapter's directory says of its matrices, and which shapes they have to have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from sc2onnx.bundle.adapters import FACTS_FILE, MATRICES_FILE
from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.bundle.records import parse, record
from sc2onnx.bundle.texts import make_plain
from sc2onnx.errors import AdapterError

FORMAT_VERSION: Final = 1
"""Raised whenever an older runtime would misread an adapter."""

MOST_RANK: Final = 1024
"""Of an adapter; beyond that it is faster, and smaller, to merge it."""

MOST_FACTS_BYTES: Final = 1 << 16
"""Bytes that ``sc2onnx-adapter.json`` may have."""

_AGAIN: Final = "convert the adapter again (sc2onnx adapter convert)"


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """The whole of ``sc2onnx-adapter.json``.

    ``rank``: the largest of a module. ``element``: of the matrices, ``float32`` or ``float16``.
    ``size`` and ``sha256`` are of the file with the matrices. ``source``: what it was converted
    from; ``base``: the model that its makers name. Raises :class:`~sc2onnx.errors.AdapterError`.
    """

    rank: int
    element: str
    size: int
    sha256: str
    kind: str = "LORA"
    source: str = ""
    base: str = ""
    exporter: str = ""
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        make_plain(self, "kind", "source", "base", "exporter")
        if not 1 <= self.rank <= MOST_RANK:
            raise AdapterError(f"rank is {self.rank}, expected 1 to {MOST_RANK}: {_AGAIN}")
        if self.element not in ("float32", "float16"):
            raise AdapterError(
                f"element is {self.element[:80]!r}, expected float32 or float16: {_AGAIN}"
            )
        if self.size < 1 or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            found = f"{self.size} bytes and SHA-256 {self.sha256[:80]!r}"
            raise AdapterError(f"{MATRICES_FILE} has {found} in {FACTS_FILE}: {_AGAIN}")

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read those of the adapter at ``directory``.

        Raises :class:`~sc2onnx.errors.AdapterError` where there are none that this version reads.
        """
        path = directory / FACTS_FILE
        try:
            with path.open("rb") as file:
                text = file.read(MOST_FACTS_BYTES + 1)
        except OSError as error:
            raise AdapterError(
                f"{directory} is no converted adapter ({FACTS_FILE}: {error.strerror}): make one "
                f"with `sc2onnx adapter convert PEFT_DIR {directory.name}`"
            ) from error
        try:
            if len(text) > MOST_FACTS_BYTES:
                raise ValueError(f"it has more than {MOST_FACTS_BYTES:,} bytes")
            raw = parse(text)
            _check_version(raw)
            return record(cls, raw)
        except (TypeError, ValueError) as error:
            if isinstance(error, AdapterError):
                raise
            raise AdapterError(f"{path} is malformed ({error}): {_AGAIN}") from error


def _check_version(raw: Mapping[str, Any]) -> None:
    version = raw.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        found = f"format_version {str(version)[:40]}, this sc2onnx reads {FORMAT_VERSION}"
        raise AdapterError(f"{FACTS_FILE} has {found}: upgrade sc2onnx, or {_AGAIN}")


def module_shapes(facts: ModelFacts) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each module of a layer that an adapter may be of."""
    queries, keys = facts.num_heads * facts.head_dim, facts.num_kv_heads * facts.head_dim
    return shapes_of(facts.hidden_size, facts.intermediate_size, queries, keys)


def shapes_of(hidden: int, inner: int, queries: int, keys: int) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each module, by channels: of the model, inside the perceptron, of all
    query heads, and of all key heads.
    """
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.c_fc": (hidden, inner),
        "mlp.c_proj": (inner, hidden),
    }
