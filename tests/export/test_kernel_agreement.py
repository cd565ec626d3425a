"""A graph for the kernels that the exporter does not write for its bundle is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import sc2onnx
from sc2onnx.bundle.kernels import ADAPTER_INPUTS, DOMAIN, VERSION, WITH_ADAPTERS
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.export import Calibration, export
from sc2onnx.runtime.opening.bundle import Bundle
from tests.runtime.opening.test_agreement import edit, replace

Graph = onnx.GraphProto
Node = onnx.NodeProto
Change = Callable[[Graph], object]

KERNELS = "model.kernels.onnx"
QKV, ATTENTION, OUT, INNER, BACK = range(5)
"""Places of a layer's nodes among those for the kernels."""
HEAD = -1


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """Bundles in one and in two stages."""
    directory = tmp_path_factory.mktemp("kernels")
    for stages in (1, 2):
        export(
            checkpoint,
            directory / str(stages),
            precision="int4",
            calibration=Calibration(False),
            stages=stages,
        )
    return {stages: directory / str(stages) for stages in (1, 2)}


@pytest.fixture
def copy(made: Mapping[int, Path], tmp_path: Path) -> Callable[[int], Path]:
    def copied(stages: int = 1) -> Path:
        shutil.copytree(made[stages], tmp_path / "copy", copy_function=os.link)
        return tmp_path / "copy"

    return copied


def change_graph(bundle: Path, name: str, change: Change) -> None:
    model = onnx.load(bundle / name, load_external_data=False)
    change(model.graph)
    replace(bundle, name, model.SerializeToString())


def ours(graph: Graph) -> list[Node]:
    return [node for node in graph.node if node.domain == "sc2onnx"]


def weight(graph: Graph, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(tensor for tensor in graph.initializer if tensor.name == name)
    return found


def put(place: int, which: int, value: str) -> Change:
    """Another input of a node."""

    def change(graph: Graph) -> None:
        ours(graph)[place].input[which] = value

    return change


def say(place: int, **attributes: Any) -> Change:
    """Other attributes of a node; None: without it."""

    def change(graph: Graph) -> None:
        node = ours(graph)[place]
        kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
        given = {name: value for name, value in attributes.items() if value is not None}
        added = [helper.make_attribute(name, value) for name, value in given.items()]
        del node.attribute[:]
        node.attribute.extend([*kept, *added])

    return change


def swapped(one: int, other: int) -> Change:
    """Two nodes compute each other's products."""

    def change(graph: Graph) -> None:
        nodes = ours(graph)
        for part in (1, 2, 3):
            nodes[one].input[part], nodes[other].input[part] = (
                nodes[other].input[part],
                nodes[one].input[part],
            )

    return change


def drop(place: int) -> Change:
    return lambda graph: graph.node.remove(ours(graph)[place])


def twice(graph: Graph) -> None:
    node = Node()
    node.CopyFrom(ours(graph)[-1])
    node.output[0] = "more"
    graph.node.append(node)


def renamed(operator: str) -> Change:
    def change(graph: Graph) -> None:
        ours(graph)[OUT].op_type = operator

    return change


def at(name: str, key: str, value: str) -> Change:
    def change(graph: Graph) -> None:
        for entry in weight(graph, name).external_data:
            entry.value = value if entry.key == key else entry.value

    return change


def without_biases(graph: Graph) -> None:
    for node in ours(graph):
        if node.input[3].endswith((".c_fc.bias", "_proj.bias")):
            node.input[3] = ""
    of_products = (".c_fc.bias", "_proj.bias")
    for tensor in [each for each in graph.initializer if each.name.endswith(of_products)]:
        graph.initializer.remove(tensor)


def by_default(name: str, values: list[int]) -> Change:
    """Another value of an input that is not fed."""

    def change(graph: Graph) -> None:
        weight(graph, name).CopyFrom(helper.make_tensor(name, 7, [len(values)], values))
        tensor = weight(graph, name)
        tensor.raw_data = np.array(tensor.int64_data, "<i8").tobytes()
        tensor.ClearField("int64_data")

    return change


def cached_as(dtype: int) -> Change:
    def change(graph: Graph) -> None:
        for value in (*graph.input, *graph.output):
            if value.name.endswith((".key", ".value")):
                value.type.tensor_type.elem_type = dtype

    return change


C_FC, LAYER = "model.layers.0.mlp.c_fc", "model.layers.0"
CHANGES: dict[str, tuple[Change, str]] = {
    "N": (
        say(QKV, N=511),
        "N of .*self_attn.qkv_proj is .511,. in model.kernels.onnx, the manifest says .512,.",
    ),
    "K": (say(INNER, K=128), "K of model.layers.0.mlp.c_fc is"),
    "bits": (say(BACK, bits=8), "bits of model.layers.0.mlp.c_proj is"),
    "block size": (say(OUT, block_size=32), "block_size of model.layers.0.self_attn.o_proj is"),
    "no bits": (say(OUT, bits=None), "attributes of model.layers.0.self_attn.o_proj is"),
    "no epsilon": (say(QKV, epsilon=None), "the attributes of .*qkv_proj is"),
    "another epsilon": (say(QKV, epsilon=1e-6), "the epsilon of the norms is"),
    "an epsilon without a norm": (say(BACK, epsilon=1e-5), "the attributes of .*c_proj is"),
    "no gelu": (say(INNER, gelu=None), "the attributes of .*c_fc is"),
    "gelu 0": (
        say(INNER, gelu=0),
        "BlockwiseLinear has 'gelu' = .0,., which the exporter never writes",
    ),
    "gelu elsewhere": (say(BACK, gelu=1), "the attributes of .*c_proj is"),
    "an attribute": (say(BACK, layout=1), "BlockwiseLinear has 'layout'"),
    "the adapters of another product": (
        say(OUT, product=0),
        "the number of model.layers.0.self_attn.o_proj is .0,. in .*, expected .1,.",
    ),
    "16 bits where they are not": (
        say(HEAD, activation_bits=16),
        "the attributes of lm_head is .*'activation_bits'.* in .*, expected .'K', 'N', 'bits'",
    ),
    "activations of other bits": (
        say(HEAD, activation_bits=4),
        "BlockwiseLinear has 'activation_bits' = .4,., which the exporter never writes",
    ),
    "no adapters' number": (say(BACK, product=None), "the attributes of .*c_proj is"),
    "no adapters": (put(INNER, 7, ""), "the inputs of .*c_fc is"),
    "adapters' inputs swapped": (put(QKV, 9, "adapter_of_token"), "the inputs of .*qkv_proj is"),
    "an adapter that nobody asked for": (
        by_default("adapter_of_token", [0]),
        "bytes of the default of the input adapter_of_token is 8 in .*, expected 0",
    ),
    "runs that nobody asked for": (
        by_default("step_lengths", [1]),
        "bytes of the default of the input step_lengths is 8 in .*, expected 0",
    ),
    "heads": (
        say(ATTENTION, num_heads=8),
        "num_heads of the attention of layer 0 is .8,. in .*, the manifest says .4,.",
    ),
    "key-value heads": (say(ATTENTION, num_kv_heads=1), "num_kv_heads of the attention"),
    "window": (
        say(ATTENTION, window=255),
        "window of the attention of layer 0 is .255,. in .*, the manifest says .256,.",
    ),
    "no window": (say(ATTENTION, window=None), "the attributes of the attention of layer 0 is"),
    "the norm of another place": (
        put(QKV, 4, f"{LAYER}.post_attention_layernorm.weight"),
        "the inputs of .*qkv_proj is",
    ),
    "the norm of another layer": (
        put(INNER, 5, "model.layers.1.post_attention_layernorm.bias"),
        "the inputs of .*c_fc is",
    ),
    "the bias of another product": (
        put(OUT, 3, f"{LAYER}.mlp.c_proj.bias"),
        "the inputs of .*o_proj is",
    ),
    "no bias": (put(INNER, 3, ""), "the inputs of .*c_fc is"),
    "no biases at all": (without_biases, "the set of weights is"),
    "the scales of another product": (
        put(INNER, 2, f"{LAYER}.mlp.c_proj.weight.scales"),
        "multiplies with .*, codes and scales of nothing",
    ),
    "products swapped": (
        swapped(OUT, BACK),
        "of model.layers.0.* is .256,. in .*, the manifest says .1024,.",
    ),
    "the residual of another place": (put(BACK, 6, "val_1"), "the inputs of .*mlp.c_proj is"),
    "what goes into a product": (put(INNER, 0, "val_1"), "the input of .*c_fc is"),
    "the ids of nothing": (
        put(ATTENTION, 1, "past_lengths"),
        "the inputs of the attention of layer 0 is",
    ),
    "tables swapped": (
        put(ATTENTION, 3, "rotary.sin_cache"),
        "the inputs of the attention of layer 0 is",
    ),
    "keys of another layer": (
        put(ATTENTION, 5, "past_key_values.1.key"),
        "the inputs of the attention of layer 0 is",
    ),
    "a layer's attention lost": (
        drop(ATTENTION),
        "the operator of the attention of layer 0 is sc2onnx.BlockwiseLinear",
    ),
    "a product lost": (drop(OUT), "has no product with model.layers.0.self_attn.o_proj"),
    "a product too many": (twice, "the end of the layers is sc2onnx.BlockwiseLinear"),
    "an operator": (
        renamed("Linear"),
        "has the operator 'sc2onnx.Linear', which the exporter never writes",
    ),
    "a weight elsewhere": (at(f"{C_FC}.bias", "offset", "0"), "expected one place within"),
    "a weight in another file": (
        at(f"{C_FC}.bias", "location", "/etc/passwd"),
        "of '/etc/passwd', expected one place",
    ),
    "floats in the cache": (
        cached_as(onnx.TensorProto.FLOAT),
        "the input past_key_values.0.key is float32 .*, the manifest says uint8",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_graphs_that_the_exporter_never_writes(copy: Callable[..., Path], what: str) -> None:
    bundle, (change, said) = copy(), CHANGES[what]
    assert Bundle.open(bundle).manifest.kernels == VERSION
    change_graph(bundle, KERNELS, change)
    with pytest.raises(BundleIntegrityError, match=said) as raised:
        Bundle.open(bundle)
    assert len(str(raised.value).splitlines()) == 1


def test_int8_without_a_fine_head(int8_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(int8_bundle, bundle := tmp_path / "copy", copy_function=os.link)
    change_graph(bundle, KERNELS, say(HEAD, activation_bits=None))
    with pytest.raises(BundleIntegrityError, match=r"attributes of lm_head .*'activation_bits'"):
        Bundle.open(bundle)


@pytest.mark.kernels
def test_int8_of_the_version_before_runs(int8_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(int8_bundle, bundle := tmp_path / "copy", copy_function=os.link)
    model = onnx.load(bundle / KERNELS, load_external_data=False)
    say(HEAD, activation_bits=None)(model.graph)
    for opset in model.opset_import:
        opset.version = WITH_ADAPTERS if opset.domain == DOMAIN else opset.version
    replace(bundle, KERNELS, model.SerializeToString())
    edit(bundle, lambda raw: raw.update(kernels=WITH_ADAPTERS))
    found = [
        sc2onnx.load(each, kernels="on", packed="off").generate("def f(x):", max_new_tokens=8)
        for each in (bundle, int8_bundle)
    ]
    assert found[0].tokens == found[1].tokens


def test_a_graph_for_another_activation(copy: Callable[..., Path]) -> None:
    """Both graphs compute the same: that for the kernels only in the approximation by tanh."""
    bundle = copy()

    def exact(graph: Graph) -> None:
        for node in graph.node:
            if node.op_type == "Gelu":
                node.attribute[0].s = b"none"

    change_graph(bundle, "model.onnx", exact)
    with pytest.raises(BundleIntegrityError, match="the approximations of GELU are b'none' beside"):
        Bundle.open(bundle)


def test_stages_in_each_others_place(copy: Callable[..., Path]) -> None:
    bundle = copy(2)
    assert Bundle.open(bundle).manifest.kernel_graphs == (
        "model.0.kernels.onnx",
        "model.1.kernels.onnx",
    )
    one, other = ((bundle / f"model.{number}.kernels.onnx").read_bytes() for number in (0, 1))
    replace(bundle, "model.0.kernels.onnx", other)
    replace(bundle, "model.1.kernels.onnx", one)
    with pytest.raises(BundleIntegrityError, match=r"in model\.0\.kernels\.onnx, the"):
        Bundle.open(bundle)


def test_a_stage_that_takes_the_embedding(copy: Callable[..., Path]) -> None:
    """The later stage goes on from the hidden states that it is given."""
    bundle = copy(2)

    def change(graph: Graph) -> None:
        assert ours(graph)[QKV].input[0] == "hidden_states"
        ours(graph)[QKV].input[0] = "rotary.cos_cache"

    change_graph(bundle, "model.1.kernels.onnx", change)
    with pytest.raises(
        BundleIntegrityError,
        match=r"the input of .*qkv_proj is rotary.cos_cache in .*, expected hidden_states",
    ):
        Bundle.open(bundle)


def test_the_manifest_vouches_for_them(copy: Callable[..., Path]) -> None:
    bundle = copy()
    entry = json.loads((bundle / "sc2onnx.json").read_text())["files"][KERNELS]
    data = (bundle / KERNELS).read_bytes()
    assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / KERNELS).unlink()
    with pytest.raises(BundleIntegrityError, match=f"{KERNELS} is missing"):
        Bundle.open(bundle)


def before_adapters(bundle: Path) -> Path:
    """A bundle as versions wrote it whose kernels took no adapters."""
    model = onnx.load(bundle / KERNELS, load_external_data=False)
    for node in ours(model.graph):
        kept = [name for name in node.input if name not in ADAPTER_INPUTS]
        while not kept[-1]:
            kept.pop()
        del node.input[:]
        node.input.extend(kept)
        for attribute in [each for each in node.attribute if each.name == "product"]:
            node.attribute.remove(attribute)
    for values in (model.graph.input, model.graph.initializer):
        for value in [each for each in values if each.name in ADAPTER_INPUTS]:
            values.remove(value)
    for opset in model.opset_import:
        opset.version = 2 if opset.domain == DOMAIN else opset.version
    replace(bundle, KERNELS, model.SerializeToString())
    manifest = json.loads((bundle / "sc2onnx.json").read_text())
    (bundle / "sc2onnx.json").unlink()
    (bundle / "sc2onnx.json").write_text(json.dumps({**manifest, "kernels": 2}))
    return bundle


def test_graphs_of_the_version_before(copy: Callable[..., Path]) -> None:
    manifest = Bundle.open(bundle := before_adapters(copy())).manifest
    assert (manifest.kernels, manifest.kernel_graphs) == (2, (KERNELS,))
    change_graph(bundle, KERNELS, say(OUT, product=1))
    with pytest.raises(BundleIntegrityError, match=r"the attributes of .*o_proj is"):
        Bundle.open(bundle)


@pytest.mark.kernels
def test_a_bundle_of_the_version_before_gives_the_same_tokens(
    copy: Callable[..., Path], made: Mapping[int, Path]
) -> None:
    older = sc2onnx.load(before_adapters(copy()), kernels="on", packed="off")
    model = sc2onnx.load(made[1], kernels="on", packed="off")
    prompt = "def fib(n):"
    assert older.generate(prompt, max_new_tokens=12) == model.generate(prompt, max_new_tokens=12)
