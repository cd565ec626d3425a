"""What an export will take, said before any work: bytes of weights, memory, disk, hours of calibration.

It needs the configuration alone, and reads and writes nothing.

Sizes are those of the weights that :func:`~sc2onnx.export.plan.planned` plans for a checkpoint of empty headers, so they are what
an export writes. Memory is a formula, fitted to measurements: its constants stand together below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from sc2onnx.bundle.facts import CacheLayout, ModelFacts
from sc2onnx.bundle.targets import OWN_TARGETS
from sc2onnx.errors import RequestError
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.plan import Calibration, WeightPlan, planned
from sc2onnx.export.precision import PRECISIONS, Variant
from sc2onnx.export.progress import Silent
from sc2onnx.export.quantize import corpus
from sc2onnx.export.quantize.recipe import Recipe
from sc2onnx.export.quantize.weights import EMBEDDING_PRODUCT, HEAD_PRODUCT, codes_name, scales_name
from sc2onnx.export.stored import StoredTensor
from sc2onnx.export.weights import CHUNK_BYTES, LazyWeight, checkpoint_shapes, graph_weights, total_bytes, total_parameters
from sc2onnx.export.writer import place, space_needed

_STORED: Final = "BF16"
"""Type that the checkpoint is taken to have: the one that StarCoder2 is trained in, and the most values in a chunk."""

# Peak resident memory of an export. Measured on Linux, two processors: random checkpoints of 0.01 to 0.5 GB, the largest of them
# one layer of the 3B shape with its whole embedding, within 15 %.
_INTERPRETER: Final = 121_000_000
"""Python and the packages of the exporter, imported."""
_CHUNK_COPIES: Final = 2
"""A chunk of values is there in the graph's type as often: the one being written, and the next."""
_CHUNK_EXTRA: Final = 3
"""Bytes per value of a chunk beside its stored form and these copies: tests for finite numbers, the graph."""
_ROUNDING_EXTRA: Final = 5
"""Bytes per value of a chunk that is quantised: codes, packed codes, tiles being rounded."""
_TRANSPOSED_COPIES: Final = 4
"""A matrix that is transposed is there in int8 as often, and its scales so often less one."""

_CALIBRATION_INTERPRETER: Final = 450_000_000
_CALIBRATION_COPIES: Final = 6
"""Of the widest matrix, in float32."""

# Time of a calibration on two processors, measured at the 3B shape (docs/measurements.md): 26 minutes for the sensitivities, and a
# layer's rounding as 165 s, for the factors of its statistics, and 3.5 ms for each token of the text. What a token takes in a layer
# however small is from the mini checkpoint: two minutes in all.
_MEASURED_LAYERS: Final = 30
_MEASURED_HIDDEN: Final = 3072
_MEASURED_INNER: Final = 12288
_SENSITIVITY_SECONDS: Final = 26 * 60
_FACTORS_SECONDS: Final = 165
_TOKEN_SECONDS: Final = 3.2e-3
_SMALLEST_TOKEN_SECONDS: Final = 0.3e-3


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes that exporting one variant takes, and how long its calibration does.

    ``weights`` is the manifest's ``weight_bytes``, or if not ``exact`` the most that it can be: which products get more bits is found
    out by the export. ``memory``: peak resident memory, Python included. ``disk``: what must be free for the bundle;
    ``calibration_cache``: what a calibrated recipe keeps beside it, else 0. ``calibration_seconds``: about how long it takes on two
    processors with the default text, else 0. ``cache``: layout of the key-value cache.
    """

    precision: str
    target: str
    weights: int
    exact: bool
    memory: int
    disk: int
    calibration_cache: int
    calibration_seconds: float
    cache: CacheLayout


def facts(config: Starcoder2Config) -> ModelFacts:
    """What a manifest would say of the model."""
    return config.facts(total_parameters(checkpoint_shapes(config)), config.eos_token_ids)


def variants() -> list[Variant]:
    """Every precision for every target of our own that it can be exported for; for other runtimes the weights are those for the CPU."""
    found = []
    for precision in PRECISIONS:
        for target in OWN_TARGETS:
            try:
                found.append(Variant(precision, target.name))
            except RequestError:  # these two do not go together
                continue
    return found


def forecast(config: Starcoder2Config, variant: Variant) -> Forecast:
    """Of a checkpoint with this configuration. Raises :class:`RequestError` where the recipe's blocks do not divide a matrix."""
    headers, recipe = _headers(config), variant.recipe()
    floats = graph_weights(headers, config, variant.read_as)
    with planned(headers, config, floats, variant, Calibration(wanted=False), Silent()) as without_calibration:  # nothing is read
        plan = without_calibration
    _, size = place(plan.weights.values())
    body = _body(plan)
    lifted = 0 if recipe is None else _most_lifted(floats, plan, body, recipe)
    memory, cached, seconds = streaming_peak(floats, plan.weights, variant), 0, 0.0
    if recipe is not None and recipe.calibrate:
        memory, cached = max(memory, calibration_peak(config)), _packed(plan, body) + lifted
        seconds = calibration_seconds(config, sensitivities=recipe.lift is not None)
    return Forecast(
        precision=variant.name,
        target=variant.target,
        weights=total_bytes(plan.weights.values()) + lifted,
        exact=recipe is None or recipe.lift is None,
        memory=memory,
        disk=space_needed(size + lifted),
        calibration_cache=cached,
        calibration_seconds=seconds,
        cache=variant.cache,
    )


def streaming_peak(floats: Mapping[str, LazyWeight], written: Mapping[str, LazyWeight], variant: Variant) -> int:
    """Peak resident bytes of an export that rounds each weight by itself, from what it reads (``floats``) to what it writes.

    A chunk of values passes through at a time. For the portable target, the largest matrix is there whole, to be transposed.
    For the 3B shape in fp32: 121 MB + 8.4 million values * (2 + 2 * 4 + 3 bytes) = 230 MB.
    """
    recipe, largest = variant.recipe(), max(prod(weight.shape) for weight in floats.values())
    extra = _CHUNK_EXTRA + (0 if recipe is None else _ROUNDING_EXTRA)
    stored = 2  # bytes of a value in bfloat16
    chunk = min(CHUNK_BYTES // stored, largest) * (stored + _CHUNK_COPIES * variant.read_as.itemsize + extra)
    scales = max((weight.nbytes for name, weight in written.items() if name.endswith(".scales")), default=0)
    if recipe is None or not variant.made_for.transposed:
        return _INTERPRETER + chunk + scales
    return _INTERPRETER + max(chunk + scales, _TRANSPOSED_COPIES * largest + (_TRANSPOSED_COPIES - 1) * scales)


def calibration_peak(config: Starcoder2Config, tokens: int = corpus.DEFAULT_TOKENS) -> int:
    """Peak resident bytes of rounding with the statistics of a text of so many tokens.

    Two residual streams (tokens, hidden) and, at the product with the most inputs (``mlp.c_proj``: K inputs, N outputs), two (K, K)
    matrices of statistics and some copies of the weight, all in float32. For the 3B shape: 1.4 + 1.2 + 0.9 + 0.45 = 3.97 GB;
    measured: 3.97 GB.
    """
    inputs, outputs = config.intermediate_size, config.hidden_size
    streams, statistics = 2 * tokens * config.hidden_size, 2 * inputs * inputs
    return 4 * (streams + statistics + _CALIBRATION_COPIES * outputs * inputs) + _CALIBRATION_INTERPRETER


def calibration_seconds(config: Starcoder2Config, tokens: int = corpus.DEFAULT_TOKENS, *, sensitivities: bool = True) -> float:
    """About how long a calibration on a text of so many tokens takes on two processors, from what it took at the 3B shape.

    A layer's work on tokens goes with its weights, that on the factors of its statistics with the cube of its inputs; ``sensitivities``,
    which decide what is lifted, take a pass through all layers for every product. For the 3B shape and the default text: 3.5 hours.
    """
    size, inner = config.hidden_size, config.intermediate_size
    weights = (size * inner) / (_MEASURED_HIDDEN * _MEASURED_INNER)
    factors = (inner**3 + inner**2 * size) / (_MEASURED_INNER**3 + _MEASURED_INNER**2 * _MEASURED_HIDDEN)
    layers = config.num_hidden_layers
    rounding = layers * (factors * _FACTORS_SECONDS + tokens * (weights * _TOKEN_SECONDS + _SMALLEST_TOKEN_SECONDS))
    return rounding + (weights * (layers / _MEASURED_LAYERS) ** 2 * _SENSITIVITY_SECONDS if sensitivities else 0)


def _headers(config: Starcoder2Config) -> Checkpoint:
    """A complete checkpoint of which there are only names and shapes."""
    tensors = {name: StoredTensor(name, _STORED, shape, Path(), 0) for name, shape in checkpoint_shapes(config).items()}
    return Checkpoint(Path(), {}, {}, tensors)


def _body(plan: WeightPlan) -> list[str]:
    """The quantised products of the layers: those that ``body_bits`` counts."""
    schemes = {} if plan.quantization is None else plan.quantization.schemes
    return [product for product in schemes if product not in (EMBEDDING_PRODUCT, HEAD_PRODUCT)]


def _packed(plan: WeightPlan, products: Collection[str]) -> int:
    """Bytes of the codes and scales of these products."""
    return sum(plan.weights[name(product)].nbytes for product in products for name in (codes_name, scales_name))


def _most_lifted(floats: Mapping[str, LazyWeight], plan: WeightPlan, body: Collection[str], recipe: Recipe) -> int:
    """Bytes that lifting may add to these products: up to ``body_bits`` per weight on average, scales included."""
    if recipe.lift is None:
        return 0
    values = sum(prod(floats[f"{product}.weight"].shape) for product in body)
    return max(0, int(values * recipe.body_bits / 8) - _packed(plan, body))
