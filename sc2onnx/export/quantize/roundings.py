"""Where the integers of each matrix come from: what calibration left, or the nearest codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import OutputError
from sc2onnx.export.quantize.codec import Quantised
from sc2onnx.export.quantize.store import Rounded, Store
from sc2onnx.export.quantize.weights import LAYERS, nearest
from sc2onnx.export.weights import LazyWeight


@dataclass(frozen=True, slots=True)
class Roundings:
    """Schemes by product, and where calibration left its roundings, if there was one.

    ``text`` describes what it was calibrated on. ``zeros``: blocks of zeros by tensor of the
    checkpoint, of the weights that have been rounded so far.
    """

    schemes: Mapping[str, Scheme]
    store: Store | None = None
    text: str | None = None
    zeros: dict[str, int] = field(default_factory=dict)

    def __call__(self, weight: LazyWeight, scheme: Scheme) -> Iterator[Quantised]:
        """The rows of a matrix in order, rounded."""
        zeros = list[npt.NDArray[np.bool_]]()
        for part in self._parts(weight, scheme):
            zeros.append(part.zeros)
            yield part
        ends = np.cumsum([rows for _, rows in weight.parts])
        parts = np.split(np.concatenate(zeros), ends[:-1])
        for (name, _), blocks in zip(weight.parts, parts, strict=True):
            self.zeros[name] = int(blocks.sum())

    def bias(self, weight: LazyWeight) -> LazyWeight:
        """A bias with what calibration made of it; any other weight as it is."""
        product = weight.name.removesuffix(".bias")
        if self.store is None or product == weight.name or product not in self.schemes:
            return weight
        store = self.store

        def chunks() -> Iterator[npt.NDArray[np.float32]]:
            done = self._stored(store, product)
            assert done.bias is not None
            yield done.bias

        return replace(weight, chunks=chunks)

    def _parts(self, weight: LazyWeight, scheme: Scheme) -> Iterable[Quantised]:
        """Calibration is of the layers' products; embedding and head are rounded to the nearest."""
        product = weight.name.removesuffix(".weight")
        if self.store is None or not product.startswith(LAYERS):
            return nearest(weight, scheme)
        return [self._stored(self.store, product).quantised]

    def _stored(self, store: Store, product: str) -> Rounded:
        done = store.get(product, self.schemes[product])
        if done is None:
            lost = f"the calibration in {store.directory} lost {product} meanwhile"
            raise OutputError(f"{lost}: export again, what is left of it will be used")
        return done
