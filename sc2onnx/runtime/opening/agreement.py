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
from pathlib import Path
from typing import Final

import numpy as np

from sc2onnx.bundle import records
from sc2onnx.bundle.contract import WEIGHTS_FILE, kernel_graph_files
from sc2onnx.bundle.kernels import DOMAIN
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.opening import expected
from sc2onnx.runtime.opening.adapter_graph import check_adapter_graph
from sc2onnx.runtime.opening.computed import check_attention, check_products
from sc2onnx.runtime.opening.contradictions import REMEDY, check_same
from sc2onnx.runtime.opening.expected import Part, Ports
from sc2onnx.runtime.opening.kernel_graph import check_kernel_graph
from sc2onnx.runtime.opening.manifest_fields import check_fields
from sc2onnx.runtime.opening.onnx_graph import (
    MOST_BYTES,
    OnnxGraph,
    Port,
    Tensor,
    read_graph,
)
from sc2onnx.runtime.opening.operators import (
    CONTRIB,
    check_operators,
)
from sc2onnx.runtime.opening.rotary import check_rotary
from sc2onnx.runtime.opening.stored import check_layout, check_totals


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
    stored = check_layout(every, manifest)
    check_totals(stored, manifest)
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
    check_products(name, graph, part)
    if not part.kernels:
        check_attention(name, graph, part)
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
