"""Checkpoint -> bundle: composes the other rooms and adds nothing of its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sc2onnx import __version__
from sc2onnx.bundle import contract, kernels, model_card
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.provenance import Provenance
from sc2onnx.bundle.steps import NONE, agreeing_steps
from sc2onnx.export import hub, weights, writer
from sc2onnx.export.adapter import adapters_below
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.genai import genai_config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.attention import ring_attention, scatter_elements, together
from sc2onnx.export.graph.grouped_query import grouped_query_attention, masked_grouped_query_attention
from sc2onnx.export.graph.growing import growing_attention
from sc2onnx.export.graph.kernels import computes, kernels_form
from sc2onnx.export.graph.layers import Products
from sc2onnx.export.graph.model import Form, attention_mask, build
from sc2onnx.export.graph.ops import CUDA_OPSET, PORTABLE_OPSET
from sc2onnx.export.graph.tokenwise import tokenwise
from sc2onnx.export.plan import Calibration, WeightPlan, planned, size_limit
from sc2onnx.export.precision import Variant
from sc2onnx.export.progress import Progress, Silent
from sc2onnx.export.quantize.store import Need
from sc2onnx.export.settings import check_allowed
from sc2onnx.export.stages import check_stages, ranges, stages_of
from sc2onnx.export.text_files import TextFiles, text_files
from sc2onnx.export.tying import UNTIED, settle


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    precision: str = "fp32",
    target: str = "cpu",
    revision: str | None = None,
    allow_settings: Collection[str] = (),
    calibration: Calibration | None = None,
    stages: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Write the bundle ``out`` from a checkpoint directory or hub id, and return its manifest.

    ``precision``: one of :data:`~sc2onnx.export.precision.PRECISIONS` or a recipe in a ``.json`` file; ``target``: one of
    :data:`~sc2onnx.export.precision.TARGETS`. ``calibration``: on what text, if not as the recipe says. Without calibration, peak
    memory is a few hundred megabytes, whatever the model's size; what it takes otherwise: ``sc2onnx info CHECKPOINT --plan``.
    ``stages``: cut the layers into so many graphs, balanced by bytes, for several devices (``device_map`` of :func:`sc2onnx.load`).
    ``allow_settings``: settings of ``config.json`` that are unknown here, and of which the caller vouches that they change nothing.
    Raises :class:`~sc2onnx.errors.CheckpointError`, :class:`~sc2onnx.errors.OutputError` and their subclasses, and
    :class:`~sc2onnx.errors.RequestError` for an unknown precision or one that the target cannot run; ``out`` is then as it was before.
    Warns (:class:`UserWarning`) of a tokenizer that is absent or does not fit the model, files that disagree on the end of a text or
    are left behind, and weights to be quantised that are zeros in whole blocks.
    """
    out = Path(os.path.abspath(out))
    variant, calibration = Variant(precision, target), calibration or Calibration()
    calibration.applies(variant.recipe())  # refuses what does not go together, before any work
    writer.clean_up(out)
    writer.check_output(out, overwrite)
    with closing(progress or Silent()) as report:
        report.stage(f"reading {checkpoint}")
        source = hub.resolve(checkpoint, revision)
        opened = Checkpoint.open(source.directory)
        config = Starcoder2Config.from_dict(opened.config, allow_settings)
        allowed = check_allowed(opened.config, allow_settings)
        check_stages(stages, config, variant.made_for)
        tied = config.tie_word_embeddings
        opened, config = settle(opened, config)
        weights.check_complete(opened, config)
        if tied and not config.tie_word_embeddings:
            warnings.warn(UNTIED, stacklevel=2)
        text = text_files(source.directory, source.name, config, opened.generation_config, variant.made_for)
        for doubt in (*adapters_below(source.directory), *text.doubts):
            warnings.warn(doubt, stacklevel=2)
        license_name = opened.license()
        floats = weights.graph_weights(opened, config, variant.read_as)
        limit = size_limit(config, floats, variant)
        writer.check_space(out, limit)  # calibration may take an hour
        with planned(opened, config, floats, variant, calibration, report, Need(out.parent, writer.space_needed(limit))) as plan:
            placed, size = writer.place(plan.weights.values())
            writer.check_space(out, size)
            with writer.new_bundle(out, overwrite) as bundle:
                written = _write(
                    bundle,
                    plan,
                    placed,
                    _Subject(source, opened, config, variant, stages_of(plan.weights, config, stages), allowed, text, license_name),
                    report,
                )
                if doubts := plan.doubts():
                    report.stage("looking at what was written")  # a bar ends before the line
                    warnings.warn(doubts, stacklevel=2)  # where warnings are errors, nothing is in place yet
        report.stage(f"wrote {out}")
        return written


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is exported, and as what."""

    source: hub.Source
    opened: Checkpoint
    config: Starcoder2Config
    variant: Variant
    stages: tuple[int, ...]
    allowed_settings: tuple[str, ...]
    text: TextFiles
    license: str | None


def _agreeing_steps(config: Starcoder2Config, variant: Variant, plan: WeightPlan) -> str:
    """Which steps the graph can be written for to agree with each other."""
    if plan.quantization is None or variant.cache.kind != contract.RING:
        return NONE
    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    return agreeing_steps(plan.quantization.schemes.values(), *heads)


def _kernels(config: Starcoder2Config, variant: Variant, plan: WeightPlan) -> int:
    """The version of the operators that the model can also be computed with, 0 if it cannot."""
    if plan.quantization is None or not computes(config):
        return 0
    ring, schemes = variant.cache.kind == contract.RING, plan.quantization.schemes.values()
    return kernels.version_for(variant.made_for, ring=ring, schemes=schemes, head_dim=config.head_dim)


def _form(variant: Variant, products: Products, *, agrees: bool) -> Form:
    """What the target has kernels for, and where it keeps the cache: attention as one operator, or of standard ones over a ring or what grows.

    ``agrees``: over a ring, sums do not depend on how many tokens a step has.
    """
    activations, target = Activations(variant.dtype), variant.made_for
    own = partial(Form, products=products, activations=activations, chooses=target.chooses)
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


def _write(bundle: writer.BundleWriter, plan: WeightPlan, placed: Mapping[str, ir.ExternalTensor], subject: _Subject, report: Progress) -> Manifest:
    """Every file of the bundle, the manifest last."""
    opened, config, variant = subject.opened, subject.config, subject.variant
    weight_bytes = weights.total_bytes(plan.weights.values())
    report.stage("writing the weights", weight_bytes)
    bundle.weights(plan.weights, placed, report.advance)
    agreeing = _agreeing_steps(config, variant, plan)
    form = _form(variant, plan.products, agrees=agreeing != NONE)
    version = _kernels(config, variant, plan)
    forms = {contract.graph_files: form}
    if version:
        forms[contract.kernel_graph_files] = kernels_form(plan.schemes, form.activations)
    parts = list(ranges(subject.stages or [config.num_hidden_layers]))
    for names, built in forms.items():
        for name, layers in zip(names(subject.stages), parts, strict=True):
            bundle.graph(name, build(config, placed, built, layers))
    opened.check_unchanged()
    for name, data in subject.text.files.items():
        bundle.file(name, data)
    facts = config.facts(weights.total_parameters(weights.checkpoint_shapes(config)), subject.text.eos_token_ids)
    if config_file := variant.made_for.config_file:
        bundle.file(config_file, genai_config(facts, opened.config, on_a_gpu=variant.dtype != np.float32).encode())
    written = Manifest(
        model=facts,
        precision=variant.name,
        target=variant.target,
        opset=form.opset,
        cache=variant.cache,
        weight_bytes=weight_bytes,
        files=bundle.files,
        provenance=Provenance(
            source=subject.source.name,
            revision=subject.source.revision,
            license=subject.license,
            exporter=f"sc2onnx {__version__}",
            allowed_settings=subject.allowed_settings,
        ),
        quantization=plan.quantization,
        stages=subject.stages,
        agreeing_steps=agreeing,
        kernels=version,
    )
    bundle.file(contract.CARD_FILE, model_card.render(written).encode())
    bundle.file(contract.MANIFEST_FILE, written.to_json().encode())
    return written
