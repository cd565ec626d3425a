"""Which links a bundle's files may be: those that stay inside it, and those of the hub's cache.

A link in a bundle of a stranger may lead to a file of the reader's own, which would then be read,
and pushed. So each file, links followed, must lie in the bundle's directory, links followed; or,
where that is a snapshot of huggingface_hub's cache (``models--OWNER--NAME/snapshots/COMMIT``), in the
``blobs`` of the same repository (``models--OWNER--NAME/blobs``), where the cache keeps what it links to.
"""

from __future__ import annotations

import os
from pathlib import Path

from sc2onnx.errors import BundleIntegrityError


def check_links(directory: Path, names: list[str]) -> None:
    """Raise :class:`BundleIntegrityError` for a file of the bundle at ``directory`` that is a link out of it.

    Names of files that are not there are ignored.
    """
    roots = _roots(directory)
    for name in names:
        path = directory / name
        if os.path.lexists(path) and not any(Path(os.path.realpath(path)).is_relative_to(root) for root in roots):
            raise BundleIntegrityError(
                f"{path} is a link that leads out of the bundle, expected a file in it: copy the bundle with its files (cp -L)"
            )


def _roots(directory: Path) -> list[Path]:
    """Where a bundle's files may lie, links followed."""
    root = Path(os.path.realpath(directory))
    snapshots = root.parent
    repository = snapshots.parent
    cached = snapshots.name == "snapshots" and repository.name.startswith("models--")
    return [root, repository / "blobs"] if cached else [root]
