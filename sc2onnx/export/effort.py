"""Memory and time of an export: formulas that were fitted to measurements."""

from __future__ import annotations

from math import prod
from typing import Final

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.plan import Plan
from sc2onnx.export.quantize import corpus
from sc2onnx.export.quantize.streams import ORIGINAL_TOKENS
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

_CALIBRATION_INTERPRETER: Final = 580_000_000
"""Python, and what a batch of tokens takes."""
_OURS_COPIES: Final = 3
"""Activations of our stream that are there at once: residual, normed, inputs of ``c_proj``."""
_ORIGINAL_COPIES: Final = 4
"""The same of the original's, and what the outputs of ours lack."""
_CALIBRATION_COPIES: Final = 3
"""Of the widest matrix, in float32: ``c_fc`` of both models, ``c_proj``."""

# Time of a calibration on two processors, from the first layer of the 3B shape
# (docs/measurements.md). A layer takes 22 s for its roundings, and for each token 0.8 ms in ours
# and 1.0 ms in the original; the sensitivities about 4 s a layer. What a token takes in a layer
# however small is from the mini checkpoint.
_MEASURED_HIDDEN: Final = 3072
_MEASURED_INNER: Final = 12288
_SENSITIVITY_SECONDS: Final = 4.0
_ROUNDING_SECONDS: Final = 22.0
_OURS_SECONDS: Final = 0.8e-3
_ORIGINAL_SECONDS: Final = 1.0e-3
_SMALLEST_TOKEN_SECONDS: Final = 0.03e-3


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

    Activations (tokens, hidden) of ours, and on fewer tokens of the original, and a perceptron's
    weights, all in float32. For the 3B shape: 2.1 + 0.8 + 0.45 + 0.58 = 3.95 GB.
    """
    activations = _OURS_COPIES * tokens + _ORIGINAL_COPIES * min(tokens, ORIGINAL_TOKENS)
    values = config.hidden_size * (activations + _CALIBRATION_COPIES * config.intermediate_size)
    return 4 * values + _CALIBRATION_INTERPRETER


def calibration_seconds(
    config: Starcoder2Config,
    tokens: int = corpus.DEFAULT_TOKENS,
    *,
    sensitivities: bool = True,
) -> float:
    """About how long a calibration on a text of so many tokens takes on two processors.

    It is derived from what a layer took at the 3B shape. A layer's work on tokens goes with its
    weights, that on rounding with them and their inputs; ``sensitivities``, which decide what is
    lifted, take a pass forward and one back. For the 3B shape and the default text: 45 minutes.
    """
    size, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    weights = (size * inner) / (_MEASURED_HIDDEN * _MEASURED_INNER)
    rounding = weights * size / _MEASURED_HIDDEN * _ROUNDING_SECONDS
    forward = tokens * _OURS_SECONDS + min(tokens, ORIGINAL_TOKENS) * _ORIGINAL_SECONDS
    layer = rounding + weights * forward + tokens * _SMALLEST_TOKEN_SECONDS
    return layers * (layer + (weights * _SENSITIVITY_SECONDS if sensitivities else 0))
