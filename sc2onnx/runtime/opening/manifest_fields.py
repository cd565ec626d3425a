"""Whether the fields of a manifest go together, before a file of the bundle is looked at."""

from __future__ import annotations

from typing import Final

from sc2onnx.bundle.contract import RING, kernel_graph_files
from sc2onnx.bundle.kernels import ENDING, runs, version_for
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.steps import NONE
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.opening.contradictions import REMEDY

_FLOATS: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def check_fields(manifest: Manifest) -> None:
    """Raise :class:`BundleIntegrityError` where one field contradicts another."""
    facts, quantization, cache = manifest.model, manifest.quantization, manifest.cache
    if facts.architecture != "starcoder2":
        raise BundleIntegrityError(
            f"model.architecture is {facts.architecture[:80]!r}, expected 'starcoder2': {REMEDY}"
        )
    called = (
        quantization.recipe
        if quantization
        else next(name for name, dtype in _FLOATS.items() if dtype == cache.dtype)
    )
    if manifest.precision != called or (quantization and called in _FLOATS):
        raise BundleIntegrityError(
            f"precision is {manifest.precision[:80]!r}, expected {called[:80]!r} by the cache "
            f"or the recipe: {REMEDY}"
        )
    if not manifest.made_for.own and cache.kind != manifest.made_for.cache:
        raise BundleIntegrityError(
            f"cache.kind is {cache.kind[:80]!r} for target {manifest.target!r}: {REMEDY}"
        )
    _check_listed(manifest)
    oldest = _oldest(manifest)
    if manifest.format_version < oldest:
        raise BundleIntegrityError(
            f"format_version is {manifest.format_version}, expected {oldest} at least by what else "
            f"the manifest has: {REMEDY}"
        )


def _oldest(manifest: Manifest) -> int:
    """The first format that has what the manifest has."""
    since = {
        2: manifest.quantization,
        3: manifest.stages,
        4: not manifest.made_for.own,
        5: manifest.agreeing_steps != NONE,
        6: manifest.kernels,
    }
    return max((version for version, there in since.items() if there), default=1)


def _check_listed(manifest: Manifest) -> None:
    """Graphs for the kernels are listed where the manifest says that there are some, and can be."""
    listed = {name for name in manifest.files if name.endswith(ENDING)}
    promised = set(kernel_graph_files(manifest.stages)) if manifest.kernels else set[str]()
    if listed != promised:
        raise BundleIntegrityError(
            f"the manifest lists {_names(listed)} of graphs for the kernels, "
            f"expected {_names(promised)} where kernels is {manifest.kernels}: {REMEDY}"
        )
    schemes = manifest.quantization.schemes.values() if manifest.quantization else ()
    ring, head_dim = manifest.cache.kind == RING, manifest.model.head_dim
    fits = version_for(manifest.made_for, ring=ring, schemes=schemes, head_dim=head_dim)
    if runs(manifest.kernels) and not fits:
        raise BundleIntegrityError(
            f"kernels is {manifest.kernels}, expected 0 for target {manifest.target!r}, "
            f"{manifest.precision[:80]} and heads of {head_dim}: {REMEDY}",
        )


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names))[:200] or "none"
