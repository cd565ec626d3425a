"""Which of the bundles that are measured run with an adapter, and whether it fits them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import RequestError
from sc2onnx.runtime.ort.adapter_file import read_adapter


def adapter_of(manifest: Manifest, adapter: str | Path | None) -> Path | None:
    """The adapter that a bundle runs with: none where adapters are in its weights already."""
    return None if adapter is None or manifest.provenance.adapters else Path(adapter)


def check_adapter(adapter: str | Path | None, manifests: Iterable[Manifest]) -> None:
    """Read an adapter for every bundle that is to run with it; the first has to be one.

    Raises :class:`~sc2onnx.errors.AdapterError` where it does not fit, and
    :class:`~sc2onnx.errors.RequestError` where the first bundle has adapters in its weights.
    """
    if adapter is None:
        return
    for number, manifest in enumerate(manifests):
        given = adapter_of(manifest, adapter)
        if given is not None:
            read_adapter(given, manifest.model)
        elif number == 0:
            names = ", ".join(map(str, manifest.provenance.adapters))
            raise RequestError(
                f"the adapter {adapter} is given, and the bundle has {names} in its weights: "
                "evaluate it without one, or the base's bundle with one"
            )
