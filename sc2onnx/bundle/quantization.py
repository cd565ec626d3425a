"""How the weights of a bundle were made into integers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sc2onnx.bundle.texts import make_plain
from sc2onnx.errors import BundleError

_SCHEME: Final = re.compile("int[48] in blocks of (16|32|64|128|256)")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights were made into integers: block-wise, symmetric, one float scale per block.

    ``schemes`` maps every matrix by name to its scheme, such as ``int4 in blocks of 128``.
    ``body_bits`` counts bits per weight of the layers' matrices, scales included. ``rounding`` is
    ``nearest`` or ``calibrated``; ``calibration`` then says on which text. Raises
    :class:`BundleError` for a scheme or a rounding that is unknown.
    """

    recipe: str
    schemes: Mapping[str, str]
    body_bits: float
    rounding: str
    calibration: str | None

    def __post_init__(self) -> None:
        make_plain(self, "recipe", "calibration")
        for product, scheme in self.schemes.items():
            if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
                found = f"quantization.schemes has {str(scheme)[:80]!r} for {product[:80]!r}"
                raise BundleError(f"{found}, expected such as 'int4 in blocks of 128'")
        if self.rounding != ("nearest" if self.calibration is None else "calibrated"):
            found = f"quantization.rounding is {self.rounding!r}"
            raise BundleError(f"{found}, expected 'nearest', or 'calibrated' on a text: export the bundle again")

    def __str__(self) -> str:
        """Which schemes for how many matrices, what that comes to, and how it was rounded."""
        counts = Counter(self.schemes.values()).most_common()
        matrices = ", ".join(f"{scheme} ({count} matrices)" for scheme, count in counts)
        rounded = f"calibrated on {self.calibration}" if self.calibration else f"rounded to the {self.rounding}"
        return f"{matrices}; {self.body_bits:.2f} bits a weight in the layers; {rounded}"
