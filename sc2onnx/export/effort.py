"""Memory and time of an export: formulas that were fitted to measurements."""

from __future__ import annotations

import functools
import time
from math import prod
from typing import Final

import numpy as np

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.plan import Plan
from sc2onnx.export.quantize import corpus, sensitivity
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

_CALIBRATION_INTERPRETER: Final = 550_000_000
"""Python, and what a batch of tokens takes."""
_OURS_COPIES: Final = 3
"""Activations of our stream that are there at once: residual, normed, inputs of ``c_proj``."""
_ORIGINAL_COPIES: Final = 4
"""The same of the original's, and what the outputs of ours lack."""
_CALIBRATION_COPIES: Final = 2
"""Of the widest matrix, in float32: ``c_fc`` while it is rounded, parts of it and of ``c_proj``."""

# Work of a calibration, in float32 operations of matrix products that take as long; from the first
# layers of the 3B shape (docs/measurements.md). A layer has 9 of 10^12 for its roundings, and for
# each token 0.26 of 10^9 in ours and 0.5 in the original; gradients have 1.2 for each token. What a
# token has in a layer however small is from the mini checkpoint.
_MEASURED_HIDDEN: Final = 3072
_MEASURED_INNER: Final = 12288
_ROUNDING_WORK: Final = 9e12
_OURS_WORK: Final = 0.26e9
_ORIGINAL_WORK: Final = 0.5e9
_GRADIENT_WORK: Final = 1.2e9
_SMALLEST_TOKEN_WORK: Final = 0.005e9


@functools.cache
def product_speed() -> float:
    """Float32 operations per second of matrix products on this machine, measured in a moment."""
    matrix = np.ones((1536, 1536), dtype=np.float32)
    times = list[float]()
    for _ in range(3):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return float(2 * len(matrix) ** 3 / min(times))


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
    weights, all in float32. For the 3B shape: 2.1 + 1.0 + 0.3 + 0.55 = 3.97 GB.
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
    """About how long a calibration on a text of so many tokens takes on this machine.

    A layer's work on tokens goes with its weights, that on rounding with them and their inputs;
    ``sensitivities``, which decide what is lifted, take a pass forward and one back. For the 3B
    shape and the default text: 41 * 10^12 operations a layer, 136 minutes at 150 * 10^9 a second.
    """
    size, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    weights = (size * inner) / (_MEASURED_HIDDEN * _MEASURED_INNER)
    work = weights * size / _MEASURED_HIDDEN * _ROUNDING_WORK + tokens * _SMALLEST_TOKEN_WORK
    work += weights * (tokens * _OURS_WORK + min(tokens, ORIGINAL_TOKENS) * _ORIGINAL_WORK)
    if sensitivities:
        work += weights * min(tokens, sensitivity.TOKENS) * _GRADIENT_WORK
    return layers * work / product_speed()
