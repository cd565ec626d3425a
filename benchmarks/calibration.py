r"""What calibrating takes at a full-size shape, layer by layer, without a checkpoint of that size:
the first layers of one with random weights.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE \
        python benchmarks/calibration.py 3b [--layers 1] [--precision int4] [--tokens 57344]

Seconds of each product (its statistics, its rounding, and both streams moving up to it), seconds by
kind of work, those of measuring sensitivities for as many layers, and peak resident memory. A whole
export is estimated from the last of the layers. OpenBLAS reads the two settings above; they make it
slower than it is.

The weights are normal numbers, and some channels are larger than others. How long rounding takes
does not depend on the values.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.export import calibrated
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.progress import Silent
from sc2onnx.export.quantize import calibrate, corpus, native, products, sensitivity
from sc2onnx.export.quantize.forward import Affine
from sc2onnx.export.quantize.moments import Moments
from sc2onnx.export.quantize.recipe import PRESETS
from sc2onnx.export.quantize.store import Store
from sc2onnx.export.quantize.weights import schemes
from sc2onnx.export.shapes import SHAPES
from sc2onnx.export.weights import CHUNK_BYTES, EMBEDDING, LazyWeight

Floats = npt.NDArray[np.float32]


def weights(config: Starcoder2Config) -> dict[str, LazyWeight]:
    """Random weights by name, made anew each time that they are read."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{name}.{norm}.weight": (hidden,), f"{name}.{norm}.bias": (hidden,)}
        mixed = config.query_size + 2 * config.num_key_value_heads * config.head_dim
        for product, rows, columns in (
            ("self_attn.qkv_proj", mixed, hidden),
            ("self_attn.o_proj", hidden, config.query_size),
            ("mlp.c_fc", inner, hidden),
            ("mlp.c_proj", hidden, inner),
        ):
            shapes |= {
                f"{name}.{product}.weight": (rows, columns),
                f"{name}.{product}.bias": (rows,),
            }
    shapes |= {"model.norm.weight": (hidden,), "model.norm.bias": (hidden,)}
    return {
        name: LazyWeight(name, shape, np.dtype(np.float32), partial(rows_of, name, shape))
        for name, shape in shapes.items()
    }


def rows_of(name: str, shape: tuple[int, ...]) -> Iterator[Floats]:
    """A few rows at a time, as a checkpoint is read."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 1:
        yield np.full(shape, float("norm.weight" in name), dtype=np.float32)
        return
    channels = np.exp(0.5 * random.standard_normal(shape[1])).astype(np.float32)
    height = max(1, CHUNK_BYTES // (4 * shape[1]))
    for first in range(0, shape[0], height):
        rows = min(height, shape[0] - first)
        yield np.float32(0.02) * random.standard_normal((rows, shape[1]), np.float32) * channels


@dataclass
class Times(Silent):
    """Seconds of each product as they come, and of kinds of work within them."""

    products: list[float] = field(default_factory=list)
    kinds: dict[str, float] = field(default_factory=dict)
    began: float = 0.0

    def stage(self, text: str, total: int = 0) -> None:
        """Begin anew."""
        self.products.clear()
        self.began = time.perf_counter()

    def advance(self, nbytes: int) -> None:
        """One more product is done."""
        now = time.perf_counter()
        self.products.append(now - self.began)
        self.began = now

    def watch(self, place: Any, name: str, kind: str) -> None:
        """Count the seconds in a function, and in those that it calls."""
        function: Callable[..., Any] = getattr(place, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                took = time.perf_counter() - began
                self.kinds[kind] = self.kinds.get(kind, 0.0) + took

        setattr(place, name, timed)


PRODUCTS = ("qkv_proj", "o_proj", "c_fc", "c_proj")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--precision", choices=["int4", "int4-fast"], default="int4")
    parser.add_argument("--tokens", type=int, default=corpus.DEFAULT_TOKENS)
    parser.add_argument("--no-sensitivity", action="store_true")
    options = parser.parse_args()
    whole = SHAPES[options.shape]
    config = Starcoder2Config.from_dict({**whole, "num_hidden_layers": options.layers})
    floats = weights(config)
    chosen = schemes(config, floats, PRESETS[options.precision])
    random = np.random.default_rng(0)
    windows = random.integers(
        0, config.vocab_size, (options.tokens // corpus.LENGTH, corpus.LENGTH)
    )
    layers = whole["num_hidden_layers"]
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        seconds = beside = 0.0
        if not options.no_sensitivity:
            seconds, beside = sensitivities(config, floats, chosen, windows, store)
        seconds += rounding(config, floats, chosen, windows, store)
    print(f"{layers} layers: {(seconds * layers + beside) / 60:.1f} minutes")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak resident memory: {peak / 1e9:.2f} GB")


def rounding(
    config: Starcoder2Config,
    floats: Mapping[str, LazyWeight],
    chosen: Mapping[str, Scheme],
    windows: npt.NDArray[np.int64],
    store: Store,
) -> float:
    """Print the seconds of each layer; those of the last."""
    times = Times()
    times.watch(Moments, "add", "moments")
    times.watch(products, "round_jointly", "rounding")
    times.watch(Affine, "__call__", "products")
    times.watch(native.IntegerProduct, "__call__", "integer products")
    times.watch(calibrate, "embed", "embedding")
    times.watch(products, "gelu", "gelu")
    for name in ("attention", "layer_norm", "affine"):
        times.watch(calibrate, name, name)
    times.stage("")
    calibrate.calibrate(config, floats, chosen, windows, store, times)
    print(f"| layer | {' | '.join(PRODUCTS)} | all |\n|{'---|' * (len(PRODUCTS) + 2)}")
    last = 0.0
    for layer in range(config.num_hidden_layers):
        seconds = times.products[layer * len(PRODUCTS) :][: len(PRODUCTS)]
        last = sum(seconds)
        print(f"| {layer} | {' | '.join(f'{value:.1f}' for value in (*seconds, last))} |")
    print({kind: round(value, 1) for kind, value in times.kinds.items()}, flush=True)
    return last


def sensitivities(
    config: Starcoder2Config,
    floats: Mapping[str, LazyWeight],
    chosen: Mapping[str, Scheme],
    windows: npt.NDArray[np.int64],
    store: Store,
) -> tuple[float, float]:
    """Seconds of a layer, and beside the layers; gradients are in ``store`` then."""
    sample = corpus.CalibrationText(windows, "").sample(sensitivity.TOKENS)
    times = Times()
    times.stage("")
    keep = partial(calibrated.keep_gradients, store)
    sensitivity.measure(config, floats, chosen, sample, times, keep)
    forward, back = np.split(np.array(times.products), 2)
    layer = float(forward[-1] + back[-1])
    beside = sum(times.products) - layer * config.num_hidden_layers
    print(
        f"sensitivities: {layer:.1f} s a layer ({forward[-1]:.1f} forward), {beside:.1f} s beside, "
        f"on {sample.size} tokens"
    )
    return layer, beside


if __name__ == "__main__":
    main()
