"""Which products are sensitive, measured against whole models rounded one product at a time, and
which of them are lifted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import TensorError
from sc2onnx.export.progress import Silent
from sc2onnx.export.quantize.calibrate import affine, part_of
from sc2onnx.export.quantize.codec import Floats, dequantise, quantise
from sc2onnx.export.quantize.forward import Affine, attention, gelu, layer_norm, rotary_tables
from sc2onnx.export.quantize.recipe import Override, Recipe
from sc2onnx.export.quantize.sensitivity import lift_room, lifted, measure
from sc2onnx.export.weights import EMBEDDING, HEAD, LazyWeight
from tests.export.quantize.conftest import Case

Tensors = dict[str, npt.NDArray[Any]]

PARTS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.c_fc", "mlp.c_proj")


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False, "use_bias": False, "hidden_act": "gelu"}],
    ids=str,
)
def test_each_sensitivity_is_about_the_divergence_of_a_model_in_which_the_product_alone_is_rounded(
    changes: Mapping[str, Any], make_case: Callable[..., Case]
) -> None:
    """From tokens drawn once for each of 4,800 positions, and to second order."""
    case = make_case(changes)
    windows = np.random.default_rng(5).integers(0, 32, (200, 24))
    found = measure(case.config, case.floats, case.schemes, windows, Silent())
    assert list(found) == [f"model.layers.{layer}.{part}" for layer in range(2) for part in PARTS]
    reference = log_probabilities(case, windows)
    for product, sensitivity in found.items():
        weight = affine(case.floats, product).weight
        rounded = dequantise(quantise(weight, case.schemes[product]))
        ours = log_probabilities(case, windows, {product: rounded})
        divergence = float((np.exp(reference) * (reference - ours)).sum(axis=-1).mean())
        assert divergence > 5e-5
        assert sensitivity == pytest.approx(divergence, rel=0.4), product


def log_probabilities(
    case: Case, windows: npt.NDArray[np.int64], weights: Mapping[str, Floats] | None = None
) -> Floats:
    """(windows, length, vocab) of a model with other weights for some products."""

    def product(name: str) -> Affine:
        found = affine(case.floats, name)
        return Affine((weights or {}).get(name, found.weight), found.bias)

    config, tables = case.config, rotary_tables(case.config, windows.shape[1])
    table = part_of(case.floats[EMBEDDING])
    x = table[windows]
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        y = layer_norm(x, affine(case.floats, f"{name}.input_layernorm"), config.norm_epsilon)
        y = attention(product(f"{name}.self_attn.qkv_proj")(y), config, tables)
        x = x + product(f"{name}.self_attn.o_proj")(y)
        norm = affine(case.floats, f"{name}.post_attention_layernorm")
        y = layer_norm(x, norm, config.norm_epsilon)
        x = x + product(f"{name}.mlp.c_proj")(gelu(product(f"{name}.mlp.c_fc")(y), config))
    x = layer_norm(x, affine(case.floats, "model.norm"), config.norm_epsilon)
    logits = x @ (table if config.tie_word_embeddings else part_of(case.floats[HEAD])).T
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)), np.float32)


def test_all_bytes_are_reported_forward_and_back(make_case: Callable[..., Case]) -> None:
    case, told = make_case(), list[int]()

    class Counted(Silent):
        def advance(self, nbytes: int) -> None:
            told.append(nbytes)

    measure(case.config, case.floats, case.schemes, case.windows, Counted())
    total = sum(
        case.floats[f"model.layers.{layer}.{part}.weight"].nbytes
        for layer in range(2)
        for part in PARTS
    )
    assert sum(told) == total
    assert len(told) == 4


def test_a_product_whose_sensitivity_is_not_finite_is_named(make_case: Callable[..., Case]) -> None:
    """Finite weights whose activations are not: whatever is rounded, the outcome is no number."""
    case = make_case(edit=lambda tensors: tensors["model.layers.1.mlp.c_fc.weight"].fill(3e38))
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(
            TensorError,
            match=r"sensitivity of .*model\.layers\.0\.self_attn\.qkv_proj.*--no-calibration",
        ),
    ):
        measure(case.config, case.floats, case.schemes, case.windows, Silent())


def never() -> Iterator[npt.NDArray[Any]]:
    pytest.fail("lifting needs shapes only")


def weights(shapes: Mapping[str, tuple[int, int]]) -> dict[str, LazyWeight]:
    return {
        f"{name}.weight": LazyWeight(f"{name}.weight", shape, np.dtype(np.float32), never)
        for name, shape in shapes.items()
    }


SHAPES = {"a": (64, 256), "b": (256, 256), "c": (128, 256), "d": (64, 512), "e": (32, 128)}
BODY, LIFT = Scheme(4, 128), Scheme(8, 128)
UNIFORM = dict.fromkeys(SHAPES, BODY)


def recipe(body_bits: float, lift: Scheme = LIFT) -> Recipe:
    return Recipe("test", body=BODY, head=LIFT, lift=lift, body_bits=body_bits, calibrate=True)


def bits(chosen: Mapping[str, Scheme]) -> float:
    """Per weight, with scales of two bytes."""
    nbytes = sum(chosen[name].nbytes(*shape, 2) for name, shape in SHAPES.items())
    return 8 * nbytes / sum(rows * columns for rows, columns in SHAPES.values())


@pytest.mark.parametrize("body_bits", [4.0, 4.125, 4.2, 4.55, 5.5, 6.5, 8.12, 8.125, 32.0])
@pytest.mark.parametrize("seed", range(5))
def test_lifts_keep_to_the_budget_and_use_it(body_bits: float, seed: int) -> None:
    sensitivities = dict(
        zip(SHAPES, np.random.default_rng(seed).random(len(SHAPES)).tolist(), strict=True)
    )
    chosen = lifted(recipe(body_bits), UNIFORM, weights(SHAPES), sensitivities)
    assert bits(chosen) <= max(body_bits, bits(UNIFORM))
    left = [name for name in SHAPES if chosen[name] == BODY]
    for name in left:  # nothing that is left out would fit
        assert bits({**chosen, name: LIFT}) > body_bits
    assert (left == []) == (body_bits >= 8.125)


def test_the_most_sensitive_per_byte_come_first() -> None:
    """Of equal costs the best choice there is; of unequal ones, a small product before one four
    times as large and twice as sensitive.
    """
    shapes = dict.fromkeys("abcdef", (64, 256))
    sensitivities = {"a": 0.1, "b": 0.6, "c": 0.2, "d": 0.5, "e": 0.3, "f": 0.4}
    schemes = dict.fromkeys(shapes, BODY)
    chosen = lifted(recipe(4.125 + 4 * 2.5 / 6), schemes, weights(shapes), sensitivities)
    found = tuple(name for name in shapes if chosen[name] == LIFT)
    assert found == max(
        combinations(shapes, 2), key=lambda names: sum(sensitivities[name] for name in names)
    )
    chosen = lifted(
        recipe(5.5), UNIFORM, weights(SHAPES), {"a": 1.0, "b": 2.0, "c": 0.0, "d": 0.0, "e": 0.0}
    )
    assert chosen["a"] == LIFT
    assert chosen["b"] == BODY


def test_precision_is_never_lowered() -> None:
    """Not that of an override that is finer than the lift, nor of one that is the
    lift; one between is lifted.
    """
    overrides = {"a": Scheme(8, 32), "b": LIFT, "c": Scheme(4, 16)}
    chosen = lifted(recipe(32.0), UNIFORM | overrides, weights(SHAPES), dict.fromkeys(SHAPES, 1.0))
    assert chosen == {"a": Scheme(8, 32), "b": LIFT, "c": LIFT, "d": LIFT, "e": LIFT}


def test_other_schemes_stay() -> None:
    """The embedding's, which is not measured."""
    schemes = UNIFORM | {"model.embed_tokens": Scheme(8, 32)}
    chosen = lifted(recipe(4.3), schemes, weights(SHAPES), dict.fromkeys(SHAPES, 1.0))
    assert chosen["model.embed_tokens"] == Scheme(8, 32)
    assert set(chosen) == set(schemes)


def test_the_room_for_lifts() -> None:
    total = sum(rows * columns for rows, columns in SHAPES.values())
    assert lift_room(recipe(4.625), UNIFORM, SHAPES) == pytest.approx(total / 16)
    assert lift_room(recipe(4.0), UNIFORM, SHAPES) < 0


def test_an_override_is_part_of_what_is_measured(make_case: Callable[..., Case]) -> None:
    """A product that is finer by itself loses less."""
    case = make_case()
    name = "model.layers.0.mlp.c_fc"
    finer = Recipe(
        "finer", body=Scheme(4, 16), head=Scheme(8, 16), overrides=(Override(name, Scheme(8, 16)),)
    )
    schemes = {
        product: finer.scheme(product) if "layers" in product else scheme
        for product, scheme in case.schemes.items()
    }
    before, after = (
        measure(case.config, case.floats, chosen, case.windows, Silent())
        for chosen in (case.schemes, schemes)
    )
    assert after[name] < before[name] / 50
    assert {product: value for product, value in after.items() if product != name} == {
        product: value for product, value in before.items() if product != name
    }


def test_what_a_recipe_names_is_not_lifted() -> None:
    shapes = dict.fromkeys(("model.layers.0.a", "model.layers.1.b"), (64, 256))
    asked = replace(recipe(8.25), overrides=(Override("*.b", BODY),))
    chosen = lifted(asked, dict.fromkeys(shapes, BODY), weights(shapes), dict.fromkeys(shapes, 1.0))
    assert chosen == {"model.layers.0.a": LIFT, "model.layers.1.b": BODY}
