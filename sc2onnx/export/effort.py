"""Memory and time of an export: formulas that were fitted to measurements."""

from __future__ import annotations

from math import prod
from typing import Final

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.plan import Plan
from sc2onnx.export.quantize import corpus
from sc2onnx.export.weights import CHUNK_BYTES

# Peak resident memory of an export. Measured on Linux, two processors: random checkpoints of 0.01
# to 0.5 GB, the largest of them one layer of the 3B shape with its whole embedding, within 15 %.
_INTERPRETER: Final = 121_000_000
"""Python and the packages of the exporter, imported."""
_CHUNK_COPIES: Final = 2
"""A chunk of values is there in the graph's type as often: the one being written, and the next."""
_CHUNK_EXTRA: Final = 3
"""Bytes per value of a chunk beside its stored form and these copies: tests for finite numbers, the
graph."""
_ROUNDING_EXTRA: Final = 5
"""Bytes per value of a chunk that is quantised: codes, packed codes, tiles being rounded."""
_TRANSPOSED_COPIES: Final = 4
"""A matrix that is transposed is there in int8 as often, and its scales so often less one."""

_CALIBRATION_INTERPRETER: Final = 450_000_000
_CALIBRATION_COPIES: Final = 6
"""Of the widest matrix, in float32."""

# Time of a calibration on two processors, measured at the 3B shape (docs/measurements.md):
# 26 minutes for the sensitivities, and a layer's rounding as 165 s, for the factors of its
# statistics, and 3.5 ms for each token of the text. What a token takes in a layer however small is
# from the mini checkpoint: two minutes in all.
_MEASURED_LAYERS: Final = 30
_MEASURED_HIDDEN: Final = 3072
_MEASURED_INNER: Final = 12288
_SENSITIVITY_SECONDS: Final = 26 * 60
_FACTORS_SECONDS: Final = 165
_TOKEN_SECONDS: Final = 3.2e-3
_SMALLEST_TOKEN_SECONDS: Final = 0.3e-3


def streaming_peak(plan: Plan) -> int:
    """Peak resident bytes of an export that rounds each weight by itself.

    A chunk of values passes through at a time. For the portable target, the largest matrix is there
    whole, to be transposed.
    For the 3B shape in fp32: 121 MB + 8.4 million values * (2 + 2 * 4 + 3 bytes) = 230 MB.
    """
    variant, written = plan.variant, plan.weights().weights
    quantised = variant.recipe() is not None
    largest = max(prod(weight.shape) for weight in plan.floats.values())
    extra = _CHUNK_EXTRA + (_ROUNDING_EXTRA if quantised else 0)
    stored = 2  # bytes of a value in bfloat16
    each = stored + _CHUNK_COPIES * variant.read_as.itemsize + extra
    chunk = min(CHUNK_BYTES // stored, largest) * each
    tables = (weight.nbytes for name, weight in written.items() if name.endswith(".scales"))
    scales = max(tables, default=0)
    if not quantised or not variant.made_for.transposed:
        return _INTERPRETER + chunk + scales
    transposed = _TRANSPOSED_COPIES * largest + (_TRANSPOSED_COPIES - 1) * scales
    return _INTERPRETER + max(chunk + scales, transposed)


def calibration_peak(config: Starcoder2Config, tokens: int = corpus.DEFAULT_TOKENS) -> int:
    """Peak resident bytes of rounding with the statistics of a text of so many tokens.

    Two residual streams (tokens, hidden) and, at the product with the most inputs (``mlp.c_proj``:
    K inputs, N outputs), two (K, K) matrices of statistics and some copies of the weight, all in
    float32. For the 3B shape: 1.4 + 1.2 + 0.9 + 0.45 = 3.97 GB; measured: 3.97 GB.
    """
    inputs, outputs = config.intermediate_size, config.hidden_size
    streams, statistics = 2 * tokens * config.hidden_size, 2 * inputs * inputs
    values = streams + statistics + _CALIBRATION_COPIES * outputs * inputs
    return 4 * values + _CALIBRATION_INTERPRETER


def calibration_seconds(
    config: Starcoder2Config,
    tokens: int = corpus.DEFAULT_TOKENS,
    *,
    sensitivities: bool = True,
) -> float:
    """About how long a calibration on a text of so many tokens takes on two processors.

    It is derived from what it took at the 3B shape. A layer's work on tokens goes with its weights,
    that on the factors of its statistics with the cube of its inputs; ``sensitivities``, which
    decide what is lifted, take a pass through all layers for every product. For the 3B shape and
    the default text: 3.5 hours.
    """
    size, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    weights = (size * inner) / (_MEASURED_HIDDEN * _MEASURED_INNER)
    measured = _MEASURED_INNER**3 + _MEASURED_INNER**2 * _MEASURED_HIDDEN
    factors = (inner**3 + inner**2 * size) / measured
    token = weights * _TOKEN_SECONDS + _SMALLEST_TOKEN_SECONDS
    rounding = layers * (factors * _FACTORS_SECONDS + tokens * token)
    passes = weights * (layers / _MEASURED_LAYERS) ** 2 * _SENSITIVITY_SECONDS
    return rounding + (passes if sensitivities else 0)
