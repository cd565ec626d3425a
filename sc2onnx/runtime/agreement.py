"""Whether a manifest says of its graphs what they say themselves.

A digest shows that a graph is what its manifest was written for; that the manifest is still what was
written shows only what both know. So a bit of it that changes what is computed is noticed here,
and every size in it is one that the files bear out before anything is made of that size.
Nothing is run, and of the weights a row is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle import records
from sc2onnx.bundle.steps import NONE, agreeing_steps
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.manifest import GROWING, LINEAR, WEIGHTS_FILE, Manifest
from sc2onnx.runtime import expected
from sc2onnx.runtime.expected import EMBEDDING, HEAD, Part, Ports
from sc2onnx.runtime.graph_facts import BITS, FLOAT, FLOAT16, MOST_BYTES, OnnxGraph, Place, Port, Tensor, read_graph
from sc2onnx.runtime.operators import CONTRIB, GATHER_NBITS, GROUPED_QUERY, MATMUL_NBITS, TOKENWISE, check_operators

_REMEDY: Final = "it was altered or damaged, copy or export the bundle again"


def check_agreement(directory: Path, manifest: Manifest) -> None:
    """Raise :class:`BundleIntegrityError` for graphs that the exporter does not write, or not for this manifest.

    ``directory``: of the bundle, whose files have the sizes that the manifest says.
    """
    _check_names(manifest)
    graphs = []
    for part, name in zip(expected.parts(manifest), manifest.graphs, strict=True):
        graph = _read(directory / name, manifest)
        graphs.append(graph)
        layers = sum(port.startswith("past_key_values.") for port in graph.inputs) / 2  # before anything is made for each
        _same(name, "the number of layers", f"{layers:g}", str(len(part.layers)))
        _check_ports(name, "input", graph.inputs, expected.inputs(part))
        _check_ports(name, "output", graph.outputs, expected.outputs(part))
        _check_weights(name, graph, part)
        _check_products(name, graph, part)
        _check_attention(name, graph, part)
    _check_epsilon(directory, graphs, manifest)
    stored = _check_layout(graphs, manifest)
    _check_totals(stored, graphs, manifest)
    _check_rotary(directory / WEIGHTS_FILE, stored, manifest)


_CONFIG: Final = "config.json"
_FLOATS: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_KINDS: Final = {"genai": LINEAR, "optimum": GROWING}


def _check_names(manifest: Manifest) -> None:
    """What the manifest says in more than one of its fields."""
    facts, quantization, cache = manifest.model, manifest.quantization, manifest.cache
    if facts.architecture != "starcoder2":
        raise BundleIntegrityError(f"model.architecture is {facts.architecture[:80]!r}, expected 'starcoder2': {_REMEDY}")
    called = quantization.recipe if quantization else next(name for name, dtype in _FLOATS.items() if dtype == cache.dtype)
    if manifest.precision != called or (quantization and called in _FLOATS):
        raise BundleIntegrityError(f"precision is {manifest.precision[:80]!r}, expected {called[:80]!r} by the cache or the recipe: {_REMEDY}")
    if cache.kind != _KINDS.get(manifest.target, cache.kind):
        raise BundleIntegrityError(f"cache.kind is {cache.kind[:80]!r} for target {manifest.target!r}: {_REMEDY}")
    oldest = 5 if manifest.agreeing_steps != NONE else 4 if manifest.for_others else 3 if manifest.stages else 2 if quantization else 1
    if manifest.format_version < oldest:
        raise BundleIntegrityError(
            f"format_version is {manifest.format_version}, expected {oldest} at least by what else the manifest has: {_REMEDY}"
        )


def _read(path: Path, manifest: Manifest) -> OnnxGraph:
    try:
        graph = read_graph(records.contents(path, MOST_BYTES))
        check_operators(graph, manifest)
    except OSError as error:
        raise BundleIntegrityError(f"{path} cannot be read ({error.strerror}): correct its permissions, or copy the bundle again") from error
    except ValueError as error:
        raise BundleIntegrityError(f"{path} is no graph that this version wrote ({error}): do not trust it, or upgrade sc2onnx") from error
    _same(path.name, "the opset", graph.opsets.get(""), manifest.opset)
    _same(path.name, "the opset of ONNX Runtime's operators", graph.opsets.get(CONTRIB, 1), 1)
    return graph


def _same(graph: str, what: str, found: Any, said: Any) -> None:
    if found != said:
        raise BundleIntegrityError(f"{what} is {found} in {graph}, the manifest says {said}: {_REMEDY}")


def _check_ports(name: str, what: str, found: Mapping[str, Port], promised: Ports) -> None:
    for port, said in promised.ports.items():
        if port not in found and port in promised.optional:
            continue
        _same(name, f"the {what} {port}", _shown(found.get(port)), _shown(said))
    if foreign := sorted(set(found) - set(promised.ports)):
        _same(name, f"the {what} {foreign[0][:80]!r}", _shown(found[foreign[0]]), "absent")


def _check_weights(name: str, graph: OnnxGraph, part: Part) -> None:
    found = {tensor.name: tensor for tensor in graph.tensors.values() if tensor.place is not None}
    promised = expected.weights(part, biases=any(weight.endswith("_proj.bias") for weight in found))
    for weight, said in promised.items():
        _same(name, f"the weight {weight}", _shown(found.get(weight)), _shown(Port(*said)))
    if foreign := sorted(set(found) - set(promised)):
        _same(name, f"the weight {foreign[0][:80]!r}", _shown(found[foreign[0]]), "absent")


def _shown(value: Port | Tensor | None) -> str:
    """Type and shape for a person: ``float32 (?, 2, ?, 64)``."""
    if value is None:
        return "absent"
    sizes = ", ".join("?" if size is None else str(size) for size in value.shape)
    return f"{_TYPES.get(value.data_type, value.data_type)} ({sizes})"


_TYPES: Final = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 16: "bfloat16", 22: "int4"}


def _check_products(name: str, graph: OnnxGraph, part: Part) -> None:
    """Each product with integers takes them for what they are; none is computed with anything else."""
    shapes, seen = expected.products(part), set[str]()
    quantised = {MATMUL_NBITS: (1, 2), GATHER_NBITS: (0, 2), "DequantizeLinear": (0, 1)}  # which inputs are codes and scales
    for node in graph.nodes:
        if node.operator not in quantised:
            continue
        codes, scales = (node.inputs[number] if len(node.inputs) > number else "" for number in quantised[node.operator])
        gathered = part.manifest.target == "portable" and not {codes, scales} & set(graph.tensors)  # as earlier exporters look a row up
        codes, scales = (f"{EMBEDDING}.weight.codes", f"{EMBEDDING}.weight.scales") if gathered else (codes, scales)
        product = codes.removesuffix(".weight.codes")
        chosen = expected.scheme(part.manifest, product)
        if product not in shapes or chosen is None or scales != f"{product}.weight.scales":
            raise BundleIntegrityError(
                f"{name} multiplies with {codes[:80]!r} and {scales[:80]!r}, codes and scales of nothing in the manifest: {_REMEDY}"
            )
        (bits, block), (rows, columns) = chosen, shapes[product]
        promised = {"bits": bits, "block_size": block, "N": rows, "K": columns}
        for attribute, value in promised.items():
            if attribute in node.attributes:
                _same(name, f"{attribute} of {product}", node.attributes[attribute], (value,))
        seen.add(product)
    if part.manifest.target == "portable":
        seen.add(EMBEDDING)  # it gathers codes, and multiplies with scales, by operators that know nothing of blocks
    if missing := {product for product in shapes if expected.scheme(part.manifest, product)} - seen:
        raise BundleIntegrityError(f"{name} has no product with {min(missing)}, the manifest does: {_REMEDY}")


def _check_attention(name: str, graph: OnnxGraph, part: Part) -> None:
    """Window and heads: of the mask, or of the operator that has them as attributes."""
    facts = part.manifest.model
    if part.manifest.cache.kind == LINEAR:
        nodes = [node for node in graph.nodes if node.operator == GROUPED_QUERY]
        _same(name, "the number of attentions", len(nodes), len(part.layers))
        window = -1 if facts.sliding_window is None else facts.sliding_window
        promised = {"local_window_size": window, "num_heads": facts.num_heads, "kv_num_heads": facts.num_kv_heads}
        for node in nodes:
            for attribute, said in promised.items():
                _same(name, f"{attribute} of the attention", node.attributes.get(attribute), (said,))
        return
    _same(name, "the sliding window", _masked(graph), facts.sliding_window)
    _same(name, "which steps agree", _agreeing(graph, part.manifest), part.manifest.agreeing_steps)


def _agreeing(graph: OnnxGraph, manifest: Manifest) -> str:
    """Which steps agree: some only where attention is computed token by token, which the graph shows."""
    facts, tokenwise = manifest.model, any(node.attributes.get("perm") == TOKENWISE for node in graph.nodes)
    if manifest.quantization is None or not tokenwise:
        return NONE
    return agreeing_steps(manifest.quantization.schemes.values(), facts.num_heads, facts.num_kv_heads, facts.head_dim)


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
    found = {node.attributes.get("epsilon") for graph in graphs for node in graph.nodes if node.operator == "LayerNormalization"}
    said = None
    if _CONFIG in manifest.files:
        with suppress(OSError, ValueError):  # which is for other programs, and need not be strict JSON
            said = records.read(directory / _CONFIG).get("norm_epsilon")
    expected = {float(np.float32(said))} if isinstance(said, float) else found
    if len(found) != 1 or found != expected:
        raise BundleIntegrityError(f"the epsilon of the norms is {sorted(map(str, found))} in the graph, {_CONFIG} says {said}: {_REMEDY}")


def _check_layout(graphs: list[OnnxGraph], manifest: Manifest) -> dict[str, Tensor]:
    """Weights by name, of all graphs: inside the data file, each in a place of its own but where a head is tied."""
    size, stored = manifest.files[WEIGHTS_FILE].size, dict[str, Tensor]()
    for graph in graphs:
        for tensor in graph.tensors.values():
            if tensor.place is None:
                continue
            known = stored.setdefault(tensor.name, tensor)
            if tensor.place.location != WEIGHTS_FILE or tensor.place.end > size or known != tensor:
                raise BundleIntegrityError(
                    f"{tensor.name} lies at {tensor.place.start} to {tensor.place.end} of {tensor.place.location[:80]!r}, "
                    f"expected one place within the {size} bytes of {WEIGHTS_FILE}: {_REMEDY}"
                )
    placed = sorted((_place(tensor).start, _place(tensor).end, name) for name, tensor in stored.items())
    for (start, end, one), (following, also, other) in pairwise(placed):
        tied = manifest.model.tied_embeddings and {_product(one), _product(other)} == {EMBEDDING, HEAD}
        if following < end and not (tied and (start, end) == (following, also)):
            raise BundleIntegrityError(f"{one} and {other} share bytes of {WEIGHTS_FILE}, expected a place for each: {_REMEDY}")
    return stored


def _place(tensor: Tensor) -> Place:
    assert tensor.place is not None
    return tensor.place


def _product(weight: str) -> str:
    return weight.split(".weight")[0]


def _check_totals(stored: Mapping[str, Tensor], graphs: list[OnnxGraph], manifest: Manifest) -> None:
    """What the manifest counts: bytes, parameters, bits of a weight, the products that have a scheme, whether the head is tied."""
    facts, quantization = manifest.model, manifest.quantization
    graph = manifest.graphs[0] if len(graphs) == 1 else "the graphs"
    kept = {(_place(tensor).start, _place(tensor).end) for tensor in stored.values()}
    _same(graph, "the size of the weights", sum(end - start for start, end in kept), manifest.weight_bytes)
    matrices = {name: shape for part in expected.parts(manifest) for name, shape in expected.products(part).items()}
    heads = {HEAD} if facts.tied_embeddings else set[str]()
    others = (prod(tensor.shape) for tensor in stored.values() if not tensor.name.startswith("rotary.") and len(tensor.shape) == 1)
    _same(graph, "the number of parameters", sum(others) + sum(prod(matrices[name]) for name in set(matrices) - heads), facts.parameters)
    if quantization is None:
        return
    _same(graph, "the list of quantised matrices", sorted(matrices), sorted(quantization.schemes))
    if facts.tied_embeddings:
        places = [stored[f"{product}.weight.codes"].place for product in (EMBEDDING, HEAD)]
        _same(graph, "whether the head is tied to the embedding", places[0] == places[1], True)
    body = {name: shape for name, shape in matrices.items() if name not in (EMBEDDING, HEAD)}
    nbytes = sum(stored[f"{name}.weight.{kind}"].nbytes for name in body for kind in ("codes", "scales"))
    bits = 8 * nbytes / sum(map(prod, body.values()))
    _same(graph, "the number of bits per weight", round(bits, 4), quantization.body_bits)


def _check_rotary(path: Path, stored: Mapping[str, Tensor], manifest: Manifest) -> None:
    """The base of the rotary embedding: the sines of the last position, of which all frequencies make much.

    Computed and rounded as the exporter does (docs/decisions/0005-rotary-rounding.md), compared to
    within one rounding of the table's type.
    """
    facts, table = manifest.model, stored[expected.SIN_CACHE]
    row = facts.head_dim // 2 * BITS[table.data_type] // 8
    try:
        with path.open("rb") as file:
            file.seek(_place(table).end - row)
            found = _floats(file.read(row), table.data_type)
    except OSError as error:
        raise BundleIntegrityError(f"{path} cannot be read ({error.strerror}): correct its permissions, or copy the bundle again") from error
    exponents = np.arange(0, facts.head_dim, 2, dtype=np.float32) / np.float32(facts.head_dim)
    with np.errstate(over="ignore"):
        powers = np.power(np.float64(np.float32(facts.rope_theta)), exponents.astype(np.float64)).astype(np.float32)
    phases = np.float32(facts.context_length - 1) * (np.float32(1) / powers)
    tolerance = {FLOAT: 2e-7, FLOAT16: 3e-4}.get(table.data_type, 2.5e-3)
    if len(found) != len(phases) or not np.allclose(found, np.sin(phases.astype(np.float64)), rtol=0, atol=tolerance):
        raise BundleIntegrityError(
            f"the rotary tables in {path.name} are not those of model.rope_theta {facts.rope_theta}, which the manifest says: {_REMEDY}"
        )


def _floats(data: bytes, data_type: int) -> npt.NDArray[np.float64]:
    """Elements as float64. A bfloat16 is the upper half of a float32."""
    if data_type == FLOAT:
        return np.frombuffer(data, "<f4").astype(np.float64)
    if data_type == FLOAT16:
        return np.frombuffer(data, "<f2").astype(np.float64)
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
