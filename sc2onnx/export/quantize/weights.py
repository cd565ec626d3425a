"""Float weights of the graph -> codes and scales, still lazy: rounded when they are
written, a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import RequestError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.quantize.codec import Floats, Quantised, pack, quantise
from sc2onnx.export.quantize.recipe import Recipe
from sc2onnx.export.weights import EMBEDDING, HEAD, LazyWeight, recast

Layout = Literal["rows", "columns"]
"""``rows``: (out, in) for ``MatMulNBits``; ``columns``: (in, out) for
``DequantizeLinear`` before ``MatMul``.
"""

Rounding = Callable[[LazyWeight, Scheme], Iterable[Quantised]]
"""A float weight -> its rows in order, rounded."""

EMBEDDING_PRODUCT: Final = EMBEDDING.removesuffix(".weight")
LAYERS: Final = "model.layers."
HEAD_PRODUCT: Final = HEAD.removesuffix(".weight")


def codes_name(product: str) -> str:
    """Name of a product's packed codes in the graph."""
    return f"{product}.weight.codes"


def scales_name(product: str) -> str:
    """Name of a product's scales in the graph."""
    return f"{product}.weight.scales"


def schemes(
    config: Starcoder2Config, weights: Mapping[str, LazyWeight], recipe: Recipe
) -> dict[str, Scheme]:
    """Scheme of every matrix by product; the head's own entry is there also where it is tied.

    Raises :class:`~sc2onnx.errors.RequestError` where blocks do not divide a matrix, and
    for an override of nothing.
    """
    found: dict[str, Scheme] = {}
    for name, weight in weights.items():
        product = name.removesuffix(".weight")
        if name in (EMBEDDING, HEAD):
            found[product] = recipe.head
        elif name.startswith(LAYERS) and name.endswith(".weight") and len(weight.shape) == 2:
            found[product] = recipe.scheme(product)
    layers = [product for product in found if product.startswith(LAYERS)]
    for override in recipe.overrides:
        if not any(override.matches(product) for product in layers):
            products = ", ".join(sorted({product.split(".", 3)[3] for product in layers}))
            raise RequestError(
                f"recipe {recipe.name}: {override.pattern!r} matches no product, expected "
                f"{LAYERS}LAYER. and one of {products}"
            )
    for product, scheme in found.items():
        columns = weights[f"{product}.weight"].shape[1]
        scheme.check_columns(f"{product}.weight", columns)
        if recipe.lift is not None and product in layers and not recipe.overridden(product):
            recipe.lift.check_columns(f"{product}.weight, which may be lifted,", columns)
    return found | ({HEAD_PRODUCT: recipe.head} if config.tie_word_embeddings else {})


def nearest(weight: LazyWeight, scheme: Scheme) -> Iterator[Quantised]:
    """Each weight to its nearest code, under scales that minimise the squared error."""
    for rows in weight.chunks():
        yield quantise(rows, scheme)


_FLOAT32: Final = np.dtype(np.float32)


def quantised_weights(
    weights: Mapping[str, LazyWeight],
    chosen: Mapping[str, Scheme],
    layout: Layout,
    rounding: Rounding = nearest,
    dtype: np.dtype[Any] = _FLOAT32,
    scales: np.dtype[Any] = _FLOAT32,
) -> dict[str, LazyWeight]:
    """The same weights, with codes and scales in the place of every matrix that has a scheme.
    ``dtype``: of all other weights.

    A head that is tied appears as a second view of the embedding's bytes: in ``rows`` its
    operator wants another shape; in ``columns`` ONNX Runtime packs the matrix of a product only
    if nothing else reads it.
    """
    made: dict[str, LazyWeight] = {}
    for name, weight in weights.items():
        product = name.removesuffix(".weight")
        is_matrix = name.endswith(".weight") and product in chosen
        pair = _Matrix(weight, chosen[product], rounding).pair(layout) if is_matrix else [weight]
        made |= {part.name: _cast(part, product, dtype, scales) for part in pair}
    if HEAD_PRODUCT in chosen and HEAD not in weights:
        for part in _Matrix(weights[EMBEDDING], chosen[HEAD_PRODUCT], rounding, HEAD_PRODUCT).pair(
            layout
        ):
            shares = part.name.replace(HEAD_PRODUCT, EMBEDDING_PRODUCT)
            made[part.name] = LazyWeight(
                part.name, part.shape, made[shares].dtype, lambda: iter(()), shares
            )
    return made


def _cast(
    part: LazyWeight, product: str, dtype: np.dtype[Any], scales: np.dtype[Any]
) -> LazyWeight:
    if part.name == codes_name(product):
        return part
    return recast(part, scales if part.name == scales_name(product) else dtype)


@dataclass(slots=True)
class _Matrix:
    """One matrix (out, in) under a scheme.
    Rounding gives codes and scales at once; the scales wait until they are written.
    """

    weight: LazyWeight
    scheme: Scheme
    rounding: Rounding
    product: str = ""
    _scales: list[Floats] = field(default_factory=list)

    def pair(self, layout: Layout) -> list[LazyWeight]:
        """Codes and scales."""
        return (
            self._columns()
            if layout == "columns"
            else self._rows(blocked=self._name != EMBEDDING_PRODUCT)
        )

    @property
    def _name(self) -> str:
        return self.product or self.weight.name.removesuffix(".weight")

    def _rows(self, blocked: bool) -> list[LazyWeight]:
        """Codes (out, in / block_size, bytes of a block), or (out, bytes of a row) if not
        ``blocked``; scales (out, in / block_size).
        """
        out, columns = self.weight.shape
        blocks, width = (
            columns // self.scheme.block_size,
            self.scheme.bits * self.scheme.block_size // 8,
        )
        shape = (out, blocks, width) if blocked else (out, blocks * width)
        return self._pair(
            shape, np.dtype(np.uint8), self._packed, (out, blocks), lambda: iter(self._taken())
        )

    def _columns(self) -> list[LazyWeight]:
        """Codes (in, out), signed, and scales (in / block_size, out)."""
        out, columns = self.weight.shape
        dtype = np.dtype(ml_dtypes.int4 if self.scheme.bits == 4 else np.int8)
        shape = (columns // self.scheme.block_size, out)
        return self._pair(
            (columns, out),
            dtype,
            self._transposed,
            shape,
            lambda: iter([np.ascontiguousarray(np.concatenate(self._taken()).T)]),
        )

    def _pair(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunks: Callable[[], Iterator[npt.NDArray[Any]]],
        scales_shape: tuple[int, ...],
        scales: Callable[[], Iterator[npt.NDArray[Any]]],
    ) -> list[LazyWeight]:
        return [
            LazyWeight(codes_name(self._name), shape, dtype, chunks),
            LazyWeight(scales_name(self._name), scales_shape, np.dtype(np.float32), scales),
        ]

    def _rounded(self) -> Iterator[Quantised]:
        self._scales = []
        for part in self.rounding(self.weight, self.scheme):
            self._scales.append(part.scales)
            yield part

    def _packed(self) -> Iterator[npt.NDArray[np.uint8]]:
        return (pack(part.codes, self.scheme) for part in self._rounded())

    def _transposed(self) -> Iterator[npt.NDArray[np.uint8]]:
        whole = np.ascontiguousarray(np.concatenate([part.codes for part in self._rounded()]).T)
        # The standard's 4-bit integers are signed: two's complement in each nibble, where the
        # contrib operator adds half.
        signed = pack(whole.reshape(1, -1), self.scheme).reshape(-1)
        yield signed ^ np.uint8(0x88 if self.scheme.bits == 4 else 0x80)

    def _taken(self) -> list[Floats]:
        """The scales of the rounding just done, given up."""
        if not self._scales:
            self._scales = [part.scales for part in self.rounding(self.weight, self.scheme)]
        taken, self._scales = self._scales, []
        return taken
