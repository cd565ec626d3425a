"""Recipes: the presets, the files, and what is refused before an export begins."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc2onnx.bundle.schemes import Scheme
from sc2onnx.errors import RequestError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.precision import PRECISIONS, Variant
from sc2onnx.export.quantize.recipe import CUDA_PRESETS, PRESETS, Override, Recipe, recipe
from sc2onnx.export.quantize.weights import schemes
from sc2onnx.export.weights import LazyWeight

Write = Callable[..., str]

INT4, INT8 = Scheme(4, 128), Scheme(8, 32)
BODY = {"body": {"bits": 4, "block_size": 32}}
PLAIN = {**BODY, "head": {"bits": 8, "block_size": 64}}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(content, name)`` a recipe, JSON unless it is a text; its path."""

    def write(content: Any, name: str = "mine.json") -> str:
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / name)

    return write


def test_presets() -> None:
    """Every one has a head in 8 bits, which the portable form needs, and sizes that all three
    models have multiples of.
    """
    assert set(PRESETS) == {"int8", "int4", "int4-fast"}
    for name, preset in PRESETS.items():
        assert recipe(name) is preset
        assert preset.name == name
        assert preset.head.bits == 8
        assert preset.body.bits == (8 if name == "int8" else 4)
        assert preset.calibrate == (preset.body.bits == 4)
        for scheme in (preset.body, preset.head, preset.lift or preset.body):
            for columns in (3072, 4608, 6144, 12288, 18432, 24576):
                scheme.check_columns(name, columns)
        for target in ("cpu", "portable"):
            assert Variant(name, target).name == name
    assert {name for name, preset in PRESETS.items() if preset.lift} == {"int4", "int4-fast"}


MADE = Recipe(
    "made",
    body=INT4,
    head=INT8,
    overrides=(Override("*.c_proj", INT8), Override("*", Scheme(4, 16))),
    calibrate=True,
)


@pytest.mark.parametrize(
    "expected",
    [*PRESETS.values(), MADE, replace(MADE, lift=INT8, body_bits=5.0, calibrate=True)],
    ids=lambda made: made.name,
)
def test_a_recipe_comes_back_from_its_file(expected: Recipe, write: Write) -> None:
    found = recipe(write(expected.to_json()))
    assert found == expected
    assert type(found.overrides) is tuple
    assert hash(found) == hash(expected)


def test_a_recipe_is_called_like_its_file_if_it_does_not_say(write: Write) -> None:
    assert recipe(write(PLAIN, "for laptops.json")) == Recipe(
        "for laptops", body=Scheme(4, 32), head=Scheme(8, 64)
    )
    assert recipe(write({**PLAIN, "name": "x"}, "y.json")).name == "x"
    assert recipe(write({**PLAIN, "lift": None})).lift is None


def test_the_first_override_that_matches_wins() -> None:
    first, second, third = Scheme(8, 16), Scheme(8, 64), Scheme(4, 256)
    overrides = (
        Override("model.layers.3.mlp.c_proj", first),
        Override("*.c_proj", second),
        Override("model.layers.[0-3].*", third),
    )
    made = Recipe("x", body=INT4, head=INT8, overrides=overrides)
    found = {
        "model.layers.3.mlp.c_proj": first,
        "model.layers.30.mlp.c_proj": second,
        "model.layers.3.self_attn.o_proj": third,
        "model.layers.4.self_attn.o_proj": INT4,
        "model.layers.30.self_attn.o_proj": INT4,
        "MODEL.LAYERS.3.MLP.C_PROJ": INT4,
    }
    assert {name: made.scheme(name) for name in found} == found
    reversed_ = replace(made, overrides=overrides[::-1])
    assert reversed_.scheme("model.layers.3.mlp.c_proj") == third
    assert reversed_.scheme("model.layers.30.mlp.c_proj") == second


@pytest.mark.parametrize("tied", [False, True])
def test_overrides_are_for_the_layers_products_and_the_head_is_for_both_ends(
    settings: dict[str, Any], tied: bool
) -> None:
    """Even where a pattern matches everything; norms, biases and tables stay floats."""
    config = Starcoder2Config.from_dict({**settings, "tie_word_embeddings": tied})
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32, 64),
        "rotary.cos_cache": (64, 2),
        "model.layers.0.input_layernorm.weight": (64,),
        "model.layers.0.mlp.c_fc.weight": (256, 64),
        "model.layers.0.mlp.c_fc.bias": (256,),
        "model.layers.0.mlp.c_proj.weight": (64, 256),
        "model.norm.weight": (64,),
        **({} if tied else {"lm_head.weight": (32, 64)}),
    }
    floats = {
        name: LazyWeight(name, shape, np.dtype(np.float32), lambda: iter(()))
        for name, shape in shapes.items()
    }
    made = Recipe(
        "x",
        body=INT4,
        head=INT8,
        overrides=(Override("*c_fc", Scheme(8, 64)), Override("*", Scheme(4, 256))),
    )
    expected = {
        "model.embed_tokens": INT8,
        "model.layers.0.mlp.c_fc": Scheme(8, 64),
        "model.layers.0.mlp.c_proj": Scheme(4, 256),
        "lm_head": INT8,
    }
    assert schemes(config, floats, made) == expected


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("", "malformed (Expecting value"),
        ("{", "malformed (Expecting property name"),
        ("[]", "malformed ("),
        ("4", "malformed ("),
        ({}, "malformed ("),
        (BODY, "malformed (Recipe.__init__() missing 1 required positional argument: 'head')"),
        ({**PLAIN, "boddy": 4}, "malformed (Recipe has unknown fields ['boddy'])"),
        ({**PLAIN, "body": "int4"}, "malformed (Recipe.body is 'int4', expected Scheme)"),
        ({**PLAIN, "body": 4}, "malformed (Recipe.body is 4, expected Scheme)"),
        ({**PLAIN, "body": None}, "malformed (Recipe.body is None, expected Scheme)"),
        ({**PLAIN, "head": {"bits": 8}}, "missing 1 required positional argument: 'block_size'"),
        (
            {**PLAIN, "head": {"bits": 8, "block_size": 32, "zero_point": True}},
            "malformed (Scheme has unknown fields ['zero_point'])",
        ),
        (
            {**PLAIN, "head": {"bits": 8, "block_size": "32"}},
            "malformed (Scheme.block_size is '32', expected int)",
        ),
        (
            {**PLAIN, "head": {"bits": 8.0, "block_size": 32}},
            "malformed (Scheme.bits is 8.0, expected int)",
        ),
        (
            {**PLAIN, "head": {"bits": 5, "block_size": 32}},
            "quantisation is 5 bits in blocks of 32, expected 4 or 8 bits",
        ),
        (
            {**PLAIN, "body": {"bits": 4, "block_size": 100}},
            "quantisation is 4 bits in blocks of 100, expected 4 or 8 bits",
        ),
        (
            {**PLAIN, "lift": {"bits": 8, "block_size": 7}, "body_bits": 5},
            "quantisation is 8 bits in blocks of 7",
        ),
        ({**PLAIN, "overrides": None}, "malformed ('NoneType' object is not iterable"),
        ({**PLAIN, "overrides": {"*.c_proj": PLAIN["body"]}}, "malformed ("),
        ({**PLAIN, "overrides": ["*.c_proj"]}, "malformed ("),
        (
            {**PLAIN, "overrides": [{"pattern": "*"}]},
            "malformed (Override.scheme is None, expected Scheme)",
        ),
        (
            {**PLAIN, "overrides": [{"scheme": PLAIN["body"]}]},
            "missing 1 required positional argument: 'pattern'",
        ),
        (
            {**PLAIN, "overrides": [{"pattern": 3, "scheme": PLAIN["body"]}]},
            "malformed (Override.pattern is 3, expected str)",
        ),
        (
            {**PLAIN, "overrides": [{"pattern": "*", "scheme": "int8"}]},
            "malformed (Override.scheme is 'int8', expected Scheme)",
        ),
        (
            {**PLAIN, "overrides": [{"pattern": "*", "scheme": {"bits": 6, "block_size": 32}}]},
            "quantisation is 6 bits",
        ),
        (
            {**PLAIN, "overrides": [{"pattern": "*", "scheme": PLAIN["body"], "layers": 3}]},
            "malformed (Override has unknown fields ['layers'])",
        ),
        ({**PLAIN, "calibrate": "no"}, "malformed (Recipe.calibrate is 'no', expected bool)"),
        ({**PLAIN, "calibrate": 1}, "malformed (Recipe.calibrate is 1, expected bool)"),
        ({**PLAIN, "name": 4}, "malformed (Recipe.name is 4, expected str)"),
        (
            {**PLAIN, "lift": PLAIN["head"], "body_bits": "5"},
            "malformed (Recipe.body_bits is '5', expected float)",
        ),
        (
            {**PLAIN, "lift": PLAIN["head"]},
            (
                "recipe mine: body_bits is 0.0, expected the bits per weight up to "
                "which products are lifted"
            ),
        ),
        (
            {**PLAIN, "lift": PLAIN["head"], "body_bits": -1},
            "recipe mine: body_bits is -1, expected the bits per weight",
        ),
        (
            {**PLAIN, "lift": PLAIN["head"], "body_bits": math.nan},
            "recipe mine: body_bits is nan, expected the bits per weight",
        ),
        (
            {**PLAIN, "lift": PLAIN["head"], "body_bits": math.inf},
            "recipe mine: body_bits is inf, expected the bits per weight",
        ),
        (
            {**PLAIN, "body_bits": 4.5},
            "recipe mine: body_bits is 4.5 and there is no lift, expected both or neither",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recipe_that_is_none(mistake: Any, message: str, write: Write) -> None:
    path = write(mistake)
    with pytest.raises(RequestError) as caught:
        recipe(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if "malformed" in str(caught.value):
        assert f"the recipe {path} is malformed" in str(caught.value)
        shown = str(caught.value).partition("expected something like ")[2]
        assert json.loads(shown) == json.loads(PRESETS["int4"].to_json())


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"absent\.json cannot be read \(No such file or directory\)"
    ):
        recipe(str(tmp_path / "absent.json"))
    (tmp_path / "a.json").mkdir()
    with pytest.raises(RequestError, match=r"a\.json cannot be read \(Is a directory\)"):
        recipe(str(tmp_path / "a.json"))
    (tmp_path / "b.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(RequestError, match=r"b\.json is malformed \('utf-8' codec can't decode"):
        recipe(str(tmp_path / "b.json"))


@pytest.mark.parametrize("name", ["int3", "INT4", "", "fp32", "recipe.txt"])
def test_a_name_that_is_no_recipes(name: str) -> None:
    with pytest.raises(
        RequestError,
        match=(
            rf"precision is {name!r}, expected one of int8, int4, int4-fast, or a "
            r"recipe in a \.json file"
        ),
    ):
        recipe(name)


@pytest.mark.parametrize("body_bits", [0.0, -4.5, math.nan, math.inf])
def test_a_lift_needs_a_limit(body_bits: float) -> None:
    with pytest.raises(
        RequestError, match="expected the bits per weight up to which products are lifted"
    ):
        Recipe("x", body=INT4, head=INT8, lift=INT8, body_bits=body_bits)


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_recipe_may_not_pass_for_another_precision(name: str, write: Write) -> None:
    """The manifest has nothing but the name, and verification goes by it."""
    path = write({**PLAIN, "name": name})
    with pytest.raises(
        RequestError,
        match=(
            f"the recipe {path} is called '{name}', which means another precision: "
            "give it a name of its own"
        ),
    ):
        Variant(path)
    with pytest.raises(RequestError, match="which means another precision"):
        Variant(write(PLAIN, f"{name}.json"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_in_a_file_is_the_preset(name: str, write: Write) -> None:
    assert Variant(write(PRESETS[name].to_json())).name == name


def test_a_recipe_of_ones_own(write: Write) -> None:
    variant = Variant(write(PLAIN), "portable")
    assert variant.name == "mine"
    assert variant.recipe() == Recipe("mine", body=Scheme(4, 32), head=Scheme(8, 64))


def test_a_head_in_4_bits_is_not_for_standard_operators(write: Write) -> None:
    path = write({**PLAIN, "head": {"bits": 4, "block_size": 32}})
    assert Variant(path, "cpu").recipe() == Recipe("mine", body=Scheme(4, 32), head=Scheme(4, 32))
    with pytest.raises(
        RequestError,
        match=(
            "the head has 4 bits for target 'portable', expected 8: no standard "
            "operator gathers packed codes"
        ),
    ):
        Variant(path, "portable")
    assert Variant(path, "cuda").recipe() == Variant(path, "cpu").recipe()


def test_on_a_gpu_the_names_mean_blocks_of_32(write: Write) -> None:
    assert {name: (preset.body, preset.head) for name, preset in CUDA_PRESETS.items()} == {
        "int8": (Scheme(8, 32), Scheme(8, 32)),
        "int4": (Scheme(4, 32), Scheme(8, 32)),
    }
    assert Variant("int4", "cuda").recipe() is CUDA_PRESETS["int4"]
    assert (Variant("int4", "cuda").dtype, Variant("int4", "cuda").read_as) == (
        np.dtype(np.float16),
        np.dtype(np.float32),
    )
    assert (Variant("fp16", "cuda").dtype, Variant("fp16", "cuda").read_as) == (
        np.dtype(np.float16),
        np.dtype(np.float16),
    )
    with pytest.raises(
        RequestError,
        match="precision is 'int4-fast' for target 'cuda', expected one of fp16, bf16, int8, int4",
    ):
        Variant("int4-fast", "cuda")
    path = write({**PLAIN, "name": "int4"}, "mine.json")
    with pytest.raises(RequestError, match="is called 'int4', which means another precision"):
        Variant(path, "cuda")


def test_a_recipe_that_is_nested_beyond_measure(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text('{"a":' * 100_000)
    with pytest.raises(RequestError, match=r"deep\.json is malformed"):
        recipe(str(tmp_path / "deep.json"))
