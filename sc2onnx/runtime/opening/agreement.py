"""Whether a manifest says of its graphs what they say themselves.

A digest shows that a graph is what its manifest was written for; that the manifest is still what
was written shows only what both know. So a bit of it that changes what is computed is noticed here,
and every size in it is one that the files bear out before anything is made of that size. Nothing is
run, and of the weights a row is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Final

import numpy as np

from sc2onnx.bundle import records
from sc2onnx.bundle.contract import LINEAR, WEIGHTS_FILE, kernel_graph_files
from sc2onnx.bundle.kernels import DOMAIN
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.steps import NONE, agreeing_steps
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.opening import expected
from sc2onnx.runtime.opening.adapter_graph import check_adapter_graph
from sc2onnx.runtime.opening.contradictions import REMEDY, check_same
from sc2onnx.runtime.opening.expected import EMBEDDING, HEAD, Part, Ports
from sc2onnx.runtime.opening.kernel_graph import check_kernel_graph
from sc2onnx.runtime.opening.manifest_fields import check_fields
from sc2onnx.runtime.opening.onnx_graph import (
    MOST_BYTES,
    OnnxGraph,
    Place,
    Port,
    Tensor,
    read_graph,
)
from sc2onnx.runtime.opening.operators import (
    BLOCKWISE_LINEAR,
    CONTRIB,
    GATHER_NBITS,
    GROUPED_QUERY,
    MATMUL_NBITS,
    TOKENWISE,
    check_operators,
)
from sc2onnx.runtime.opening.rotary import check_rotary


def check_agreement(directory: Path, manifest: Manifest) -> None:
    """Raise :class:`BundleIntegrityError` for graphs that the exporter does not write,
    or not for this manifest.

    ``directory``: of the bundle, whose files have the sizes that the manifest says.
    """
    check_fields(manifest)
    parts = expected.parts(manifest)
    graphs = [
        _agreed(directory, name, part) for part, name in zip(parts, manifest.graphs, strict=True)
    ]
    every = [*graphs, *_kernel_graphs(directory, manifest, parts, graphs)]
    every += _adapter_graphs(directory, manifest, parts, graphs)
    _check_epsilon(directory, every, manifest)
    stored = _check_layout(every, manifest)
    _check_totals(stored, manifest)
    check_rotary(directory / WEIGHTS_FILE, stored[expected.SIN_CACHE], manifest.model)


def _agreed(directory: Path, name: str, part: Part) -> OnnxGraph:
    """One of the graphs, which is what the manifest says."""
    graph = _read(directory / name, part)
    # before anything is made for each
    layers = sum(port.startswith("past_key_values.") for port in graph.inputs) / 2
    check_same(name, "the number of layers", f"{layers:g}", str(len(part.layers)))
    _check_ports(name, "input", graph.inputs, expected.inputs(part))
    _check_ports(name, "output", graph.outputs, expected.outputs(part))
    _check_weights(name, graph, part)
    _check_products(name, graph, part)
    if not part.kernels:
        _check_attention(name, graph, part)
    return graph


def _kernel_graphs(
    directory: Path,
    manifest: Manifest,
    parts: list[Part],
    graphs: list[OnnxGraph],
) -> list[OnnxGraph]:
    """Those for the kernels, which compute what ``graphs`` do with the same weights.

    Empty where there are none for this version.
    """
    if not manifest.kernel_graphs:
        _check_later(directory, manifest)
        return []
    found = []
    for part, usual, name in zip(parts, graphs, manifest.kernel_graphs, strict=True):
        graph = _agreed(directory, name, replace(part, kernels=True))
        check_same(name, "the set of weights", *(sorted(_outside(each)) for each in (graph, usual)))
        check_kernel_graph(name, graph, part, usual)
        found.append(graph)
    return found


def _adapter_graphs(
    directory: Path,
    manifest: Manifest,
    parts: list[Part],
    graphs: list[OnnxGraph],
) -> list[OnnxGraph]:
    """Those that take adapters, which compute what ``graphs`` do with the same weights."""
    found = []
    for part, usual, name in zip(parts, graphs, manifest.adapter_graphs, strict=False):
        graph = _agreed(directory, name, replace(part, adapters=True))
        check_same(name, "the set of weights", *(sorted(_outside(each)) for each in (graph, usual)))
        check_adapter_graph(name, graph, part, usual)
        found.append(graph)
    return found


def _check_later(directory: Path, manifest: Manifest) -> None:
    """Graphs for later kernels are not used, and may be anything; those that
    can be read say for which.
    """
    for name in kernel_graph_files(manifest.stages) if manifest.kernels else ():
        data = _contents(directory / name)
        try:
            graph = read_graph(data)
        except ValueError:
            continue
        _check_version(name, graph, manifest)


def _check_version(name: str, graph: OnnxGraph, manifest: Manifest) -> None:
    found = graph.opsets.get(DOMAIN)
    check_same(name, "the version of the kernels' operators", found, manifest.kernels)


_CONFIG: Final = "config.json"


def _contents(path: Path) -> bytes:
    try:
        return records.contents(path, MOST_BYTES)
    except OSError as error:
        raise BundleIntegrityError(
            f"{path} cannot be read ({error.strerror}): correct its permissions, "
            "or copy the bundle again"
        ) from error


def _read(path: Path, part: Part) -> OnnxGraph:
    manifest = part.manifest
    try:
        graph = read_graph(_contents(path))
        check_operators(graph, manifest, kernels=part.kernels, adapters=part.adapters)
    except ValueError as error:
        raise BundleIntegrityError(
            f"{path} is no graph that this version wrote ({error}): do not trust "
            "it, or upgrade sc2onnx"
        ) from error
    check_same(path.name, "the opset", graph.opsets.get(""), manifest.opset)
    check_same(path.name, "the opset of ONNX Runtime's operators", graph.opsets.get(CONTRIB, 1), 1)
    if part.kernels:
        _check_version(path.name, graph, manifest)
    return graph


def _check_ports(name: str, what: str, found: Mapping[str, Port], promised: Ports) -> None:
    for port, said in promised.ports.items():
        if port not in found and port in promised.optional:
            continue
        check_same(name, f"the {what} {port}", _shown(found.get(port)), _shown(said))
    if foreign := sorted(set(found) - set(promised.ports)):
        check_same(name, f"the {what} {foreign[0][:80]!r}", _shown(found[foreign[0]]), "absent")


def _check_weights(name: str, graph: OnnxGraph, part: Part) -> None:
    found = _outside(graph)
    promised = expected.weights(part, biases=any(weight.endswith("_proj.bias") for weight in found))
    for weight, said in promised.items():
        check_same(name, f"the weight {weight}", _shown(found.get(weight)), _shown(Port(*said)))
    if foreign := sorted(set(found) - set(promised)):
        check_same(name, f"the weight {foreign[0][:80]!r}", _shown(found[foreign[0]]), "absent")


def _outside(graph: OnnxGraph) -> dict[str, Tensor]:
    """Its weights, which lie in another file."""
    return {tensor.name: tensor for tensor in graph.tensors.values() if tensor.place is not None}


def _shown(value: Port | Tensor | None) -> str:
    """Type and shape for a person: ``float32 (?, 2, ?, 64)``."""
    if value is None:
        return "absent"
    sizes = ", ".join("?" if size is None else str(size) for size in value.shape)
    return f"{_TYPES.get(value.data_type, value.data_type)} ({sizes})"


_TYPES: Final = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    10: "float16",
    16: "bfloat16",
    22: "int4",
}


def _check_products(name: str, graph: OnnxGraph, part: Part) -> None:
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


def _check_attention(name: str, graph: OnnxGraph, part: Part) -> None:
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


def _check_epsilon(directory: Path, graphs: list[OnnxGraph], manifest: Manifest) -> None:
    """One for all norms: that of config.json, where the bundle has one that says it."""
    found = {
        node.attributes.get("epsilon")
        for graph in graphs
        for node in graph.nodes
        if node.operator == "LayerNormalization" or "epsilon" in node.attributes
    }
    said = None
    if _CONFIG in manifest.files:
        # which is for other programs, and need not be strict JSON
        with suppress(OSError, ValueError):
            said = records.read(directory / _CONFIG).get("norm_epsilon")
    expected = {float(np.float32(said))} if isinstance(said, float) else found
    if len(found) != 1 or found != expected:
        raise BundleIntegrityError(
            f"the epsilon of the norms is {sorted(map(str, found))} in the graph, {_CONFIG} "
            f"says {said}: {REMEDY}"
        )


def _check_layout(graphs: list[OnnxGraph], manifest: Manifest) -> dict[str, Tensor]:
    """Weights by name, of all graphs: inside the data file, each in a place of its own
    but where a head is tied.
    """
    size, stored = manifest.files[WEIGHTS_FILE].size, dict[str, Tensor]()
    for graph in graphs:
        for tensor in graph.tensors.values():
            if tensor.place is None:
                continue
            known = stored.setdefault(tensor.name, tensor)
            if tensor.place.location != WEIGHTS_FILE or tensor.place.end > size or known != tensor:
                raise BundleIntegrityError(
                    f"{tensor.name} lies at {tensor.place.start} to {tensor.place.end} of "
                    f"{tensor.place.location[:80]!r}, expected one place within the {size} bytes "
                    f"of {WEIGHTS_FILE}: {REMEDY}"
                )
    placed = sorted(
        (_place(tensor).start, _place(tensor).end, name) for name, tensor in stored.items()
    )
    for (start, end, one), (following, also, other) in pairwise(placed):
        tied = manifest.model.tied_embeddings and {_product(one), _product(other)} == {
            EMBEDDING,
            HEAD,
        }
        if following < end and not (tied and (start, end) == (following, also)):
            raise BundleIntegrityError(
                f"{one} and {other} share bytes of {WEIGHTS_FILE}, expected a "
                f"place for each: {REMEDY}"
            )
    return stored


def _place(tensor: Tensor) -> Place:
    assert tensor.place is not None
    return tensor.place


def _product(weight: str) -> str:
    return weight.split(".weight")[0]


def _check_totals(stored: Mapping[str, Tensor], manifest: Manifest) -> None:
    """What the manifest counts: bytes, parameters, bits of a weight, the products that have a
    scheme, whether the head is tied.
    """
    facts, quantization = manifest.model, manifest.quantization
    graph = manifest.graphs[0] if len(manifest.graphs) == 1 else "the graphs"
    kept = {(_place(tensor).start, _place(tensor).end) for tensor in stored.values()}
    check_same(
        graph,
        "the size of the weights",
        sum(end - start for start, end in kept),
        manifest.weight_bytes,
    )
    matrices = {
        name: shape
        for part in expected.parts(manifest)
        for name, shape in expected.products(part).items()
    }
    heads = {HEAD} if facts.tied_embeddings else set[str]()
    others = (
        prod(tensor.shape)
        for tensor in stored.values()
        if not tensor.name.startswith("rotary.") and len(tensor.shape) == 1
    )
    check_same(
        graph,
        "the number of parameters",
        sum(others) + sum(prod(matrices[name]) for name in set(matrices) - heads),
        facts.parameters,
    )
    if quantization is None:
        return
    check_same(
        graph, "the list of quantised matrices", sorted(matrices), sorted(quantization.schemes)
    )
    if facts.tied_embeddings:
        places = [stored[f"{product}.weight.codes"].place for product in (EMBEDDING, HEAD)]
        check_same(graph, "whether the head is tied to the embedding", places[0] == places[1], True)
    body = {name: shape for name, shape in matrices.items() if name not in (EMBEDDING, HEAD)}
    nbytes = sum(
        stored[f"{name}.weight.{kind}"].nbytes for name in body for kind in ("codes", "scales")
    )
    bits = 8 * nbytes / sum(map(prod, body.values()))
    check_same(graph, "the number of bits per weight", round(bits, 4), quantization.body_bits)
