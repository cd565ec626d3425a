"""Nodes that the kernels' library refuses when a session is made, whoever wrote their graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from sc2onnx.bundle.kernels import (
    ADAPTER_INPUTS,
    ADAPTER_OF_TOKEN,
    ADAPTER_TABLE,
    ADAPTER_WEIGHTS,
    ATTENTION,
    DOMAIN,
    LINEAR,
    VERSION,
)
from sc2onnx.runtime.ort.kernels import Kernels, look

pytestmark = pytest.mark.kernels

N, K, BLOCK, HEADS, HEAD_DIM = 32, 64, 32, 2, 16
WEIGHTS: dict[str, Any] = {
    "codes": np.zeros((N, K // BLOCK, BLOCK // 2), np.uint8),
    "scales": np.zeros((N, K // BLOCK), np.float32),
    "bias": np.zeros(N, np.float32),
    "norm_weight": np.zeros(K, np.float32),
    "norm_bias": np.zeros(K, np.float32),
    "cos": np.ones((64, HEAD_DIM // 2), np.float32),
    "sin": np.zeros((64, HEAD_DIM // 2), np.float32),
}
TYPES = {
    "input_ids": TensorProto.INT64,
    **dict.fromkeys(("past", "lengths", "rows"), TensorProto.INT64),
    **dict.fromkeys(("key", "value", "new_key", "new_value"), TensorProto.UINT8),
    **dict.fromkeys((ADAPTER_OF_TOKEN, ADAPTER_TABLE), TensorProto.INT64),
    ADAPTER_WEIGHTS: TensorProto.UINT8,
}
PRODUCT = {"N": N, "K": K, "bits": 4, "block_size": BLOCK}
NORMED = ["x", "codes", "scales", "bias", "norm_weight", "norm_bias"]
RING = ["qkv", "input_ids", "past", "cos", "sin", "key", "value", "lengths", "rows"]


def tensor(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES.get(name, TensorProto.FLOAT), None)


def session(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, Any],
) -> ort.InferenceSession:
    """Of a graph with one node, whose inputs are weights where there are any of the name."""
    found = look()
    assert isinstance(found, Kernels)
    node = helper.make_node(operator, inputs, outputs, domain=DOMAIN, **attributes)
    fed = [tensor(name) for name in inputs if name and name not in WEIGHTS]
    given = [tensor(name) for name in outputs]
    weights = [numpy_helper.from_array(WEIGHTS[name], name) for name in inputs if name in WEIGHTS]
    graph = helper.make_graph([node], "one", fed, given, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(found.path))
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), options, providers=providers)


def product(inputs: Sequence[str], **attributes: Any) -> ort.InferenceSession:
    return session(LINEAR, inputs, ["y"], {**PRODUCT, **attributes})


def attention(**attributes: Any) -> ort.InferenceSession:
    heads = {"num_heads": HEADS, "num_kv_heads": HEADS}
    return session(ATTENTION, RING, ["mixed", "new_key", "new_value"], {**heads, **attributes})


def test_nodes_that_are_as_they_should() -> None:
    product(NORMED[:3])
    product(NORMED[:4], gelu=1)
    product(NORMED, epsilon=1e-5)
    product([*NORMED, "", *ADAPTER_INPUTS], epsilon=1e-5, product=119)
    attention()
    attention(window=8)


@pytest.mark.parametrize("name", ["bits", "block_size"])
def test_sizes_of_32_bits_and_more(name: str) -> None:
    with pytest.raises(Exception, match=f"{name} = {2**32 + PRODUCT[name]}"):
        product(NORMED[:3], **{name: 2**32 + PRODUCT[name]})


@pytest.mark.parametrize("half", [["norm_weight"], ["", "norm_bias"]], ids=["weight", "bias"])
def test_half_a_norm(half: list[str]) -> None:
    with pytest.raises(Exception, match="one of norm_weight and norm_bias, expected both or none"):
        product([*NORMED[:4], *half], epsilon=1e-5)


@pytest.mark.parametrize("epsilon", [-1.0, float("nan"), float("inf")])
def test_an_epsilon_that_makes_no_norm(epsilon: float) -> None:
    with pytest.raises(Exception, match=r"epsilon = .*, expected a number of 0 or more"):
        product(NORMED, epsilon=epsilon)


@pytest.mark.parametrize("attributes", [{}, {"epsilon": 1}], ids=["none", "an integer"])
def test_a_norm_without_its_epsilon(attributes: dict[str, int]) -> None:
    with pytest.raises(Exception, match=r"epsilon|Attribute name and type"):
        product(NORMED, **attributes)


@pytest.mark.parametrize("value", [1.0, "1", [1], [1.0]], ids=repr)
def test_attributes_of_another_type_are_not_left_out(value: object) -> None:
    with pytest.raises(Exception, match="Attribute name and type don't match"):
        product(NORMED[:3], gelu=value)
    with pytest.raises(Exception, match="Attribute name and type don't match"):
        attention(window=value)


PLAIN = [*NORMED[:4], "", "", ""]


@pytest.mark.parametrize(
    ("adapters", "attributes", "said"),
    [
        (ADAPTER_INPUTS[:3], {"product": 0}, "some inputs of adapters, expected all four or none"),
        (("", *ADAPTER_INPUTS[1:]), {"product": 0}, "some inputs of adapters"),
        (ADAPTER_INPUTS, {}, "product = -1, expected a number of 0 or more with adapters"),
        (ADAPTER_INPUTS, {"product": -2}, "product = -2"),
        ((), {"product": 0}, "product = 0, .* and none without"),
    ],
)
def test_half_of_what_adapters_need(
    adapters: Sequence[str], attributes: dict[str, int], said: str
) -> None:
    with pytest.raises(Exception, match=said):
        product([*PLAIN, *adapters][: 7 + len(adapters) if adapters else 4], **attributes)


UP = 16 * (K + 4)
"""Where B lies, behind a tile of ranks."""

GOOD: dict[str, Any] = {
    "x": np.ones((2, K), np.float32),
    ADAPTER_OF_TOKEN: np.array([0, -1]),
    "adapter_scales": np.ones(2, np.float32),
    ADAPTER_TABLE: np.array([[[[16, 16, 2, 0, UP]]]]),
    ADAPTER_WEIGHTS: np.concatenate(
        [
            np.full(16 * K, 129, np.uint8),
            np.ones(16, np.float32).view(np.uint8),
            np.ones(32, np.float16).view(np.uint8),
        ]
    ),
}


def test_an_adapter_adds_where_it_says() -> None:
    made = product([*PLAIN, *ADAPTER_INPUTS], product=0)
    (y,) = made.run(None, GOOD)
    expected = np.zeros((2, N))
    expected[0, 16:] = 2 * K
    np.testing.assert_array_equal(y, expected)
    empty = {"adapter_scales": np.zeros(0, np.float32)}
    np.testing.assert_array_equal(made.run(None, {**GOOD, **empty})[0], y)
    doubled = {"adapter_scales": np.array([2, 2], np.float32)}
    np.testing.assert_array_equal(made.run(None, {**GOOD, **doubled})[0], 2 * y)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (ADAPTER_OF_TOKEN, np.array([0]), r"adapter_of_token is \(1\), expected \(2\)"),
        (ADAPTER_OF_TOKEN, np.array([0, 1]), r"adapter_of_token\[1\] = 1, expected -1 to 0"),
        ("adapter_scales", np.ones(3, np.float32), r"adapter_scales is \(3\), expected \(2\)"),
        (ADAPTER_TABLE, np.zeros((1, 0, 1, 5), np.int64), "expected more than 0 products"),
        (ADAPTER_TABLE, np.array([[[[16, 16, 2, 0, UP + 64]]]]), "has B at 1152, 64 bytes"),
        (ADAPTER_TABLE, np.array([[[[16, 16, 2, 1 << 62, 0]]]]), "has A at 4611686018427387904"),
        (ADAPTER_TABLE, np.array([[[[32, 16, 2, 0, 0]]]]), "multiples of 16 within 32"),
        (ADAPTER_TABLE, np.array([[[[16, 16, 2, 2, UP]]]]), "expected a multiple of 64"),
        (ADAPTER_WEIGHTS, np.ones(UP, np.uint8), "within the 1088 of adapter_weights"),
    ],
)
def test_adapters_that_reach_beyond_what_there_is(name: str, value: Any, said: str) -> None:
    with pytest.raises(Exception, match=said):
        product([*PLAIN, *ADAPTER_INPUTS], product=0).run(None, {**GOOD, name: value})
