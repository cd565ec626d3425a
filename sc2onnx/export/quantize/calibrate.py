"""Layer by layer: what the text makes of each product's inputs, and the rounding that suits them.

Two streams of activations run through the model side by side, that of the original and that of what
is rounded so far; the original's on a part of the text only. Only one layer's perceptron is held in
floats at a time; the largest pieces of memory are activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import TensorError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.progress import Progress
from sc2onnx.export.quantize.codec import Floats
from sc2onnx.export.quantize.forward import Affine, attention, layer_norm, rotary_tables
from sc2onnx.export.quantize.metric import output_metric
from sc2onnx.export.quantize.products import (
    Product,
    activated,
    input_parts,
    joined,
    product_of,
    round_product,
)
from sc2onnx.export.quantize.store import Rounded, Store
from sc2onnx.export.quantize.streams import Pair, Streams, Windows, both, embed, through
from sc2onnx.export.quantize.weights import LAYERS
from sc2onnx.export.weights import EMBEDDING, LazyWeight

OF_RESIDUAL: Final = 0.5
"""How much of what the residual stream has come to lack a product that adds to it makes up for;
measured in docs/decisions/0008-calibration.md.
"""

WHOLE: Final = 3072
"""Inputs that are rounded at once, however many the model's channels are: only where there are more
is it worth the time to round ``c_proj`` in parts, each of which knows less.
"""

Weights = Mapping[str, LazyWeight]

ALL: Final = slice(None)


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
    scheme = schemes[EMBEDDING.removesuffix(".weight")]
    streams = embed(weights[EMBEDDING], windows, scheme)
    work = CalibrationRun(config, weights, schemes, store, report, streams)
    for layer in range(config.num_hidden_layers):
        work.layer(f"model.layers.{layer}")


def affine(weights: Weights, name: str, outputs: slice = ALL, inputs: slice = ALL) -> Affine:
    """A norm in floats, or of a product some outputs and inputs, all of them by default."""
    bias = weights.get(f"{name}.bias")
    return Affine(
        part_of(weights[f"{name}.weight"], outputs, inputs),
        None if bias is None else part_of(bias, outputs),
    )


def part_of(weight: LazyWeight, rows: slice = ALL, columns: slice = ALL) -> Floats:
    """Some rows and columns of a weight, which is read a few rows at a time."""
    first, stop, _ = rows.indices(weight.shape[0])
    places = (slice(None), columns)[: len(weight.shape)]
    widths = (len(range(*columns.indices(size))) for size in weight.shape[1:])
    array = np.empty((stop - first, *widths), dtype=np.float32)
    at = 0
    for chunk in weight.chunks():
        here = chunk[max(first - at, 0) : max(stop - at, 0)]
        start = max(at - first, 0)
        array[start : start + len(here)] = here[places]
        at += len(chunk)
    return array


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """One calibration: rounds product after product and moves both streams through it.
    ``rooms``: by name, for what lies beside the streams.
    """

    config: Starcoder2Config
    weights: Weights
    schemes: Mapping[str, Scheme]
    store: Store
    report: Progress
    streams: Streams
    rooms: dict[str, Streams] = field(default_factory=dict)

    def layer(self, name: str) -> None:
        """One layer: attention, then the multilayer perceptron."""
        self._attention(f"{name}.self_attn", affine(self.weights, f"{name}.input_layernorm"))
        self._mlp(f"{name}.mlp", affine(self.weights, f"{name}.post_attention_layernorm"))

    def _attention(self, name: str, norm: Affine) -> None:
        qkv = self._rounded(f"{name}.qkv_proj", lambda batch: self._normed(batch, norm))
        tables = rotary_tables(self.config, self.streams.ours.shape[1])
        mixed = self._room("outer", self.config.query_size)
        for batch in self.streams.batches():
            x = through(qkv, self._normed(batch, norm))
            mixed.put(batch, both(lambda y: attention(y, self.config, tables), x))
        out = self._rounded(f"{name}.o_proj", mixed.at, self.streams.lacking(OF_RESIDUAL))
        for batch in self.streams.batches():
            self.streams.add(batch, through(out, mixed.at(batch)))

    def _mlp(self, name: str, norm: Affine) -> None:
        normed = self._room("outer", self.config.hidden_size)
        for batch in self.streams.batches():
            normed.put(batch, self._normed(batch, norm))
        _, up = self._rounded(f"{name}.c_fc", normed.at)
        self._down(name, up, normed)

    def _down(self, mlp: str, up: Product, normed: Streams) -> None:
        """``c_proj``, a part of its inputs after the other: so each activation is computed once,
        kept until its part is rounded, and moves the streams on. What the parts before did to the
        outputs, the next one makes up for, and in part for what the residual stream lacks.
        """
        name = f"{mlp}.c_proj"
        scheme, weight = self.schemes[name], self.weights[f"{name}.weight"]
        stored, parts = self.store.get(name, scheme), list[Rounded]()
        owed = self.streams.lacking(OF_RESIDUAL)
        widest = max(self.config.hidden_size, WHOLE)
        for inputs in input_parts(weight.shape[1], widest, scheme):
            inner = self._room("inner", inputs.stop - inputs.start)
            self._inner(f"{mlp}.c_fc", inputs, up, normed, inner)
            part = affine(self.weights, name, inputs=inputs)
            if stored is None:
                parts.append(self._round(name, part, scheme, inner.at, owed))
            done = parts[-1] if stored is None else stored.part(inputs)
            self._move(part.unbiased, product_of(done.quantised, None), inner, owed)
        if stored is None:
            stored = joined(parts, part.bias)
            self.store.put(name, stored)
        if part.bias is not None and stored.bias is not None:
            self.streams.original[:] += part.bias
            self.streams.ours[:] += stored.bias
        self.report.advance(weight.nbytes)

    def _move(self, original: Affine, ours: Product, inner: Streams, owed: Floats) -> None:
        """Both streams through a part of ``c_proj``; what ours then lacks is added to ``owed``."""
        for batch in self.streams.batches():
            y = through((original, ours), inner.at(batch))
            self.streams.add(batch, y)
            if y[0] is not None:
                owed[batch] += y[0] - y[1]

    def _inner(
        self, name: str, outputs: slice, ours: Product, normed: Streams, inner: Streams
    ) -> None:
        """Inputs of a part of ``c_proj``: these outputs of ``c_fc``, whose name is given."""
        original = affine(self.weights, name, outputs=outputs)
        models = activated(original, self.config), activated(ours.part(outputs), self.config)
        for batch in self.streams.batches():
            inner.put(batch, through(models, normed.at(batch)))

    def _room(self, name: str, channels: int) -> Streams:
        """Room for activations beside the residual stream, taken again by the next that ask for
        it: memory that is new to a process costs time.
        """
        room = self.rooms.get(name)
        if room is None or room.ours.shape[-1] != channels:
            self.rooms.pop(name, None)
            room = self.rooms[name] = self.streams.room(channels)
        return room

    def _normed(self, batch: slice, norm: Affine) -> Pair:
        epsilon = self.config.norm_epsilon
        return both(lambda x: layer_norm(x, norm, epsilon), self.streams.at(batch))

    def _rounded(
        self, name: str, inputs: Callable[[slice], Pair], owed: Floats | None = None
    ) -> tuple[Affine, Product]:
        """The product as it was and as it is rounded, which is then in the store. ``owed``: what
        its outputs are to make up for.
        """
        product, scheme = affine(self.weights, name), self.schemes[name]
        done = self.store.get(name, scheme)
        if done is None:
            done = self._round(name, product, scheme, inputs, owed)
            self.store.put(name, done)
        self.report.advance(product.weight.nbytes)
        return product, product_of(done.quantised, done.bias)

    def _metric(self, name: str) -> Floats | None:
        """Which errors of a product's outputs matter, where that is known."""
        gradients = self.store.gradients(name)
        return None if gradients is None else output_metric(gradients)

    def _round(
        self,
        name: str,
        product: Affine,
        scheme: Scheme,
        inputs: Callable[[slice], Pair],
        owed: Floats | None = None,
    ) -> Rounded:
        batches = list(self.streams.batches())
        lacking = (None if owed is None else owed[batch] for batch in batches)
        try:
            metric = self._metric(name)
            return round_product(product, scheme, map(inputs, batches), lacking, metric)
        except np.linalg.LinAlgError as error:
            raise TensorError(
                f"{name} cannot be calibrated ({error}): check the checkpoint, "
                "or pass --no-calibration"
            ) from error
