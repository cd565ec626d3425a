"""What a precision makes of the weights, and the products that read them: floats as they are, or codes and scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.contract import LINEAR
from sc2onnx.bundle.quantization import Quantization
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import CheckpointError, OutputError, RequestError
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.grouped_query import check_head_size
from sc2onnx.export.graph.layers import Products, float_products
from sc2onnx.export.graph.quantized import Schemes, cuda_products, nbits_products, standard_products
from sc2onnx.export.precision import Variant
from sc2onnx.export.progress import Progress
from sc2onnx.export.quantize import calibrate, corpus, sensitivity
from sc2onnx.export.quantize.codec import Quantised
from sc2onnx.export.quantize.recipe import Recipe
from sc2onnx.export.quantize.store import Need, Rounded, Store, checkpoint_digest, open_store, windows_digest
from sc2onnx.export.quantize.weights import LAYERS, Layout, nearest, quantised_weights, schemes
from sc2onnx.export.weights import LazyWeight, some_tensors, total_bytes

Weights = Mapping[str, LazyWeight]

_PRODUCTS: Final[Mapping[str, Callable[[Schemes], Products]]] = {
    "nbits": nbits_products,
    "nbits-apart": cuda_products,
    "standard": standard_products,
}
"""``products`` of a target -> what computes them."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the user wants of calibration: ``wanted`` None leaves it to the recipe, ``files`` None takes the shipped text.

    ``tokens`` None is :data:`~sc2onnx.export.quantize.corpus.DEFAULT_TOKENS`, and asks for nothing.
    """

    wanted: bool | None = None
    files: tuple[Path, ...] | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.files is not None and not self.files:
            raise RequestError("calibration is on no files, expected one at least, or None for the text that sc2onnx ships")
        if self.wanted is False and self._asked:
            raise RequestError("calibration is switched off and given a text or a number of tokens, expected either")
        if self.tokens is not None and self.tokens < corpus.LENGTH:
            raise RequestError(f"calibration is on {self.tokens} tokens, expected {corpus.LENGTH} at least")

    @property
    def _asked(self) -> bool:
        return self.files is not None or self.tokens is not None

    def applies(self, recipe: Recipe | None) -> bool:
        """Whether weights are rounded with the statistics of a text. Raises :class:`RequestError` if that was asked for in vain."""
        if recipe is None and (self.wanted or self._asked):
            raise RequestError("calibration is asked for where nothing is rounded to integers, expected precision int4, int8 or a recipe")
        applies = recipe is not None and (self.files is not None or (recipe.calibrate if self.wanted is None else self.wanted))
        if self._asked and not applies:
            raise RequestError(f"calibration is on {self.tokens} tokens where nothing is calibrated, expected --calibration FILE as well")
        return applies


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """The weights of a bundle by name, the products of its graph, and what the manifest says of both.

    ``schemes``: of the products that are integers. ``zeros``: blocks of zeros by tensor of the
    checkpoint, counted while the weights are written.
    """

    weights: Weights
    products: Products
    quantization: Quantization | None
    schemes: Schemes = field(default_factory=dict)
    zeros: Mapping[str, int] = field(default_factory=dict)

    def doubts(self) -> str | None:
        """What looks wrong about the weights, now that they are written; None if nothing does."""
        if not any(self.zeros.values()):
            return None
        named = some_tensors([name for name, count in self.zeros.items() if count])
        return (
            f"blocks of zeros in {named}, {sum(self.zeros.values())} in all: they stay zeros; "
            "check the checkpoint, unless it was pruned or has tokens that are never used"
        )


def size_limit(config: Starcoder2Config, floats: Weights, variant: Variant) -> int:
    """Bytes of weights that a bundle has at most: what calibration will lift is not known before."""
    recipe = variant.recipe()
    if recipe is None:
        return total_bytes(floats.values())
    chosen = schemes(config, floats, recipe)
    plan = _quantised(config, floats, variant, recipe, _Rounding(chosen))
    return total_bytes(plan.weights.values()) + _lift_room(floats, chosen, recipe)


@contextmanager
def planned(
    opened: Checkpoint,
    config: Starcoder2Config,
    floats: Weights,
    variant: Variant,
    calibration: Calibration,
    report: Progress,
    bundle: Need | None = None,
) -> Iterator[WeightPlan]:
    """The weights of a variant, to be written inside the block. Calibration happens on entering; otherwise nothing is read yet.

    ``bundle``: room that calibration has to leave. Raises :class:`RequestError` for a shape that the variant does not take.
    """
    if variant.cache.kind == LINEAR:
        check_head_size(config)
    recipe = variant.recipe()
    calibrated = calibration.applies(recipe)
    if recipe is None:
        yield WeightPlan(floats, float_products(config), None)
        return
    chosen: Mapping[str, Scheme] = schemes(config, floats, recipe)
    if not calibrated:
        yield _quantised(config, floats, variant, recipe, _Rounding(chosen))
        return
    tokens = corpus.DEFAULT_TOKENS if calibration.tokens is None else calibration.tokens
    text = corpus.read(opened.directory, calibration.files, tokens, config.max_position_embeddings, _separator(config))
    report.stage(f"calibrating on {text.description}")
    files = sorted({tensor.file for tensor in opened.tensors.values()})
    parts = {"checkpoint": checkpoint_digest(files), "config": dict(opened.config), "text": windows_digest(text.windows), "recipe": recipe.to_json()}
    with open_store(parts, report) as store:
        body = _body(floats, chosen)
        kept = sum(scheme.nbytes(*floats[f"{name}.weight"].shape) for name, scheme in body.items()) + _lift_room(floats, chosen, recipe)
        store.check_space(kept, bundle)
        chosen = _with_lifts(config, floats, recipe, chosen, text, store, report)
        report.stage("rounding layer by layer", _body_bytes(floats, chosen))
        calibrate.calibrate(config, floats, chosen, text.windows, store, report)
        yield _quantised(config, floats, variant, recipe, _Rounding(chosen, store, text.description))


@dataclass(frozen=True, slots=True)
class _Rounding:
    """Schemes by product, and where calibration left its roundings, if there was one.

    ``zeros``: blocks of zeros by tensor of the checkpoint, of the weights that have been rounded so far.
    """

    schemes: Mapping[str, Scheme]
    store: Store | None = None
    text: str | None = None
    zeros: dict[str, int] = field(default_factory=dict)

    def __call__(self, weight: LazyWeight, scheme: Scheme) -> Iterator[Quantised]:
        product, zeros = weight.name.removesuffix(".weight"), list[npt.NDArray[np.bool_]]()
        for part in nearest(weight, scheme) if self.store is None or not _calibrated(product) else [self._stored(self.store, product).quantised]:
            zeros.append(part.zeros)
            yield part
        ends = np.cumsum([rows for _, rows in weight.parts])
        parts = np.split(np.concatenate(zeros), ends[:-1])
        self.zeros.update({name: int(part.sum()) for (name, _), part in zip(weight.parts, parts, strict=True)})

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

    def _stored(self, store: Store, product: str) -> Rounded:
        done = store.get(product, self.schemes[product])
        if done is None:
            raise OutputError(f"the calibration in {store.directory} lost {product} meanwhile: export again, what is left of it will be used")
        return done


def _separator(config: Starcoder2Config) -> int | None:
    """The token between texts, if there is one. Raises :class:`CheckpointError` if the model has no such token."""
    if not config.eos_token_ids:
        return None
    separator = config.eos_token_ids[0]
    if not 0 <= separator < config.vocab_size:
        raise CheckpointError(
            f"config.json: eos_token_id is {separator}, which calibration puts between texts, expected 0 to {config.vocab_size - 1}: "
            "correct it, or pass --no-calibration"
        )
    return separator


def _quantised(config: Starcoder2Config, floats: Weights, variant: Variant, recipe: Recipe, rounding: _Rounding) -> WeightPlan:
    layout: Layout = "columns" if variant.made_for.transposed else "rows"
    floats = {name: rounding.bias(weight) for name, weight in floats.items()}
    weights = quantised_weights(floats, rounding.schemes, layout, rounding, variant.dtype)
    products = _PRODUCTS[variant.made_for.products](rounding.schemes)
    body = _body(floats, rounding.schemes)
    scale = variant.dtype.itemsize
    nbytes = [scheme.nbytes(rows, columns, scale) for name, scheme in body.items() for rows, columns in [floats[f"{name}.weight"].shape]]
    bits = 8 * sum(nbytes) / _parameters(floats, body)
    how = "nearest" if rounding.store is None else "calibrated"
    quantization = Quantization(recipe.name, dict(rounding.schemes), round(bits, 4), how, rounding.text)
    return WeightPlan(weights, products, quantization, rounding.schemes, rounding.zeros)


def _with_lifts(
    config: Starcoder2Config,
    floats: Weights,
    recipe: Recipe,
    chosen: Mapping[str, Scheme],
    text: corpus.CalibrationText,
    store: Store,
    report: Progress,
) -> Mapping[str, Scheme]:
    """The schemes, the most sensitive products lifted where the recipe wants that."""
    if recipe.lift is None:
        return chosen
    measured = store.sensitivities(_body(floats, chosen))
    if measured is None:
        report.stage("measuring which products are sensitive", _body_bytes(floats, chosen))
        measured = sensitivity.measure(config, floats, chosen, text.sample(sensitivity.TOKENS), report)
        store.put_sensitivities(measured)
    return sensitivity.lifted(recipe, chosen, floats, measured)


def _lift_room(floats: Weights, chosen: Mapping[str, Scheme], recipe: Recipe) -> int:
    """Bytes by which lifting may enlarge the layers' products."""
    shapes = {name: floats[f"{name}.weight"].shape for name in _body(floats, chosen)}
    return 0 if recipe.lift is None else max(0, int(sensitivity.lift_room(recipe, chosen, shapes)))


def _calibrated(product: str) -> bool:
    """The layers' products are; embedding and head are rounded to the nearest."""
    return product.startswith(LAYERS)


def _body(floats: Weights, chosen: Mapping[str, Scheme]) -> dict[str, Scheme]:
    """The layers' products among those that have a scheme."""
    return {name: scheme for name, scheme in chosen.items() if _calibrated(name) and f"{name}.weight" in floats}


def _parameters(floats: Weights, body: Iterable[str]) -> int:
    return sum(prod(floats[f"{name}.weight"].shape) for name in body)


def _body_bytes(floats: Weights, chosen: Mapping[str, Scheme]) -> int:
    return 4 * _parameters(floats, _body(floats, chosen))
