"""Quantised weights of the graph in both layouts: names, shapes, types, and
every byte that is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import RequestError
from sc2onnx.export import weights as floats_room
from sc2onnx.export.quantize.codec import Quantised, quantise
from sc2onnx.export.quantize.recipe import Override, Recipe
from sc2onnx.export.quantize.weights import Layout, nearest, quantised_weights, schemes
from sc2onnx.export.weights import LazyWeight, total_bytes
from tests.export.quantize.conftest import Case
from tests.export.quantize.definition import meaning, numbers

MakeCase = Callable[..., Case]

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
FC = "model.layers.1.mlp.c_fc"
UINT8, INT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.float32)

MATRICES: Mapping[str, tuple[int, int]] = {
    "self_attn.qkv_proj": (64, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.c_fc": (64, 32),
    "mlp.c_proj": (32, 64),
}
"""Shapes of the layers' matrices in :func:`make_case`'s model: 4 heads of 8, 2 of
them for keys and values.
"""

both_layouts = pytest.mark.parametrize("layout", ["rows", "columns"])
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False},
    {"use_bias": False},
    {"use_bias": False, "tie_word_embeddings": False},
]
every_variant = pytest.mark.parametrize("changes", VARIANTS, ids=str)


class Counting:
    """Nearest rounding that counts how often each weight is rounded."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, weight: LazyWeight, scheme: Scheme) -> Iterable[Quantised]:
        self.names.append(weight.name)
        return nearest(weight, scheme)


def written(weight: LazyWeight) -> bytes:
    return b"".join(np.ascontiguousarray(rows).tobytes() for rows in weight.chunks())


def whole(weight: LazyWeight) -> npt.NDArray[Any]:
    return np.concatenate(list(weight.chunks()))


def made(
    case: Case, layout: Layout, chosen: Mapping[str, Scheme] | None = None
) -> dict[str, LazyWeight]:
    return quantised_weights(case.floats, chosen or case.schemes, layout)


def codes_and_scales(
    weights: Mapping[str, LazyWeight], product: str, layout: Layout, bits: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Both as (out, ..), from the bytes alone."""
    codes, scales = (weights[f"{product}.weight.{kind}"] for kind in ("codes", "scales"))
    unpacked, factors = (
        numbers(written(codes), bits, signed=layout == "columns"),
        np.frombuffer(written(scales), dtype="<f4").reshape(scales.shape),
    )
    if layout == "columns":
        return unpacked.reshape(codes.shape).T, factors.T
    return unpacked.reshape(codes.shape[0], -1), factors


def expected(case: Case, layout: Layout) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Names, in order, with shapes and types: blocks of 16, 4 bits in the
    layers and 8 at the ends.
    """

    def pair(
        product: str, shape: tuple[int, int], bits: int
    ) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        out, columns = shape
        if layout == "columns":
            of_codes: tuple[tuple[int, ...], np.dtype[Any]] = (
                (columns, out),
                INT8 if bits == 8 else np.dtype(ml_dtypes.int4),
            )
            of_scales: tuple[int, ...] = (columns // 16, out)
        else:
            of_codes = (
                (out, columns * bits // 8)
                if product == EMBEDDING
                else (out, columns // 16, 2 * bits),
                UINT8,
            )
            of_scales = (out, columns // 16)
        return {
            f"{product}.weight.codes": of_codes,
            f"{product}.weight.scales": (of_scales, FLOAT32),
        }

    found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, weight in case.floats.items():
        product = name.removesuffix(".weight")
        part = product.partition(".layers.")[2].partition(".")[2]
        if product in (EMBEDDING, HEAD):
            found |= pair(product, (32, 32), 8)
        elif part in MATRICES and name.endswith(".weight"):
            found |= pair(product, MATRICES[part], 4)
        else:
            found[name] = (weight.shape, FLOAT32)
    if case.config.tie_word_embeddings:
        found |= pair(HEAD, (32, 32), 8)
    return found


@both_layouts
@every_variant
def test_names_shapes_types_and_sizes(
    make_case: MakeCase, changes: Mapping[str, Any], layout: Layout
) -> None:
    case = make_case(changes)
    weights = made(case, layout)
    assert {name: (weight.shape, weight.dtype) for name, weight in weights.items()} == expected(
        case, layout
    )
    assert list(weights) == list(expected(case, layout))
    assert any("bias" in name for name in weights if "proj" in name) == case.config.use_bias
    for name, weight in weights.items():
        assert weight.name == name
        assert len(written(weight)) == (0 if weight.shares else weight.nbytes)
        if name in case.floats:
            assert weight is case.floats[name]
    assert total_bytes(weights.values()) == sum(len(written(weight)) for weight in weights.values())
    products = [name.removesuffix(".weight.codes") for name in weights if name.endswith(".codes")]
    assert set(products) == set(case.schemes)
    for name, scheme in case.schemes.items():
        shape = case.floats[
            f"{name if f'{name}.weight' in case.floats else EMBEDDING}.weight"
        ].shape
        assert scheme.nbytes(*shape) == sum(
            weights[f"{name}.weight.{kind}"].nbytes for kind in ("codes", "scales")
        )


@both_layouts
@every_variant
def test_the_bytes_stand_for_the_rounded_weights(
    make_case: MakeCase, changes: Mapping[str, Any], layout: Layout
) -> None:
    """Of every matrix in its own scheme."""
    case = make_case(changes)
    recipe = Recipe(
        "test",
        Scheme(4, 32),
        Scheme(8, 16),
        (Override("*c_proj", Scheme(8, 64)), Override("*.1.*", Scheme(4, 16))),
    )
    chosen = schemes(case.config, case.floats, recipe)
    weights = made(case, layout, chosen)
    assert len({(scheme.bits, scheme.block_size) for scheme in chosen.values()}) == 4
    for name, weight in case.floats.items():
        product = name.removesuffix(".weight")
        if not (name.endswith(".weight") and product in chosen):
            continue
        scheme = chosen[product]
        codes, scales = codes_and_scales(weights, product, layout, scheme.bits)
        rounded = quantise(whole(weight), scheme)
        np.testing.assert_array_equal(codes, rounded.codes)
        np.testing.assert_array_equal(scales, rounded.scales)
        error = np.abs(meaning(codes, scales, scheme.block_size) - whole(weight)).max()
        assert 0 < error < np.abs(whole(weight)).max() / (4 if scheme.bits == 4 else 100)


@both_layouts
def test_a_tied_head_is_another_view_of_the_embeddings_bytes(
    make_case: MakeCase, layout: Layout
) -> None:
    weights = made(make_case(), layout)
    for kind in ("codes", "scales"):
        head, embedding = weights[f"{HEAD}.weight.{kind}"], weights[f"{EMBEDDING}.weight.{kind}"]
        assert head.shares == embedding.name
        assert embedding.shares is None
        assert head.nbytes == embedding.nbytes
        assert list(head.chunks()) == []
        assert list(weights).index(embedding.name) < list(weights).index(head.name)
    assert not any(weight.shares for name, weight in weights.items() if not name.startswith(HEAD))
    assert total_bytes(weights.values()) == sum(
        weight.nbytes for name, weight in weights.items() if not name.startswith(HEAD)
    )


@both_layouts
def test_a_separate_head_is_rounded_on_its_own(make_case: MakeCase, layout: Layout) -> None:
    case = make_case({"tie_word_embeddings": False})
    weights = made(case, layout)
    assert not any(weight.shares for weight in weights.values())
    assert written(weights[f"{HEAD}.weight.codes"]) != written(weights[f"{EMBEDDING}.weight.codes"])
    codes, scales = codes_and_scales(weights, HEAD, layout, 8)
    rounded = quantise(whole(case.floats[f"{HEAD}.weight"]), Scheme(8, 16))
    np.testing.assert_array_equal(codes, rounded.codes)
    np.testing.assert_array_equal(scales, rounded.scales)


@both_layouts
def test_nothing_is_rounded_before_it_is_written_and_then_once(
    make_case: MakeCase, layout: Layout
) -> None:
    """In the order of the data file, codes before their scales."""
    case, counting = make_case({"tie_word_embeddings": False}), Counting()
    weights = quantised_weights(case.floats, case.schemes, layout, counting)
    assert counting.names == []
    for weight in weights.values():
        written(weight)
    assert counting.names == [
        name
        for name in case.floats
        if name.removesuffix(".weight") in case.schemes and name.endswith(".weight")
    ]


@both_layouts
@pytest.mark.parametrize(
    "order",
    [
        "scales",
        "scales codes",
        "codes codes scales",
        "codes scales scales",
        "scales codes scales codes",
    ],
)
def test_codes_and_scales_belong_together_in_any_order(
    make_case: MakeCase, layout: Layout, order: str
) -> None:
    case = make_case()
    usual = {
        kind: written(made(case, layout)[f"{FC}.weight.{kind}"]) for kind in ("codes", "scales")
    }
    weights = made(case, layout)
    for kind in order.split():
        assert written(weights[f"{FC}.weight.{kind}"]) == usual[kind]


@both_layouts
def test_scales_are_given_up_when_they_are_written(make_case: MakeCase, layout: Layout) -> None:
    """All of them together would be half a gigabyte of a 15B model: a second
    reading has to round again.
    """
    case, counting = make_case(), Counting()
    weights = quantised_weights(case.floats, case.schemes, layout, counting)
    for kind, rounded in (("codes", 1), ("scales", 1), ("scales", 2)):
        written(weights[f"{FC}.weight.{kind}"])
        assert len(counting.names) == rounded


@both_layouts
@every_variant
def test_how_much_is_read_at_once_changes_nothing(
    make_case: MakeCase, changes: Mapping[str, Any], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(changes)
    at_once = {name: written(weight) for name, weight in made(case, layout).items()}
    # 7 rows of 32, 3 of 64: no divisor of anything
    monkeypatch.setattr(floats_room, "CHUNK_BYTES", 900)
    assert len(list(case.floats[f"{FC}.weight"].chunks())) == 10
    weights = made(case, layout)
    if layout == "rows":
        assert len(list(weights[f"{FC}.weight.codes"].chunks())) == 10
    assert {name: written(weight) for name, weight in weights.items()} == at_once


def test_a_matrix_without_a_scheme_stays_as_it_is(make_case: MakeCase) -> None:
    case = make_case()
    chosen = {name: scheme for name, scheme in case.schemes.items() if name != FC}
    weights = made(case, "rows", chosen)
    assert weights[f"{FC}.weight"] is case.floats[f"{FC}.weight"]
    assert f"{FC}.weight.codes" not in weights


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            Recipe("x", Scheme(4, 32), Scheme(8, 64)),
            (
                r"^model\.embed_tokens\.weight has 32 inputs, .* blocks of 64 .* "
                r"\(those that do: 16, 32\)$"
            ),
        ),
        (
            Recipe("x", Scheme(4, 64), Scheme(8, 32)),
            r"^model\.layers\.0\.self_attn\.qkv_proj\.weight has 32 inputs, .* blocks of 64",
        ),
        (
            Recipe(
                "x", Scheme(4, 32), Scheme(8, 32), (Override("*.1.mlp.c_proj", Scheme(8, 128)),)
            ),
            r"^model\.layers\.1\.mlp\.c_proj\.weight has 64",
        ),
        (
            Recipe(
                "x", Scheme(4, 32), Scheme(8, 32), lift=Scheme(8, 64), body_bits=6, calibrate=True
            ),
            (
                r"^model\.layers\.0\.self_attn\.qkv_proj\.weight, which may be lifted, has 32 "
                r"inputs, .* blocks of 64"
            ),
        ),
    ],
)
def test_blocks_that_do_not_divide_a_matrix(
    make_case: MakeCase, recipe: Recipe, message: str
) -> None:
    case = make_case()
    with pytest.raises(RequestError, match=message):
        schemes(case.config, case.floats, recipe)
    fitting = replace(
        recipe, body=Scheme(4, 16), head=Scheme(8, 16), overrides=(), lift=None, body_bits=0.0
    )
    assert len(schemes(case.config, case.floats, fitting)) == 10


@pytest.mark.parametrize(
    "pattern",
    [
        "*.q_proj",
        "lm_head",
        "model.embed_tokens",
        "model.layers.0.mlp.c_fc.weight",
        "model.layers.9.*",
    ],
)
def test_an_override_of_nothing_is_refused(make_case: MakeCase, pattern: str) -> None:
    case = make_case()
    asked = Recipe(
        "x",
        Scheme(4, 16),
        Scheme(8, 16),
        (Override("*.o_proj", Scheme(8, 16)), Override(pattern, Scheme(8, 16))),
    )
    message = (
        rf"recipe x: '{re.escape(pattern)}' matches no product, .* mlp\.c_fc, mlp\.c_proj, "
        r"self_attn\.o_proj, self_attn\.qkv_proj$"
    )
    with pytest.raises(RequestError, match=message):
        schemes(case.config, case.floats, asked)
