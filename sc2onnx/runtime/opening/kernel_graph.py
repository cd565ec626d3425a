"""Whether a graph for the kernels is the one that the exporter writes for a manifest.

It has so few nodes that each is compared: which weights it takes, what stands around a product, and
that one follows from the other as the layers do. What it has in common with the graph that every
runtime reads, :mod:`sc2onnx.runtime.opening.agreement` compares.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sc2onnx.bundle.contract import HIDDEN, INPUT_IDS, PAST_LENGTHS, past_name, present_name
from sc2onnx.bundle.kernels import (
    ADAPTED,
    ADAPTER_INPUTS,
    CACHE_ROWS,
    DOMAIN,
    STEP_LENGTHS,
    WITH_ADAPTERS,
    has_fine_head,
    product_number,
)
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.opening.contradictions import REMEDY, check_same
from sc2onnx.runtime.opening.expected import COS_CACHE, HEAD, SIN_CACHE, Part, kernel_options
from sc2onnx.runtime.opening.onnx_graph import Node, OnnxGraph
from sc2onnx.runtime.opening.operators import BLOCKWISE_LINEAR, GATHER_NBITS, RING_ATTENTION


def check_kernel_graph(name: str, graph: OnnxGraph, part: Part, usual: OnnxGraph) -> None:
    """Raise :class:`BundleIntegrityError` for one that does not compute the layers of ``part``.

    ``name``: of its file; ``usual``: the graph of the same layers that every runtime reads.
    """
    gelu = {node.attributes.get("approximate") for node in usual.nodes if node.operator == "Gelu"}
    if gelu != {b"tanh"}:
        found = ", ".join(sorted(map(str, gelu))) or "none"
        raise BundleIntegrityError(
            f"the approximations of GELU are {found[:80]} beside {name}, expected tanh: {REMEDY}",
        )
    _Walk(name, graph, part, set(usual.tensors)).layers()


@dataclass(frozen=True, slots=True)
class _Product:
    """A product by the name of its weights. ``number``: by which adapters know it, None: none.
    ``fine``: whether its activations have 16 bits.
    """

    name: str
    number: int | None = None
    fine: bool = False


class _Walk:
    """The operators of the kernels' domain in order, each compared with what comes next."""

    def __init__(self, name: str, graph: OnnxGraph, part: Part, weights: Collection[str]) -> None:
        self._name, self._graph, self._part, self._weights = name, graph, part, weights
        self._adapters = part.manifest.kernels >= WITH_ADAPTERS
        self._nodes = iter([node for node in graph.nodes if node.operator.startswith(f"{DOMAIN}.")])

    def layers(self) -> None:
        """As the exporter writes them: attention, then perceptron, and the head at the end."""
        self._options()
        x = self._first()
        for layer in self._part.layers:
            prefix = f"model.layers.{layer}"
            norms = f"{prefix}.input_layernorm", f"{prefix}.post_attention_layernorm"
            qkv_proj, o_proj, c_fc, c_proj = (
                _Product(f"{prefix}.{name}", product_number(layer, name)) for name in ADAPTED
            )
            qkv = self._linear(qkv_proj, x, norm=norms[0])
            x = self._linear(o_proj, self._attention(layer, qkv), residual=x)
            x = self._linear(c_proj, self._linear(c_fc, x, norm=norms[1], gelu=True), residual=x)
        if self._part.last:
            self._linear(_Product(HEAD, fine=self._fine_head()), None, norm="model.norm")
        if (node := next(self._nodes, None)) is not None:
            self._refuse("the end of the layers", node.operator, "nothing more")

    def _options(self) -> None:
        """Inputs that need not be fed are empty then."""
        for name in kernel_options(self._part.manifest.kernels):
            default = self._graph.tensors.get(name)
            found = "absent" if default is None else default.nbytes
            self._compare(f"the input {name}", "bytes of the default", found, 0)

    def _fine_head(self) -> bool:
        manifest = self._part.manifest
        schemes = manifest.quantization.schemes.values() if manifest.quantization else ()
        return has_fine_head(manifest.kernels, schemes)

    def _first(self) -> str:
        """The name of what the first layer takes."""
        if not self._part.first:
            return HIDDEN
        found = [node.outputs for node in self._graph.nodes if node.operator == GATHER_NBITS]
        if len(found) != 1 or len(found[0]) != 1:
            self._refuse("the embedding", f"{len(found)} operators", "one")
        return found[0][0]

    def _linear(
        self,
        product: _Product,
        x: str | None,
        *,
        norm: str = "",
        residual: str = "",
        gelu: bool = False,
    ) -> str:
        """The name of the output. ``x``: None where nothing is known of it."""
        name, adapted = product.name, product.number is not None and self._adapters
        node = self._next(name, BLOCKWISE_LINEAR, outputs=1)
        bias = f"{name}.bias" if f"{name}.bias" in self._weights else ""
        around = [f"{norm}.weight", f"{norm}.bias"] if norm else ["", ""]
        inputs = [f"{name}.weight.codes", f"{name}.weight.scales", bias, *around, residual]
        inputs += ADAPTER_INPUTS if adapted else []
        while not inputs[-1]:
            inputs.pop()
        self._compare(name, "inputs", list(node.inputs[1:]), inputs)
        if x is not None:
            self._compare(name, "input", node.inputs[0], x)
        there = {
            "activation_bits": product.fine,
            "epsilon": norm,
            "gelu": gelu,
            "product": adapted,
        }
        names = sorted(["K", "N", "bits", "block_size", *(each for each in there if there[each])])
        self._compare(name, "attributes", sorted(node.attributes), names)
        if adapted:
            self._compare(name, "number", node.attributes["product"], (product.number,))
        return node.outputs[0]

    def _attention(self, layer: int, qkv: str) -> str:
        """The name of the output."""
        facts, what = self._part.manifest.model, f"the attention of layer {layer}"
        node = self._next(what, RING_ATTENTION, outputs=3)
        past = [past_name(layer, kind) for kind in ("key", "value")]
        self._compare(
            what,
            "inputs",
            list(node.inputs),
            [qkv, INPUT_IDS, PAST_LENGTHS, COS_CACHE, SIN_CACHE, *past, STEP_LENGTHS, CACHE_ROWS],
        )
        self._compare(
            what,
            "outputs",
            list(node.outputs[1:]),
            [present_name(layer, kind) for kind in ("key", "value")],
        )
        promised = {
            "num_heads": facts.num_heads,
            "num_kv_heads": facts.num_kv_heads,
            "window": facts.sliding_window or 0,
        }
        self._compare(what, "attributes", sorted(node.attributes), sorted(promised))
        for attribute, said in promised.items():
            check_same(self._name, f"{attribute} of {what}", node.attributes[attribute], (said,))
        return node.outputs[0]

    def _next(self, what: str, operator: str, outputs: int) -> Node:
        node = next(self._nodes, None)
        self._compare(what, "operator", node and node.operator, operator)
        assert node is not None
        self._compare(what, "number of outputs", len(node.outputs), outputs)
        return node

    def _compare(self, what: str, part: str, found: object, expected: object) -> None:
        if found != expected:
            self._refuse(f"the {part} of {what}", found, expected)

    def _refuse(self, what: str, found: object, expected: object) -> None:
        there, wanted = str(found)[:300], str(expected)[:300]
        contradiction = f"{what} is {there} in {self._name}, expected {wanted}"
        raise BundleIntegrityError(f"{contradiction}: {REMEDY}")
