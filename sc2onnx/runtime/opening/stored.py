"""Whether the weights that a bundle's graphs refer to lie where its manifest has room for them, and
are as many as it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import prod

from sc2onnx.bundle.contract import WEIGHTS_FILE
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.opening import expected
from sc2onnx.runtime.opening.contradictions import REMEDY, check_same
from sc2onnx.runtime.opening.expected import EMBEDDING, HEAD
from sc2onnx.runtime.opening.onnx_graph import OnnxGraph, Place, Tensor


def check_layout(graphs: list[OnnxGraph], manifest: Manifest) -> dict[str, Tensor]:
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


def check_totals(stored: Mapping[str, Tensor], manifest: Manifest) -> None:
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
