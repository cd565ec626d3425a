"""Links in a directory that a stranger made: which of its files are really in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sc2onnx.errors import BundleIntegrityError


def inside(directory: Path, path: Path) -> bool:
    """Whether a file of a checkpoint or bundle lies in it once every link is followed.

    A link that leads out would carry a file of the machine's into a bundle, or to the hub. The
    cache of ``huggingface_hub`` is made of links: there the directory is
    ``models--OWNER--NAME/snapshots/COMMIT``, and the bytes lie in ``blobs`` of the model's folder,
    or of the whole cache. A link that leads nowhere, or in a circle, is not inside.
    """
    try:
        target, root = path.resolve(strict=True), directory.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        return False
    roots = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        model = root.parent.parent
        roots += [model / "blobs", model.parent / "blobs"]
    return any(target.is_relative_to(allowed) for allowed in roots)


def check_links(directory: Path, names: Iterable[str]) -> None:
    """Raise :class:`BundleIntegrityError` for a file of the bundle at ``directory``
    that is a link out of it.

    Names of files that are not there are ignored.
    """
    for name in names:
        path = directory / name
        if os.path.exists(path) and not inside(directory, path):
            raise BundleIntegrityError(
                f"{path} is a link that leads out of the bundle, expected a file in it: copy the "
                "bundle with its files (cp -L)"
            )
