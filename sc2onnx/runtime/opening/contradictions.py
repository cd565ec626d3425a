"""How a bundle is refused whose manifest and graphs contradict each other."""

from __future__ import annotations

from typing import Any, Final

from sc2onnx.errors import BundleIntegrityError

REMEDY: Final = "it was altered or damaged, copy or export the bundle again"


def check_same(graph: str, what: str, found: Any, said: Any) -> None:
    """Raise :class:`BundleIntegrityError` unless a graph is as the manifest says."""
    if found != said:
        contradiction = f"{what} is {found} in {graph}, the manifest says {said}"
        raise BundleIntegrityError(f"{contradiction}: {REMEDY}")
