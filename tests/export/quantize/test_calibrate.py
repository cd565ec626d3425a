"""Calibration of small random models: what it leaves in the store, and that it goes on
where an interruption left it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc2onnx.bundle.kernels import VARIABLE
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import CheckpointError, TensorError
from sc2onnx.export.progress import Progress, Silent
from sc2onnx.export.quantize import calibrate as room
from sc2onnx.export.quantize import products, streams
from sc2onnx.export.quantize.calibrate import affine, calibrate
from sc2onnx.export.quantize.codec import Floats, dequantise, quantise
from sc2onnx.export.quantize.forward import Affine, attention, gelu, layer_norm, rotary_tables
from sc2onnx.export.quantize.products import Product, product_of
from sc2onnx.export.quantize.rounding import round_jointly
from sc2onnx.export.quantize.store import Store
from sc2onnx.export.quantize.streams import embed
from sc2onnx.export.weights import EMBEDDING
from tests.export.quantize.conftest import Case

MakeCase = Callable[..., Case]
Contents = Callable[[Path], dict[str, bytes | None]]

PARTS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.c_fc", "mlp.c_proj")
PRODUCTS = [f"model.layers.{layer}.{part}" for layer in range(2) for part in PARTS]


class StopAfter(Silent):
    """An interruption once so many products are done."""

    def __init__(self, products: int) -> None:
        self.left = products

    def advance(self, nbytes: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Counted(Silent):
    def __init__(self) -> None:
        self.nbytes: list[int] = []

    def advance(self, nbytes: int) -> None:
        self.nbytes.append(nbytes)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Store]:
    """``run(case, name, report)`` calibrates into a store of that name."""

    def run(
        case: Case, name: str = "store", report: Progress | None = None, windows: Any = None
    ) -> Store:
        store = Store(tmp_path / name)
        store.directory.mkdir(exist_ok=True)
        calibrate(
            case.config,
            case.floats,
            case.schemes,
            case.windows if windows is None else windows,
            store,
            report or Silent(),
        )
        return store

    return run


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ``c_proj``, as in large models."""
    monkeypatch.setattr(room, "WHOLE", 0)


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the matrices that are rounded from now on."""
    shapes = list[tuple[int, ...]]()
    original = round_jointly

    def counted(weight: Floats, *arguments: Any) -> Any:
        shapes.append(weight.shape)
        return original(weight, *arguments)

    monkeypatch.setattr(products, "round_jointly", counted)
    return shapes


def model(case: Case, products: Mapping[str, Product], stream: Floats) -> Floats:
    """The residual stream after the last layer, equation by equation."""
    config, tables = case.config, rotary_tables(case.config, stream.shape[1])
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        x = layer_norm(stream, affine(case.floats, f"{name}.input_layernorm"), config.norm_epsilon)
        x = attention(products[f"{name}.self_attn.qkv_proj"](x), config, tables)
        stream = stream + products[f"{name}.self_attn.o_proj"](x)
        x = layer_norm(
            stream, affine(case.floats, f"{name}.post_attention_layernorm"), config.norm_epsilon
        )
        stream = stream + products[f"{name}.mlp.c_proj"](
            gelu(products[f"{name}.mlp.c_fc"](x), config)
        )
    return stream


SHAPES = [
    {},
    {"use_bias": False},
    {"hidden_act": "gelu", "num_key_value_heads": 1},
    {"tie_word_embeddings": False, "sliding_window": None},
]


@pytest.mark.parametrize(
    ("kernels", "tolerance"), [("off", 1e-4), ("auto", 2e-2)], ids=["floats", "kernels"]
)
@pytest.mark.parametrize("seen", [1, 2, 3])
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_every_product_is_rounded_and_both_streams_move_on(
    changes: Mapping[str, Any],
    seen: int,
    kernels: str,
    tolerance: float,
    make_case: MakeCase,
    run: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The streams end where the original and the rounded model end, whichever batches they moved
    in. ``seen``: windows that the original sees, too. With the kernels, activations are rounded,
    some of them to the one side here and to the other there.
    """
    monkeypatch.setenv(VARIABLE, kernels)
    monkeypatch.setattr(streams, "BATCH_TOKENS", 48)  # two windows, then one
    monkeypatch.setattr(streams, "ORIGINAL_TOKENS", seen * 24)
    made_streams = []

    def kept(*arguments: Any) -> Any:
        made_streams.append(made := embed(*arguments))
        return made

    monkeypatch.setattr(room, "embed", kept)
    case, report = make_case(changes), Counted()
    store = run(case, report=report)
    found = {name: store.get(name, case.schemes[name]) for name in PRODUCTS}
    originals = {name: affine(case.floats, name) for name in PRODUCTS}
    ours = dict[str, Product]()
    for name, done in found.items():
        assert done is not None
        assert done.quantised.codes.shape == originals[name].weight.shape
        assert (done.bias is None) == (originals[name].bias is None)
        ours[name] = product_of(done.quantised, done.bias)
    starts = embed(case.floats[EMBEDDING], case.windows, case.schemes["model.embed_tokens"])
    np.testing.assert_allclose(
        made_streams[0].original, model(case, originals, starts.original), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        made_streams[0].ours, model(case, ours, starts.ours), rtol=tolerance, atol=tolerance
    )
    assert report.nbytes == [originals[name].weight.nbytes for name in PRODUCTS]


def test_calibration_comes_nearer_to_the_original_than_the_nearest(
    make_case: MakeCase, run: Callable[..., Store]
) -> None:
    """On other text than it was calibrated on."""
    case = make_case()
    store = run(case, windows=np.random.default_rng(2).integers(0, 32, (40, 24)))
    originals = {name: affine(case.floats, name) for name in PRODUCTS}
    nearest = {
        name: Affine(dequantise(quantise(product.weight, case.schemes[name])), product.bias)
        for name, product in originals.items()
    }
    ours = {}
    for name in PRODUCTS:
        done = store.get(name, case.schemes[name])
        assert done is not None
        ours[name] = Affine(dequantise(done.quantised), done.bias)
    starts = embed(case.floats[EMBEDDING], case.windows, case.schemes["model.embed_tokens"])
    assert len(starts.original) == len(starts.ours)
    expected = model(case, originals, starts.original)
    errors = [
        float(((model(case, products, starts.ours) - expected) ** 2).mean())
        for products in (ours, nearest)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_a_bias_makes_up_for_what_rounding_does_to_the_mean(make_case: MakeCase) -> None:
    case = make_case()
    product = affine(case.floats, PRODUCTS[2])
    random = np.random.default_rng(3)
    original = random.standard_normal((500, 32)).astype(np.float32) + np.float32(2)
    ours = original + 0.2 * random.standard_normal((500, 32)).astype(np.float32) + np.float32(0.5)
    done = products.round_product(
        product, Scheme(4, 16), [(original[:200], ours[:200]), (original[200:], ours[200:])]
    )
    found = Affine(dequantise(done.quantised), done.bias)(ours).mean(axis=0)
    np.testing.assert_allclose(found, product(original).mean(axis=0), atol=1e-4)


@pytest.mark.parametrize(("seen", "order"), [(3, [0, 1, 2]), (2, [0, 2, 1]), (1, [0, 1, 2])])
def test_embeddings_of_both_models(
    seen: int, order: list[int], make_case: MakeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that the original sees come first."""
    monkeypatch.setattr(streams, "ORIGINAL_TOKENS", seen * 24 + 5)
    case = make_case()
    table = np.concatenate(list(case.floats[EMBEDDING].chunks()))
    found = embed(case.floats[EMBEDDING], case.windows, Scheme(8, 16))
    windows = case.windows[order]
    np.testing.assert_array_equal(found.original, table[windows[:seen]])
    np.testing.assert_array_equal(found.ours, dequantise(quantise(table, Scheme(8, 16)))[windows])


def test_the_same_twice(make_case: MakeCase, run: Callable[..., Store], contents: Contents) -> None:
    case = make_case()
    assert contents(run(case, "one").directory) == contents(run(case, "other").directory)


def test_nothing_is_computed_if_everything_is_there(
    make_case: MakeCase, run: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case()
    run(case)
    for name in ("embed", "round_product", "attention", "product_of", "layer_norm"):
        monkeypatch.setattr(room, name, lambda *_: pytest.fail("computed again"))
    run(case)


@pytest.mark.parametrize("done", [1, 3, 4, 7])
def test_an_interrupted_calibration_goes_on_where_it_was(
    done: int,
    make_case: MakeCase,
    run: Callable[..., Store],
    contents: Contents,
    rounded: list[tuple[int, ...]],
) -> None:
    case = make_case()
    whole = contents(run(case, "whole").directory)
    with pytest.raises(KeyboardInterrupt):
        run(case, report=StopAfter(done))
    rounded.clear()
    assert contents(run(case).directory) == whole
    assert rounded == [shape for name in PRODUCTS[done:] for shape in shapes(case, name)]


def shapes(case: Case, name: str) -> list[tuple[int, ...]]:
    """Of the matrices that a product is rounded in: two for twice as many inputs as the hidden
    size.
    """
    out, columns = case.floats[f"{name}.weight"].shape
    return [(out, 32)] * (columns // 32)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 9)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _empty, _garbage, _flip])
def test_a_damaged_file_is_made_again(
    damage: Callable[[Path], None],
    make_case: MakeCase,
    run: Callable[..., Store],
    contents: Contents,
    rounded: list[tuple[int, ...]],
) -> None:
    case = make_case()
    store = run(case)
    whole = contents(store.directory)
    damage(store.directory / f"{PRODUCTS[5]}.safetensors")
    assert not store.has(PRODUCTS[5], case.schemes[PRODUCTS[5]])
    rounded.clear()
    assert contents(run(case).directory) == whole
    assert rounded == shapes(case, PRODUCTS[5])


def test_a_product_that_cannot_be_calibrated_is_named(
    make_case: MakeCase, run: Callable[..., Store]
) -> None:
    """Finite weights whose activations are not."""
    case = make_case(edit=lambda tensors: tensors["model.layers.1.mlp.c_fc.weight"].fill(3e38))
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(
            TensorError,
            match=r"model\.layers\.1\.mlp\.c_proj cannot be calibrated .* --no-calibration",
        ),
    ):
        run(case)


def test_a_tokenizer_of_another_model(make_case: MakeCase, run: Callable[..., Store]) -> None:
    with pytest.raises(
        CheckpointError,
        match=(
            r"makes token 32 of the calibration text, expected less than 32, the rows "
            r"of model\.embed_tokens"
        ),
    ):
        run(make_case(), windows=np.full((1, 8), 32))
