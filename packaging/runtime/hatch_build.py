"""Fills the wheel of the runtime: modules of the clone, under a package name of their own.

``sc2onnx.runtime.model`` becomes ``sc2onnx_runtime.runtime.model``, so that this wheel and that of
sc2onnx have no file in common (docs/decisions/0020-distributions.md).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "sc2onnx"
NAME = "sc2onnx_runtime"


class RuntimeFiles(BuildHookInterface[Any]):
    """Adds the renamed modules. ``absent`` of its configuration lists what is left out."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the renamed files, and say where they go."""
        if version == "editable":
            raise RuntimeError("the runtime is a copy: to edit it, pip install -e the clone itself")
        if not PACKAGE.is_dir():
            raise RuntimeError(f"{PACKAGE} is not there: build from a clone of sc2onnx")
        self._made = Path(tempfile.mkdtemp(prefix="sc2onnx-runtime-"))
        for path in taken(self.config["absent"]):
            written = self._made / path.relative_to(PACKAGE)
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_bytes(renamed(path.read_bytes()))
        build_data["force_include"][str(self._made)] = NAME

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the renamed files."""
        shutil.rmtree(self._made)


def taken(absent: list[str]) -> Iterator[Path]:
    """Files of the package in the order of their names, without those that are ``absent``."""
    left_out = {PACKAGE / name for name in absent}
    if missing := [str(path) for path in left_out if not path.exists()]:
        raise RuntimeError(f"absent lists {', '.join(missing)}, expected files of sc2onnx")
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and path.suffix != ".pyc" and left_out.isdisjoint([path, *path.parents]):
            yield path


def renamed(source: bytes) -> bytes:
    """A module whose imports and names of modules begin with ``sc2onnx_runtime``.

    ``from sc2onnx.errors import X`` becomes ``from sc2onnx_runtime.errors import X``, and
    ``import sc2onnx`` becomes ``import sc2onnx_runtime as sc2onnx``. ``"sc2onnx.json"``, the name of
    a bundle's manifest, stays.
    """
    modules = "|".join(sorted({re.escape(path.stem) for path in PACKAGE.iterdir()}))
    text = re.sub(rf"\bsc2onnx(?=\.(?:{modules})\b)", NAME, source.decode())
    text = re.sub(r"^( *)import sc2onnx$", rf"\1import {NAME} as sc2onnx", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)from sc2onnx import ", rf"\1from {NAME} import ", text, flags=re.MULTILINE)
    text = text.replace('"sc2onnx."', f'"{NAME}."').replace('prog="sc2onnx"', 'prog="sc2onnx-runtime"')
    return text.encode()
