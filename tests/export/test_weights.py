"""From the checkpoint's tensors to the graph's: all of them, in their shapes, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.errors import TensorError
from sc2onnx.export import weights
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.weights import LazyWeight

Make = Callable[..., Path]
Tensors = dict[str, npt.NDArray[Any]]
FLOAT32 = np.dtype(np.float32)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def opened(directory: Path) -> tuple[Checkpoint, Starcoder2Config]:
    checkpoint = Checkpoint.open(directory)
    return checkpoint, Starcoder2Config.from_dict(checkpoint.config)


def whole(weight: LazyWeight) -> npt.NDArray[Any]:
    return np.concatenate(list(weight.chunks()))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False},
    {"use_bias": False},
    {"use_bias": False, "tie_word_embeddings": False},
    {"head_dim": 6},
    {"num_key_value_heads": 1},
    {"num_key_value_heads": 4, "num_hidden_layers": 1},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_checkpoint_with_exactly_its_tensors_is_complete(
    make_checkpoint: Make,
    random_tensors: Callable[..., Tensors],
    settings: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    checkpoint, config = opened(make_checkpoint(changes))
    weights.check_complete(checkpoint, config)
    expected = {
        name: array.shape for name, array in random_tensors({**settings, **changes}).items()
    }
    assert weights.checkpoint_shapes(config) == expected
    assert weights.total_parameters(weights.checkpoint_shapes(config)) == sum(
        map(prod, expected.values())
    )


@pytest.mark.parametrize(
    "name",
    [
        EMBEDDING,
        "model.layers.1.self_attn.k_proj.bias",
        "model.norm.bias",
        "model.layers.0.mlp.c_fc.weight",
    ],
)
def test_a_missing_tensor_is_named(make_checkpoint: Make, name: str) -> None:
    with pytest.raises(
        TensorError, match=f"the checkpoint lacks tensor {name}, expected by config.json"
    ):
        weights.check_complete(*opened(make_checkpoint(edit=lambda tensors: tensors.pop(name))))


def test_a_missing_head_is_named(make_checkpoint: Make) -> None:
    with pytest.raises(TensorError, match=r"lacks tensor lm_head\.weight"):
        weights.check_complete(
            *opened(
                make_checkpoint(
                    {"tie_word_embeddings": False}, edit=lambda tensors: tensors.pop(HEAD)
                )
            )
        )


def test_a_missing_layer_is_counted(make_checkpoint: Make) -> None:
    def without_the_last_layer(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    with pytest.raises(
        TensorError,
        match=r"lacks 16 tensors \(model\.layers\.1\..*, \.\.\.\), expected by config\.json",
    ):
        weights.check_complete(*opened(make_checkpoint(edit=without_the_last_layer)))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "model.layers.2.mlp.c_fc.weight"),
        ({}, "model.layers.0.self_attn.inv_freq"),
        ({}, "model.layers.0.mlp.gate_proj.weight"),
        ({"use_bias": False}, "model.layers.0.mlp.c_fc.bias"),
        ({}, "lm_head.bias"),
    ],
)
def test_a_tensor_that_is_not_used_is_named(
    make_checkpoint: Make, changes: dict[str, Any], name: str
) -> None:
    directory = make_checkpoint(
        changes, edit=lambda tensors: tensors.update({name: np.zeros(40, np.float32)})
    )
    with pytest.raises(
        TensorError,
        match=f"the checkpoint has tensor {name}, which config.json leaves no place for",
    ):
        weights.check_complete(*opened(directory))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (EMBEDDING, (33, 16), "(32, 16)"),
        ("model.layers.0.self_attn.k_proj.weight", (16, 16), "(8, 16)"),
        ("model.layers.1.mlp.c_fc.weight", (16, 40), "(40, 16)"),
        ("model.layers.1.mlp.c_fc.bias", (40, 1), "(40,)"),
        ("model.norm.weight", (), "(16,)"),
        ("model.norm.weight", (0,), "(16,)"),
    ],
)
def test_a_misshapen_tensor_is_named(
    make_checkpoint: Make, name: str, shape: tuple[int, ...], expected: str
) -> None:
    directory = make_checkpoint(
        edit=lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})
    )
    with pytest.raises(TensorError) as caught:
        weights.check_complete(*opened(directory))
    assert f"tensor {name} has shape {shape}, expected {expected} by config.json" in str(
        caught.value
    )


@pytest.mark.parametrize("shape", [(33, 16), (32, 0), (0, 16), ()])
def test_a_misshapen_embedding_is_named_even_if_the_head_repeats_it(
    make_checkpoint: Make, shape: tuple[int, ...]
) -> None:
    directory = make_checkpoint(
        edit=lambda tensors: tensors.update(
            {EMBEDDING: np.zeros(shape, np.float32), HEAD: np.zeros(shape, np.float32)}
        )
    )
    with pytest.raises(TensorError, match=r"embed_tokens|lm_head"):
        weights.check_complete(*opened(directory))


def test_saved_rotary_buffers_are_ignored(make_checkpoint: Make) -> None:
    def with_buffers(tensors: Tensors) -> None:
        for layer in range(2):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
        tensors["model.rotary_emb.inv_freq"] = np.ones(2, np.float32)

    checkpoint, config = opened(make_checkpoint(edit=with_buffers))
    weights.check_complete(checkpoint, config)
    assert not [
        name for name in weights.graph_weights(checkpoint, config, FLOAT32) if "inv_freq" in name
    ]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("chunk_bytes", [16 << 20, 100])
def test_every_weight_is_the_direct_cast_of_its_tensors(
    make_checkpoint: Make,
    random_tensors: Callable[..., Tensors],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    dtype: Any,
    chunk_bytes: int,
) -> None:
    monkeypatch.setattr(weights, "CHUNK_BYTES", chunk_bytes)
    checkpoint, config = opened(make_checkpoint(changes, dtype=dtype))
    expected = {
        name: array.astype(dtype).astype(np.float32)
        for name, array in random_tensors({**settings, **changes}).items()
    }
    for layer in range(config.num_hidden_layers):
        for kind in ("weight", "bias") if config.use_bias else ("weight",):
            prefix = f"model.layers.{layer}.self_attn"
            expected[f"{prefix}.qkv_proj.{kind}"] = np.concatenate(
                [expected.pop(f"{prefix}.{part}_proj.{kind}") for part in "qkv"]
            )
    made = weights.graph_weights(checkpoint, config, FLOAT32)
    assert set(made) == set(expected) | {"rotary.cos_cache", "rotary.sin_cache"}
    for name, array in expected.items():
        assert (made[name].name, made[name].shape, made[name].nbytes) == (
            name,
            array.shape,
            array.nbytes,
        )
        np.testing.assert_array_equal(whole(made[name]), array, strict=True)
        # chunks() can be asked again
        np.testing.assert_array_equal(whole(made[name]), array, strict=True)


def test_no_chunk_is_larger_than_it_may_be(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a row of the widest matrix, (16, 40) in float32
    monkeypatch.setattr(weights, "CHUNK_BYTES", 160)
    made = weights.graph_weights(*opened(make_checkpoint()), FLOAT32)
    stored = [name for name in made if not name.startswith("rotary.")]
    assert max(chunk.nbytes for name in stored for chunk in made[name].chunks()) == 160


@pytest.mark.parametrize(
    ("theta", "head_dim", "context"),
    [(10000.0, 4, 64), (999999.4420358813, 128, 2500), (100, 2, 1025), (100000.0, 64, 1024)],
)
def test_rotary_tables_are_cosines_and_sines_of_the_angles(
    settings: dict[str, Any], theta: float, head_dim: int, context: int
) -> None:
    config = Starcoder2Config.from_dict(
        {**settings, "rope_theta": theta, "head_dim": head_dim, "max_position_embeddings": context}
    )
    angles = np.arange(context)[:, None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    # The reference rounds theta's power, its reciprocal and the product to float32: three times
    # half a unit in 2^23 of the angle. A cosine changes by at most as much as its angle, and is
    # then rounded once itself.
    tolerance = angles * 2 * 2.0**-23 + 2.0**-24
    for weight, exact in zip(
        weights.rotary_tables(config, FLOAT32), (np.cos(angles), np.sin(angles)), strict=True
    ):
        table = whole(weight)
        assert table.dtype == np.float32
        assert table.shape == weight.shape == (context, head_dim // 2)
        assert (np.abs(table - exact) <= tolerance).all()


def test_the_first_position_is_not_turned_at_all(settings: dict[str, Any]) -> None:
    cos, sin = map(whole, weights.rotary_tables(Starcoder2Config.from_dict(settings), FLOAT32))
    assert (cos[0] == 1).all()
    assert (sin[0] == 0).all()


def test_the_graph_weights_are_in_the_same_order_every_time(make_checkpoint: Make) -> None:
    first, second = (
        list(weights.graph_weights(*opened(make_checkpoint(name=name, shards=shards)), FLOAT32))
        for name, shards in (("a", 0), ("b", 3))
    )
    assert first == second
