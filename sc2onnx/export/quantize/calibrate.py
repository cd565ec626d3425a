"""Layer by layer: what the text makes of each product's inputs, and the rounding that suits them.

Two streams of activations run through the model side by side, that of the original and that of what
is rounded so far. Only one matrix is held in floats at a time; the largest pieces of memory are the
second moments of the widest product's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import CheckpointError, TensorError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.progress import Progress
from sc2onnx.export.quantize.codec import Floats, dequantise, quantise
from sc2onnx.export.quantize.forward import Affine, attention, gelu, layer_norm, rotary_tables
from sc2onnx.export.quantize.rounding import Moments, round_jointly
from sc2onnx.export.quantize.store import Rounded, Store
from sc2onnx.export.quantize.weights import LAYERS
from sc2onnx.export.weights import EMBEDDING, LazyWeight

BATCH_TOKENS = 2048
"""Tokens computed at once: their widest activations are the temporary memory of a forward pass."""

Weights = Mapping[str, LazyWeight]
Windows = npt.NDArray[np.int64]
Pair = tuple[Floats, Floats]
"""The same of the original and of ours."""


# what is not finite is noticed at the next product, and named
@np.errstate(over="ignore", invalid="ignore")
def calibrate(
    config: Starcoder2Config,
    weights: Weights,
    schemes: Mapping[str, Scheme],
    windows: Windows,
    store: Store,
    report: Progress,
) -> None:
    """Round every product of the layers on windows (count, length) of token ids, and leave
    the outcome in ``store``.

    What is there already is taken as it is; if all of it is, nothing is computed.
    """
    products = [name for name in schemes if name.startswith(LAYERS)]
    if all(store.has(name, schemes[name]) for name in products):
        return
    streams = ResidualStreams(
        *embed(weights[EMBEDDING], windows, schemes[EMBEDDING.removesuffix(".weight")])
    )
    work = CalibrationRun(config, weights, schemes, store, report, streams)
    for layer in range(config.num_hidden_layers):
        work.layer(f"model.layers.{layer}")


def embed(weight: LazyWeight, windows: Windows, scheme: Scheme) -> Pair:
    """Embeddings (count, length, hidden) of the original and rounded, from one pass over the table.

    Raises :class:`~sc2onnx.errors.CheckpointError` for token ids beyond it.
    """
    if (largest := int(windows.max())) >= weight.shape[0]:
        raise CheckpointError(
            f"tokenizer.json makes token {largest} of the calibration text, expected less than "
            f"{weight.shape[0]}, the rows of {weight.name}: it belongs to another model"
        )
    original = np.empty((*windows.shape, weight.shape[1]), dtype=np.float32)
    ours = np.empty_like(original)
    first = 0
    for rows in weight.chunks():
        here = (windows >= first) & (windows < first + len(rows))
        original[here] = rows[windows[here] - first]
        ours[here] = dequantise(quantise(rows, scheme))[windows[here] - first]
        first += len(rows)
    return original, ours


def affine(weights: Weights, name: str) -> Affine:
    """A product or a norm in floats."""
    return Affine(
        whole(weights[f"{name}.weight"]),
        whole(weights[f"{name}.bias"]) if f"{name}.bias" in weights else None,
    )


def whole(weight: LazyWeight) -> Floats:
    """A weight in one piece."""
    array = np.empty(weight.shape, dtype=np.float32)
    first = 0
    for rows in weight.chunks():
        array[first : first + len(rows)] = rows
        first += len(rows)
    return array


@dataclass(slots=True)
class ResidualStreams:
    """Residual streams (windows, length, hidden), moved on in place."""

    original: Floats
    ours: Floats

    def batches(self) -> Iterator[slice]:
        """Ranges of windows."""
        count, length, _ = self.original.shape
        step = max(1, BATCH_TOKENS // length)
        return (slice(first, first + step) for first in range(0, count, step))


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """One calibration: rounds product after product and moves both streams through it."""

    config: Starcoder2Config
    weights: Weights
    schemes: Mapping[str, Scheme]
    store: Store
    report: Progress
    streams: ResidualStreams

    def layer(self, name: str) -> None:
        """One layer: attention, then the multilayer perceptron."""
        self._attention(name)
        self._mlp(f"{name}.mlp", affine(self.weights, f"{name}.post_attention_layernorm"))

    def _attention(self, name: str) -> None:
        norm = affine(self.weights, f"{name}.input_layernorm")
        qkv = self.rounded(f"{name}.self_attn.qkv_proj", lambda batch: self._normed(batch, norm))
        tables = rotary_tables(self.config, self.streams.original.shape[1])
        width = self.config.query_size
        mixed: Pair = tuple(
            np.empty((*self.streams.original.shape[:2], width), dtype=np.float32) for _ in range(2)
        )  # type: ignore[assignment]
        for batch in self.streams.batches():
            for into, product, x in zip(mixed, qkv, self._normed(batch, norm), strict=True):
                into[batch] = attention(product(x), self.config, tables)
        out = self.rounded(
            f"{name}.self_attn.o_proj", lambda batch: (mixed[0][batch], mixed[1][batch])
        )
        self._add(out, lambda batch: (mixed[0][batch], mixed[1][batch]))

    def _mlp(self, name: str, norm: Affine) -> None:
        fc = self.rounded(f"{name}.c_fc", lambda batch: self._normed(batch, norm))

        def inner(batch: slice) -> Pair:
            original, ours = self._normed(batch, norm)
            return gelu(fc[0](original), self.config), gelu(fc[1](ours), self.config)

        self._add(self.rounded(f"{name}.c_proj", inner), inner)

    def _normed(self, batch: slice, norm: Affine) -> Pair:
        epsilon = self.config.norm_epsilon
        return layer_norm(self.streams.original[batch], norm, epsilon), layer_norm(
            self.streams.ours[batch], norm, epsilon
        )

    def _add(self, products: tuple[Affine, Affine], inputs: Callable[[slice], Pair]) -> None:
        for batch in self.streams.batches():
            original, ours = inputs(batch)
            self.streams.original[batch] += products[0](original)
            self.streams.ours[batch] += products[1](ours)

    def rounded(self, name: str, inputs: Callable[[slice], Pair]) -> tuple[Affine, Affine]:
        """The product as it was and as it is rounded, which is then in the store."""
        product = affine(self.weights, name)
        done = self.store.get(name, self.schemes[name])
        if done is None:
            try:
                done = round_product(
                    product, self.schemes[name], map(inputs, self.streams.batches())
                )
            except np.linalg.LinAlgError as error:
                raise TensorError(
                    f"{name} cannot be calibrated ({error}): check the checkpoint, "
                    "or pass --no-calibration"
                ) from error
            self.store.put(name, done)
        self.report.advance(product.weight.nbytes)
        return product, Affine(dequantise(done.quantised), done.bias)


def round_product(product: Affine, scheme: Scheme, inputs: Iterable[Pair]) -> Rounded:
    """A product, rounded for its ``inputs``: of the original and of the rounded model, by batch.

    The bias takes up the difference that rounding makes to the mean output.
    """
    moments = Moments(product.weight, centred=product.bias is not None)
    for original, ours in inputs:
        moments.add(original.reshape(-1, original.shape[-1]), ours.reshape(-1, ours.shape[-1]))
    means = moments.means
    quantised = round_jointly(product.weight, moments, scheme)
    if product.bias is None:
        return Rounded(quantised, None)
    bias = product.bias + product.weight @ means[0] - dequantise(quantised) @ means[1]
    return Rounded(quantised, bias.astype(np.float32))
