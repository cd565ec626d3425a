"""Whether a graph's products and attention are those that its manifest says."""

from __future__ import annotations

from sc2onnx.bundle.contract import LINEAR
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.steps import NONE, agreeing_steps
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.opening import expected
from sc2onnx.runtime.opening.contradictions import REMEDY, check_same
from sc2onnx.runtime.opening.expected import EMBEDDING, Part
from sc2onnx.runtime.opening.onnx_graph import OnnxGraph
from sc2onnx.runtime.opening.operators import (
    BLOCKWISE_LINEAR,
    GATHER_NBITS,
    GROUPED_QUERY,
    MATMUL_NBITS,
    TOKENWISE,
)


def check_products(name: str, graph: OnnxGraph, part: Part) -> None:
    """Each product with integers takes them for what they are; none is
    computed with anything else.
    """
    shapes, seen = expected.products(part), set[str]()
    quantised = {
        MATMUL_NBITS: (1, 2),
        BLOCKWISE_LINEAR: (1, 2),
        GATHER_NBITS: (0, 2),
        "DequantizeLinear": (0, 1),
    }  # which inputs are codes and scales
    widened = {
        node.outputs[0]: node.inputs[0]
        for node in graph.nodes
        if node.operator == "Cast" and node.inputs[0] in graph.tensors
    }
    for node in graph.nodes:
        if node.operator not in quantised:
            continue
        codes, scales = (
            node.inputs[number] if len(node.inputs) > number else ""
            for number in quantised[node.operator]
        )
        scales = widened.get(scales, scales)
        # as earlier exporters look a row up
        gathered = part.manifest.made_for.transposed and not {codes, scales} & set(graph.tensors)
        codes, scales = (
            (f"{EMBEDDING}.weight.codes", f"{EMBEDDING}.weight.scales")
            if gathered
            else (codes, scales)
        )
        product = codes.removesuffix(".weight.codes")
        chosen = expected.scheme(part.manifest, product)
        if product not in shapes or chosen is None or scales != f"{product}.weight.scales":
            raise BundleIntegrityError(
                f"{name} multiplies with {codes[:80]!r} and {scales[:80]!r}, codes and scales of "
                f"nothing in the manifest: {REMEDY}"
            )
        rows, columns = shapes[product]
        promised = {"bits": chosen.bits, "block_size": chosen.block_size, "N": rows, "K": columns}
        for attribute, value in promised.items():
            if attribute in node.attributes:
                check_same(name, f"{attribute} of {product}", node.attributes[attribute], (value,))
        seen.add(product)
    if part.manifest.made_for.transposed:
        # it gathers codes, and multiplies with scales, by operators that know nothing of blocks
        seen.add(EMBEDDING)
    if missing := {product for product in shapes if expected.scheme(part.manifest, product)} - seen:
        raise BundleIntegrityError(
            f"{name} has no product with {min(missing)}, the manifest does: {REMEDY}"
        )


def check_attention(name: str, graph: OnnxGraph, part: Part) -> None:
    """Window and heads: of the mask, or of the operator that has them as attributes."""
    facts = part.manifest.model
    if part.manifest.cache.kind == LINEAR:
        nodes = [node for node in graph.nodes if node.operator == GROUPED_QUERY]
        check_same(name, "the number of attentions", len(nodes), len(part.layers))
        window = -1 if facts.sliding_window is None else facts.sliding_window
        promised = {
            "local_window_size": window,
            "num_heads": facts.num_heads,
            "kv_num_heads": facts.num_kv_heads,
        }
        for node in nodes:
            for attribute, said in promised.items():
                check_same(
                    name, f"{attribute} of the attention", node.attributes.get(attribute), (said,)
                )
        return
    check_same(name, "the sliding window", _masked(graph), facts.sliding_window)
    check_same(
        name, "which steps agree", _agreeing(graph, part.manifest), part.manifest.agreeing_steps
    )


def _agreeing(graph: OnnxGraph, manifest: Manifest) -> str:
    """Which steps agree: some only where attention is computed token by
    token, which the graph shows.
    """
    facts, tokenwise = (
        manifest.model,
        any(node.attributes.get("perm") == TOKENWISE for node in graph.nodes),
    )
    if manifest.quantization is None or not tokenwise:
        return NONE
    return agreeing_steps(
        manifest.quantization.schemes.values(), facts.num_heads, facts.num_kv_heads, facts.head_dim
    )


def _masked(graph: OnnxGraph) -> int | str | None:
    """The number that distances are compared with in the mask; None where they are not."""
    nodes = [node for node in graph.nodes if node.operator == "Less"]
    if not nodes:
        return None
    tensor = graph.tensors.get(nodes[0].inputs[-1]) if nodes[0].inputs else None
    values = tensor.integers if tensor is not None else None
    return values[0] if values is not None and len(values) == len(nodes) == 1 else "unclear"
