"""Whether the tokens that end a text are those of the checkpoint's own files,
which lie beside the manifest.

A graph does not know them: without this, one wrong digit of the manifest would let a model run on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle import records
from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import BundleIntegrityError

_CONFIG: Final = "config.json"
_GENERATION: Final = "generation_config.json"


def check_stops(directory: Path, manifest: Manifest) -> None:
    """Raise :class:`BundleIntegrityError` for end-of-text tokens of which the bundle's
    other files know nothing.

    generation_config.json, or config.json where that has none, says which ones there must be; any
    other must be in one of them, or be a special token of the tokenizer. A bundle without
    config.json, or with one that is not strict JSON, says nothing and is not checked.
    """
    stops, vocabulary = set(manifest.model.eos_token_ids), manifest.model.vocab_size
    if outside := sorted(stop for stop in stops if not 0 <= stop < vocabulary):
        raise BundleIntegrityError(
            f"model.eos_token_ids has {outside[0]} in the manifest, expected 0 to "
            f"{vocabulary - 1}, the vocabulary: export the bundle again"
        )
    configured, generating = (_stated(directory, manifest, name) for name in (_CONFIG, _GENERATION))
    if configured is None or generating is None:
        return
    needed, known = generating or configured, configured | generating
    if needed <= stops and (stops <= known or stops - known <= _special(directory, manifest)):
        return
    raise BundleIntegrityError(
        f"model.eos_token_ids is {sorted(stops)} in the manifest, expected {sorted(needed)} "
        f"by the bundle's {_GENERATION} and {_CONFIG}: it was altered or damaged, copy or "
        "export the bundle again"
    )


def _stated(directory: Path, manifest: Manifest, name: str) -> set[int] | None:
    """``eos_token_id`` of a file; empty where it says nothing. None where it cannot be asked."""
    if name not in manifest.files:
        return None if name == _CONFIG else set()
    try:
        value = records.read(directory / name).get("eos_token_id")
    except (OSError, ValueError):
        return None
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    return {token for token in tokens if isinstance(token, int) and not isinstance(token, bool)}


def _special(directory: Path, manifest: Manifest) -> set[int]:
    """Ids of the tokenizer's special tokens."""
    if TOKENIZER_FILE not in manifest.files:
        return set()
    try:
        added: Any = records.read(directory / TOKENIZER_FILE, most=64 << 20).get("added_tokens")
    except (OSError, ValueError):
        return set()
    tokens = (
        [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    )
    return {token["id"] for token in tokens if isinstance(token.get("id"), int)}
