"""Which graphs a bundle gets: how each is built, and what the manifest says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from sc2onnx.bundle import contract, kernels
from sc2onnx.bundle.adapter_facts import shapes_of
from sc2onnx.bundle.steps import NONE, agreeing_steps
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.attention import ring_attention, scatter_elements, together
from sc2onnx.export.graph.grouped_query import (
    grouped_query_attention,
    masked_grouped_query_attention,
)
from sc2onnx.export.graph.growing import growing_attention
from sc2onnx.export.graph.kernels import computes, kernels_form
from sc2onnx.export.graph.low_rank import low_rank
from sc2onnx.export.graph.model import Form, attention_mask
from sc2onnx.export.graph.ops import CUDA_OPSET, PORTABLE_OPSET
from sc2onnx.export.graph.tokenwise import tokenwise
from sc2onnx.export.plan import Plan
from sc2onnx.export.stages import ranges


@dataclass(frozen=True, slots=True)
class Graphs:
    """The graphs of a plan.

    ``form``: with what the one for every runtime is built. ``kernel_form``: the same of the one for
    our own operators, whose version is ``kernels``; None and 0 if they cannot compute the model.
    ``adapter_form``: of the one that takes adapters; None where the target has none.
    ``agreeing_steps``: which steps agree with each other (:mod:`sc2onnx.bundle.steps`).
    """

    form: Form
    kernel_form: Form | None
    kernels: int
    agreeing_steps: str
    adapter_form: Form | None = None

    @classmethod
    def of(cls, plan: Plan) -> Graphs:
        """As target, shape and schemes allow."""
        agreeing, version = _agreeing_steps(plan), kernel_version(plan)
        form = _form(plan, agrees=agreeing != NONE)
        own = kernels_form(plan.schemes, form.activations) if version else None
        return cls(form, own, version, agreeing, _adapted(plan, form))

    def files(self, stages: tuple[int, ...], layers: int) -> Iterator[tuple[str, Form, range]]:
        """Name, form and layers of each graph. ``stages``: layers of each, none for one graph."""
        parts = list(ranges(stages or [layers]))
        for name, part in zip(contract.graph_files(stages), parts, strict=True):
            yield name, self.form, part
        if self.kernel_form is not None:
            for name, part in zip(contract.kernel_graph_files(stages), parts, strict=True):
                yield name, self.kernel_form, part
        if self.adapter_form is not None:
            for name, part in zip(contract.adapter_graph_files(stages), parts, strict=True):
                yield name, self.adapter_form, part


def kernel_version(plan: Plan) -> int:
    """The version of our own operators that the model can be computed with, 0 if it cannot."""
    if not computes(plan.config):
        return 0
    ring, schemes = _is_ring(plan), plan.schemes.values()
    target, head_dim = plan.variant.made_for, plan.config.head_dim
    return kernels.version_for(target, ring=ring, schemes=schemes, head_dim=head_dim)


def _adapted(plan: Plan, form: Form) -> Form | None:
    """The same form with products that take adapters."""
    if not plan.variant.made_for.adapters:
        return None
    config = plan.config
    shapes = shapes_of(
        config.hidden_size, config.intermediate_size, config.query_size, config.kv_size
    )
    return replace(form, products=low_rank(form.products, shapes, form.activations))


def _is_ring(plan: Plan) -> bool:
    return plan.variant.cache.kind == contract.RING


def _agreeing_steps(plan: Plan) -> str:
    """Which steps the graph can be written for to agree with each other."""
    if not plan.schemes or not _is_ring(plan):
        return NONE
    config = plan.config
    heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    return agreeing_steps(plan.schemes.values(), *heads)


def _form(plan: Plan, *, agrees: bool) -> Form:
    """What the target has kernels for, and where it keeps the cache.

    Attention is one operator, or of standard ones over a ring or what grows. ``agrees``: over a
    ring, sums do not depend on how many tokens a step has.
    """
    activations, target = Activations(plan.variant.dtype), plan.variant.made_for
    own = partial(
        Form,
        products=plan.products,
        activations=activations,
        chooses=target.chooses,
    )
    foreign = partial(own, where=attention_mask, asks=False)
    match target.attention:
        case "masked-grouped-query":
            attention = partial(masked_grouped_query_attention, activations=activations)
            return foreign(attention, opset=CUDA_OPSET)
        case "growing":
            attention = partial(growing_attention, activations=activations)
            return foreign(attention, opset=PORTABLE_OPSET)
        case "grouped-query":
            attention = partial(grouped_query_attention, activations=activations)
            return own(attention, opset=CUDA_OPSET)
    mixing = tokenwise if agrees else together
    ring = partial(ring_attention, activations=activations, mixing=mixing)
    if target.attention == "scattered-ring":
        return own(partial(ring, writing=scatter_elements), opset=PORTABLE_OPSET)
    return own(ring)
