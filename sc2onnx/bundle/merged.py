"""The record of an adapter that was merged into a bundle's weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite

from sc2onnx.bundle.texts import make_plain
from sc2onnx.errors import BundleError


@dataclass(frozen=True, slots=True)
class MergedAdapter:
    """An adapter whose change is in the weights of a bundle.

    ``source``: its directory's name or hub id; ``revision``: its hub commit, None for a directory.
    ``kind``: LoRA, rsLoRA or DoRA. ``weight``: by what its change was multiplied. ``sha256``: of
    ``adapter_model.safetensors``; ``settings_sha256``: of ``adapter_config.json``. Raises
    :class:`BundleError` for what is no digest or no number.
    """

    source: str
    revision: str | None
    license: str | None
    kind: str
    weight: float
    sha256: str
    settings_sha256: str

    def __post_init__(self) -> None:
        make_plain(self, "source", "revision", "license", "kind")
        for digest in (self.sha256, self.settings_sha256):
            if not re.fullmatch("[0-9a-f]{64}", digest):
                found = f"the digest of an adapter is {digest[:80]!r}"
                raise BundleError(
                    f"{found}, expected 64 hexadecimal digits: export the bundle again"
                )
        if not isfinite(self.weight):
            raise BundleError(
                f"the weight of an adapter is {self.weight}, expected a number: "
                "export the bundle again"
            )

    def __str__(self) -> str:
        """``sql-lora (DoRA, weight 0.5)``."""
        weight = "" if self.weight == 1 else f", weight {self.weight:g}"
        return f"{self.source} ({self.kind}{weight})"
