"""What a manifest promises of its graphs: weights with their types and
shapes, inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from sc2onnx.bundle.adapter_facts import module_shapes
from sc2onnx.bundle.adapters import LANES, matrix_name
from sc2onnx.bundle.contract import (
    ATTENTION_MASK,
    GREEDY_IDS,
    GROWING,
    HIDDEN,
    INPUT_IDS,
    LOGITS,
    NEXT_HIDDEN,
    NUM_LOGITS,
    PAST_LENGTHS,
    RING,
    past_name,
    present_name,
)
from sc2onnx.bundle.kernels import (
    ADAPTER_OF_TOKEN,
    ADAPTER_SCALES,
    ADAPTER_TABLE,
    ADAPTER_WEIGHTS,
    CACHE_ROWS,
    STEP_LENGTHS,
    WITH_ADAPTERS,
    SegmentEntry,
)
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.runtime.opening.onnx_graph import (
    BFLOAT16,
    FLOAT,
    FLOAT16,
    INT4,
    INT8,
    INT64,
    UINT8,
    Port,
)

EMBEDDING: Final = "model.embed_tokens"
HEAD: Final = "lm_head"
COS_CACHE: Final = "rotary.cos_cache"
SIN_CACHE: Final = "rotary.sin_cache"

FLOATS: Final[Mapping[str, int]] = {"float32": FLOAT, "float16": FLOAT16, "bfloat16": BFLOAT16}
"""``cache.dtype`` -> the type of an element in the graph."""

Weight = tuple[int, tuple[int, ...]]
"""Type of the elements, and shape."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the graphs that a model is cut into, by the layers that it computes.

    ``kernels``: that for the kernels; ``adapters``: that which takes adapters.
    """

    manifest: Manifest
    layers: range
    kernels: bool = False
    adapters: bool = False

    @property
    def first(self) -> bool:
        """Whether it begins the model."""
        return self.layers.start == 0

    @property
    def last(self) -> bool:
        """Whether it ends the model."""
        return self.layers.stop == self.manifest.model.num_layers

    @property
    def element(self) -> int:
        """The type of activations, cache and weights that are no integers."""
        return FLOATS[self.manifest.cache.dtype]

    @property
    def scales(self) -> int:
        """The type of scales as stored."""
        quantization = self.manifest.quantization
        if quantization is None or quantization.scales is None:
            return self.element
        return FLOATS[quantization.scales]


def parts(manifest: Manifest) -> list[Part]:
    """The graphs in order."""
    ends = [0, *accumulate(manifest.stages or (manifest.model.num_layers,))]
    return [Part(manifest, range(*ends)) for ends in pairwise(ends)]


def scheme(manifest: Manifest, product: str) -> Scheme | None:
    """Return the scheme of a product's weights; None: they are floats."""
    return manifest.quantization.schemes.get(product) if manifest.quantization else None


def products(part: Part) -> dict[str, tuple[int, int]]:
    """Every matrix of a graph by the name of its weight without ``.weight``: outputs and inputs."""
    facts = part.manifest.model
    queries = facts.num_heads * facts.head_dim
    by_layer = {
        "self_attn.qkv_proj": (
            queries + 2 * facts.num_kv_heads * facts.head_dim,
            facts.hidden_size,
        ),
        "self_attn.o_proj": (facts.hidden_size, queries),
        "mlp.c_fc": (facts.intermediate_size, facts.hidden_size),
        "mlp.c_proj": (facts.hidden_size, facts.intermediate_size),
    }
    found = {
        f"model.layers.{layer}.{name}": shape
        for layer in part.layers
        for name, shape in by_layer.items()
    }
    tied_floats = facts.tied_embeddings and scheme(part.manifest, HEAD) is None
    if part.first or (part.last and tied_floats):
        found[EMBEDDING] = (facts.vocab_size, facts.hidden_size)
    if part.last and not tied_floats:
        found[HEAD] = (facts.vocab_size, facts.hidden_size)
    return found


def weights(part: Part, *, biases: bool) -> dict[str, Weight]:
    """Every weight of a graph by name. ``biases``: whether products have one, of
    which a manifest says nothing.
    """
    facts, element = part.manifest.model, part.element
    found = dict(_matrices(part))
    for layer in part.layers:
        for norm in ("input_layernorm", "post_attention_layernorm"):
            for kind in ("weight", "bias"):
                found[f"model.layers.{layer}.{norm}.{kind}"] = element, (facts.hidden_size,)
    if part.last:
        found |= {
            f"model.norm.{kind}": (element, (facts.hidden_size,)) for kind in ("weight", "bias")
        }
    if biases:
        of_layers = {
            name: shape for name, shape in products(part).items() if name not in (EMBEDDING, HEAD)
        }
        found |= {f"{name}.bias": (element, shape[:1]) for name, shape in of_layers.items()}
    table = element, (facts.context_length, facts.head_dim // 2)
    return found | {COS_CACHE: table, SIN_CACHE: table}


def _matrices(part: Part) -> Iterator[tuple[str, Weight]]:
    """Floats as they are, or codes and scales in the layout of the target (docs/bundle.md)."""
    for product, (rows, columns) in products(part).items():
        chosen = scheme(part.manifest, product)
        if chosen is None:
            yield f"{product}.weight", (part.element, (rows, columns))
            continue
        bits, block = chosen.bits, chosen.block_size
        blocks, width = columns // block, bits * block // 8
        if part.manifest.made_for.transposed:
            yield f"{product}.weight.codes", (INT4 if bits == 4 else INT8, (columns, rows))
            yield f"{product}.weight.scales", (part.scales, (blocks, rows))
        else:
            shape = (rows, blocks * width) if product == EMBEDDING else (rows, blocks, width)
            yield f"{product}.weight.codes", (UINT8, shape)
            yield f"{product}.weight.scales", (part.scales, (rows, blocks))


@dataclass(frozen=True, slots=True)
class Ports:
    """What a graph has by name, and what it may lack because earlier exporters did not write it."""

    ports: Mapping[str, Port]
    optional: frozenset[str]


def inputs(part: Part) -> Ports:
    """What goes into a graph. None in a shape: known at run time only."""
    manifest, element = part.manifest, part.element
    found = {INPUT_IDS: Port(INT64, (None, None))}
    found |= (
        {PAST_LENGTHS: Port(INT64, (None,))}
        if manifest.made_for.own
        else {ATTENTION_MASK: Port(INT64, (None, None))}
    )
    if not part.first:
        found[HIDDEN] = Port(element, (None, manifest.model.hidden_size))
    if part.last and manifest.made_for.own:
        found[NUM_LOGITS] = Port(INT64, (1,))
    if part.kernels:
        found |= kernel_options(manifest.kernels)
    if part.adapters:
        found |= _adapters(part)
    return Ports(found | _cache(part, "past"), frozenset({NUM_LOGITS}))


def kernel_options(version: int) -> dict[str, Port]:
    """The inputs of graphs for that version of the kernels that need not be fed."""
    found = dict.fromkeys((STEP_LENGTHS, CACHE_ROWS), Port(INT64, (None,)))
    if version < WITH_ADAPTERS:
        return found
    return found | {
        ADAPTER_OF_TOKEN: Port(INT64, (None,)),
        ADAPTER_SCALES: Port(FLOAT, (None,)),
        ADAPTER_TABLE: Port(INT64, (None, None, None, len(SegmentEntry._fields))),
        ADAPTER_WEIGHTS: Port(UINT8, (None,)),
    }


def _adapters(part: Part) -> dict[str, Port]:
    """Matrices of every module, and the lanes."""
    found, shapes = {LANES: Port(part.element, (None, None))}, module_shapes(part.manifest.model)
    for layer in part.layers:
        for module, (inputs, outputs) in shapes.items():
            found[matrix_name(layer, module, "A")] = Port(part.element, (inputs, None))
            found[matrix_name(layer, module, "B")] = Port(part.element, (None, outputs))
    return found


def outputs(part: Part) -> Ports:
    """What comes out of a graph."""
    manifest = part.manifest
    found = {NEXT_HIDDEN: Port(part.element, (None, manifest.model.hidden_size))}
    if part.last:
        found = {LOGITS: Port(FLOAT, (None, None, manifest.model.vocab_size))}
        if manifest.made_for.chooses:
            found[GREEDY_IDS] = Port(INT64, (None, None))
    return Ports(found | _cache(part, "present"), frozenset({GREEDY_IDS}))


def _cache(part: Part, which: str) -> dict[str, Port]:
    facts, kind, element = part.manifest.model, part.manifest.cache.kind, part.element
    heads = None if kind == GROWING and which == "past" else facts.num_kv_heads
    rows, columns = (None, heads, None, facts.head_dim), (None, heads, facts.head_dim, None)
    shapes: dict[str, tuple[int | None, ...]] = {
        "key": rows,
        "value": columns if kind == RING else rows,
    }
    if part.kernels:  # slots of as many bytes as whoever runs it chooses
        element, shapes = UINT8, dict.fromkeys(shapes, (None, heads, None, None))
    name = past_name if which == "past" else present_name
    return {
        name(layer, kind): Port(element, shape)
        for layer in part.layers
        for kind, shape in shapes.items()
    }
