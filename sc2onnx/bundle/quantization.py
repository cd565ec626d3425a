"""How the weights of a bundle were made into integers, as data and, in old formats, as phrases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from sc2onnx.bundle.records import record
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.bundle.texts import make_plain
from sc2onnx.errors import BundleError, RequestError

WITH_SCHEMES: Final = 7
"""The first format in which a scheme is an object. Those before it had phrases."""

WITH_SCALES: Final = 8
"""The first format that says of which type scales are."""

BFLOAT16: Final = "bfloat16"
"""The one type that scales have where activations have another."""

_PHRASE: Final = re.compile("int([48]) in blocks of ([1-9][0-9]{1,2})")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights were made into integers: block-wise, symmetric, one float scale per block.

    ``schemes`` maps every matrix by name to its scheme. ``body_bits`` counts bits per weight of
    the layers' matrices, scales included. ``rounding`` is ``nearest`` or ``calibrated``;
    ``calibration`` then says on which text. ``scales`` is the type of scales as stored, where it
    is not that of activations. Raises :class:`BundleError` for another rounding or type.
    """

    recipe: str
    schemes: Mapping[str, Scheme]
    body_bits: float
    rounding: str
    calibration: str | None
    scales: str | None = None

    def __post_init__(self) -> None:
        make_plain(self, "recipe", "calibration")
        if self.rounding != ("nearest" if self.calibration is None else "calibrated"):
            found = f"quantization.rounding is {self.rounding!r}"
            expected = "'nearest', or 'calibrated' on a text"
            raise BundleError(f"{found}, expected {expected}: export the bundle again")
        if self.scales not in (None, BFLOAT16):
            found = f"quantization.scales is {repr(self.scales)[:80]}"
            raise BundleError(f"{found}, expected {BFLOAT16!r} or none: export the bundle again")

    @classmethod
    def read(cls, raw: Mapping[str, Any], version: int) -> Self:
        """Build it from JSON of a format version.

        Raises :class:`BundleError` for a scheme that is none in that format, :class:`TypeError`
        and :class:`AttributeError` for what is no such record.
        """
        schemes = {name: _read(name, value, version) for name, value in raw["schemes"].items()}
        return record(cls, {**raw, "schemes": schemes})

    def __str__(self) -> str:
        """Which schemes for how many matrices, what that comes to, and how it was rounded."""
        counts = Counter(self.schemes.values()).most_common()
        matrices = ", ".join(f"{scheme} ({count} matrices)" for scheme, count in counts)
        rounded = f"rounded to the {self.rounding}"
        if self.calibration:
            rounded = f"calibrated on {self.calibration}"
        return f"{matrices}; {self.body_bits:.2f} bits a weight in the layers; {rounded}"


def _read(product: str, value: Any, version: int) -> Scheme:
    """Return the scheme that JSON has for a product: an object, or in old formats a phrase."""
    try:
        if version >= WITH_SCHEMES:
            return record(Scheme, value)
        if isinstance(value, str) and (found := _PHRASE.fullmatch(value)):
            return Scheme(int(found[1]), int(found[2]))
    except (TypeError, RequestError):  # no object of these fields, or sizes that there are not
        pass
    example = Scheme(4, 128)
    expected = asdict(example) if version >= WITH_SCHEMES else repr(str(example))
    shown = f"quantization.schemes has {repr(value)[:80]} for {product[:80]!r}"
    raise BundleError(f"{shown}, expected such as {expected}: export the bundle again")
