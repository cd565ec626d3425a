"""What the output of a job depends on: kept beside it, and compared when the job goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import sc2onnx
from sc2onnx.batch.records import Fields
from sc2onnx.batch.sources import InputFile
from sc2onnx.batch.tasks import Task
from sc2onnx.bundle.files import replace_text
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import OutputError, RequestError
from sc2onnx.runtime.model import Model

Settings = Mapping[str, Any]
"""Names -> what JSON has, also in mappings of their own."""

_TOLD: Final = 4
"""Differences that an error lists."""


def settings_of(model: Model, task: Task, files: Sequence[InputFile], fields: Fields) -> Settings:
    """Those of a job. Inputs are compared by names and sizes."""
    shape = model.cache_shape
    return {
        "sc2onnx": sc2onnx.__version__,
        "bundle": digest(model.manifest),
        "kernels": model.kernels,
        "cache": {"type": shape.dtype, "slots": shape.capacity, "width": shape.width},
        "speculate": model.speculates,
        "adapters": {name: adapter.sha256 for name, adapter in model.adapters.items()},
        "gpu": model.session.on_gpu,
        "task": type(task).__name__.lower(),
        "options": task.settings(),
        "fields": dict(fields.columns),
        "inputs": {file.name: file.size for file in files},
    }


def digest(manifest: Manifest) -> str:
    """What tells a bundle from others: the SHA-256 of those of its files, by name."""
    files = sorted((name, entry.sha256) for name, entry in manifest.files.items())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def keep(settings: Settings, path: Path) -> None:
    """Write them to a file. Raises :class:`OSError`."""
    replace_text(path, json.dumps(settings, indent=1) + "\n")


def kept(path: Path) -> Settings | None:
    """Those of a file; None where there is none. Raises :class:`OutputError`."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"{path} says no more what the job is ({error}): begin it anew (--restart)"
        ) from error
    return found if isinstance(found, dict) else {}


def check_same(before: Settings, now: Settings) -> None:
    """Raise :class:`RequestError` that names what differs, where something does."""
    old, new = (dict(_flat(each)) for each in (before, json.loads(json.dumps(now))))
    names = [name for name in {**old, **new} if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
    if not names:
        return
    told = [f"{name} was {_shown(old, name)} and is {_shown(new, name)}" for name in names[:_TOLD]]
    more = f", and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    raise RequestError(
        f"the job was begun with other settings: {'; '.join(told)}{more}. Give those again to go "
        "on, another --output for another job, or --restart to begin this one anew"
    )


_ABSENT: Final = object()


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value


def _shown(settings: Settings, name: str) -> str:
    return json.dumps(settings[name])[:80] if name in settings else "absent"
