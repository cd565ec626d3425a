"""The adapters of ``evaluate``: one that bundles run with, and those that torch computes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sc2onnx.errors import RequestError

if TYPE_CHECKING:
    from sc2onnx.bundle.manifest import Manifest
    from sc2onnx.verify.merged import Merged


@dataclass(frozen=True, slots=True)
class MeasuredAdapters:
    """What ``--adapter`` names, by its kind: as ``sc2onnx adapter convert`` makes it, or as peft
    saves it.
    """

    converted: str | None
    saved: tuple[str, ...]

    @classmethod
    def of(cls, given: Sequence[str]) -> Self:
        """Raises :class:`RequestError` for several that are converted."""
        converted = [each for each in given if _is_converted(Path(each))]
        if len(converted) > 1:
            raise RequestError(
                f"{' and '.join(converted)} are converted adapters, expected one that the bundles "
                "run with: merge several at export"
            )
        saved = tuple(each for each in given if each not in converted)
        return cls(converted[0] if converted else None, saved)

    def check_unsaved(self, against: str | None) -> None:
        """Raise :class:`RequestError` for an adapter of peft where torch does not compute."""
        if self.saved:
            found = "a bundle" if against else "nothing"
            raise RequestError(
                f"{self.saved[0]} is no converted adapter, and --against is {found}: convert it "
                "(sc2onnx adapter convert), or give a checkpoint that torch computes with it"
            )

    def merged(self, manifest: Manifest, checkpoint: str) -> Merged | None:
        """What is merged into a checkpoint that a bundle is compared with; None: nothing.

        Raises :class:`~sc2onnx.errors.CheckpointError` where these are not what the bundle has.
        """
        from sc2onnx.verify.merged import Merged

        if not self.saved:
            return None
        if self.converted is not None and not manifest.provenance.adapters:
            return Merged.beside(self.saved, manifest.model)
        return Merged.of(self.saved, manifest, checkpoint)


def _is_converted(path: Path) -> bool:
    from sc2onnx.bundle.adapters import FACTS_FILE, MATRICES_FILE

    return path.name == MATRICES_FILE or (path / FACTS_FILE).exists()
