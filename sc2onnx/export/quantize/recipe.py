"""Which weight gets which scheme. A recipe is data: a preset by name, or a JSON
file with the same fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle import texts
from sc2onnx.bundle.records import record
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.bundle.targets import Device
from sc2onnx.errors import RequestError


@dataclass(frozen=True, slots=True)
class Override:
    """A scheme for the products whose name matches ``pattern``, in the
    manner of shell file names.
    """

    pattern: str
    scheme: Scheme

    def matches(self, product: str) -> bool:
        """Whether it is meant."""
        return fnmatchcase(product, self.pattern)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Schemes by weight.

    ``body``: every matrix of the layers. ``head``: the embedding and the output head, which
    share their bytes where tied. ``overrides``: the first whose pattern matches a product's
    name (``model.layers.3.mlp.c_proj``) wins over ``body``. ``lift``: a scheme for the products
    that lose most by ``body`` per byte, as measured
    (:mod:`sc2onnx.export.quantize.sensitivity`), as long as all products take at most
    ``body_bits`` per weight on average, scales included; overridden ones stay as they are.
    ``calibrate``: round with the statistics of a text instead of each weight to its nearest.
    Without it nothing is lifted: what is sensitive is measured on that text.
    """

    name: str
    body: Scheme
    head: Scheme
    overrides: tuple[Override, ...] = ()
    lift: Scheme | None = None
    body_bits: float = 0.0
    calibrate: bool = False

    def __post_init__(self) -> None:
        if self.lift is not None and not 0 < self.body_bits < inf:
            raise RequestError(
                f"recipe {self.name}: body_bits is {self.body_bits}, expected the bits per weight "
                "up to which products are lifted"
            )
        if self.lift is not None and not self.calibrate:
            raise RequestError(
                f"recipe {self.name}: lift without calibrate, expected both: what is sensitive is "
                "measured on the text of calibration"
            )
        if self.lift is None and self.body_bits:
            raise RequestError(
                f"recipe {self.name}: body_bits is {self.body_bits} and there is no lift, "
                "expected both or neither"
            )

    def scheme(self, product: str) -> Scheme:
        """Of a product of the layers, by the name of its weight without ``.weight``."""
        return next(
            (override.scheme for override in self.overrides if override.matches(product)), self.body
        )

    def overridden(self, product: str) -> bool:
        """Whether the recipe names its scheme, which is then not lifted."""
        return any(override.matches(product) for override in self.overrides)

    def to_json(self) -> str:
        """Every field, as :func:`recipe` reads it back."""
        return json.dumps(asdict(self), indent=2) + "\n"


_PRESETS: Final = (
    Recipe("int8", body=Scheme(8, 64), head=Scheme(8, 32)),
    Recipe(
        "int4",
        body=Scheme(4, 64),
        head=Scheme(8, 128),
        lift=Scheme(8, 256),
        body_bits=4.665,
        calibrate=True,
    ),
    Recipe(
        "int4-fast",
        body=Scheme(4, 128),
        head=Scheme(8, 128),
        lift=Scheme(8, 256),
        body_bits=4.25,
        calibrate=True,
    ),
)
PRESETS: Final[Mapping[str, Recipe]] = {preset.name: preset for preset in _PRESETS}
"""``int4``: best quality for its size.
``int4-fast``: fewest bytes. What each costs in quality: docs/quality.md.
"""

_CUDA_PRESETS: Final = (
    Recipe("int8", body=Scheme(8, 32), head=Scheme(8, 32)),
    Recipe("int4", body=Scheme(4, 32), head=Scheme(8, 32), calibrate=True),
)
CUDA_PRESETS: Final[Mapping[str, Recipe]] = {preset.name: preset for preset in _CUDA_PRESETS}
"""What the same names mean on a GPU, whose kernels for few rows want blocks of 32; scales
take half the bytes there.
"""

PRESETS_BY_DEVICE: Final[Mapping[Device, Mapping[str, Recipe]]] = {
    "cpu": PRESETS,
    "cuda": CUDA_PRESETS,
}
"""Device of a target -> what names of recipes mean there."""


def recipe(name: str, presets: Mapping[str, Recipe] = PRESETS) -> Recipe:
    """A preset, or the recipe in the file ``name`` if it ends in ``.json``.
    Raises :class:`RequestError`.
    """
    if not name.endswith(".json"):
        if name not in presets:
            raise RequestError(
                f"precision is {name!r}, expected one of {', '.join(presets)}, or a "
                "recipe in a .json file"
            )
        return presets[name]
    try:
        raw = json.loads(texts.contents(Path(name)).decode("utf-8"))
        return _from_dict({"name": Path(name).stem, **raw})
    except OSError as error:
        raise RequestError(f"the recipe {name} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, RequestError):
            raise
        example = PRESETS["int4"].to_json().replace("\n", " ")
        raise RequestError(
            f"the recipe {name} is malformed ({error}), expected something like {example}"
        ) from error


def _from_dict(raw: Mapping[str, Any]) -> Recipe:
    fields = {
        name: _scheme(value) if name in ("body", "head", "lift") else value
        for name, value in raw.items()
    }
    if "overrides" in raw:
        fields["overrides"] = tuple(
            record(Override, {**entry, "scheme": _scheme(entry.get("scheme"))})
            for entry in raw["overrides"]
        )
    return record(Recipe, fields)


def _scheme(raw: Any) -> Any:
    """A scheme; what is none is left to whoever checks the types."""
    return record(Scheme, raw) if isinstance(raw, dict) else raw
