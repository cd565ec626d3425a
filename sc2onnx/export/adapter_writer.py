"""A converted adapter's directory: written beside its place, and renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sc2onnx.bundle.adapters import FACTS_FILE
from sc2onnx.bundle.files import TEMPORARY, sync
from sc2onnx.errors import OutputError, OutputExistsError


def write_adapter(out: Path, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Make the directory ``out`` of these files, whole or not at all.

    ``overwrite``: replace an adapter that is there, and nothing else. Raises :class:`OutputError`.
    """
    out = Path(os.path.abspath(out))
    if os.path.lexists(out) and not (overwrite and (out / FACTS_FILE).is_file()):
        remedy = "choose another path" if overwrite else "choose another path, or pass --overwrite"
        expected = "expected none, or a converted adapter with --overwrite"
        raise OutputExistsError(f"{out} exists, {expected}: {remedy}")
    try:
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=TEMPORARY))
        try:
            _write(partial / out.name, files)
            if out.exists():
                out.rename(partial / "replaced")
            (partial / out.name).rename(out)
            sync(out.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written ({error.strerror}): choose another path or disk"
        ) from error


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
        sync(directory / name)
    sync(directory)
