"""One product of a layer under its inputs: moments gathered, rounded, its bias moved; a wide one
in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import overload

import numpy as np

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export.config import ACTIVATIONS, Starcoder2Config
from sc2onnx.export.quantize import native
from sc2onnx.export.quantize.codec import Floats, Quantised, dequantise
from sc2onnx.export.quantize.forward import Affine, gelu
from sc2onnx.export.quantize.moments import Moments
from sc2onnx.export.quantize.native import IntegerProduct
from sc2onnx.export.quantize.rounding import round_jointly
from sc2onnx.export.quantize.store import Rounded
from sc2onnx.export.quantize.streams import Pair

Product = Affine | IntegerProduct
"""A product of the rounded model: in floats, or as our kernels compute it."""


def round_product(
    product: Affine,
    scheme: Scheme,
    inputs: Iterable[Pair],
    owed: Iterable[Floats | None] = repeat(None),
    metric: Floats | None = None,
) -> Rounded:
    """A product, rounded for its ``inputs``: of the original, where it is computed, and of the
    rounded model, by batch. ``owed``: what outputs of each batch lack beside, where that is known.
    ``metric`` (out, out): which errors of the outputs matter.

    The bias takes up the difference that rounding makes to the mean output.
    """
    moments = Moments(product.weight, centred=product.bias is not None)
    for (original, ours), lacking in zip(inputs, owed, strict=False):
        moments.add(_tokens(original), _tokens(ours), _tokens(lacking))
    means = moments.means
    quantised = round_jointly(product.weight, moments, scheme, metric)
    if product.bias is None:
        return Rounded(quantised, None)
    bias = product.bias + product.weight @ means[0] - dequantise(quantised) @ means[1]
    return Rounded(quantised, bias.astype(np.float32))


def product_of(quantised: Quantised, bias: Floats | None) -> Product:
    """The product with a rounded matrix: by our kernels where they are, as at run time."""
    kernels = native.look()
    found = None if kernels is None else kernels.product(quantised, bias)
    return Affine(dequantise(quantised), bias) if found is None else found


def activated(product: Product, config: Starcoder2Config) -> Callable[[Floats], Floats]:
    """The product, and the activation of its outputs."""
    if isinstance(product, IntegerProduct) and ACTIVATIONS[config.hidden_act] == "tanh":
        return product.through_gelu()
    return lambda x: gelu(product(x), config)


def input_parts(columns: int, widest: int, scheme: Scheme) -> Iterator[slice]:
    """Ranges of inputs, of whole blocks, of about ``widest`` at most, as equal as can be.

    12,288 inputs by 3,072: four of 3,072.
    """
    blocks = columns // scheme.block_size
    count = min(blocks, -(-columns // widest))
    ends = [scheme.block_size * (number * blocks // count) for number in range(count + 1)]
    return map(slice, ends[:-1], ends[1:])


def joined(parts: Sequence[Rounded], bias: Floats | None) -> Rounded:
    """The product whose inputs' parts these are. Each was rounded with ``bias``, that of all."""
    quantised = [part.quantised for part in parts]
    whole = Quantised(
        np.concatenate([part.codes for part in quantised], axis=1),
        np.concatenate([part.scales for part in quantised], axis=1),
        quantised[0].scheme,
    )
    if bias is None:
        return Rounded(whole, None)
    changes = sum(part.bias - bias for part in parts if part.bias is not None)
    return Rounded(whole, np.asarray(bias + changes, np.float32))


@overload
def _tokens(x: Floats) -> Floats: ...
@overload
def _tokens(x: None) -> None: ...
def _tokens(x: Floats | None) -> Floats | None:
    """(windows, length, channels) -> (tokens, channels)."""
    return None if x is None else x.reshape(-1, x.shape[-1])
