"""Checkpoint -> bundle: composes the other rooms and adds nothing of its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sc2onnx import __version__
from sc2onnx.bundle import contract, model_card
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.provenance import Provenance
from sc2onnx.export import hub, weights, writer
from sc2onnx.export.adapter import adapters_below
from sc2onnx.export.calibrated import weights_of
from sc2onnx.export.calibration import Calibration
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.estimate import estimate
from sc2onnx.export.genai import genai_config
from sc2onnx.export.graph.model import build
from sc2onnx.export.graphs import Graphs
from sc2onnx.export.plan import Plan, WeightPlan
from sc2onnx.export.precision import Variant
from sc2onnx.export.progress import Progress, Silent
from sc2onnx.export.quantize.store import Need
from sc2onnx.export.settings import check_allowed
from sc2onnx.export.stages import check_stages, stages_of
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
        plan = Plan.of(config, floats, variant)
        ahead = estimate(plan, calibration)
        writer.check_space(out, ahead.data_file)  # calibration may take an hour
        bundle_need = Need(out.parent, ahead.disk)
        with weights_of(plan, calibration, opened, ahead, bundle_need, report) as made:
            placed, size = writer.place(made.weights.values())
            writer.check_space(out, size)
            with writer.new_bundle(out, overwrite) as bundle:
                cut = stages_of(made.weights, config, stages)
                subject = _Subject(source, opened, cut, allowed, text, license_name)
                written = _write(bundle, made, placed, subject, report)
                if doubts := made.doubts():
                    report.stage("looking at what was written")  # a bar ends before the line
                    warnings.warn(doubts, stacklevel=2)  # where warnings are errors, nothing is in place yet
        report.stage(f"wrote {out}")
        return written


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is exported, beside the weights."""

    source: hub.Source
    opened: Checkpoint
    stages: tuple[int, ...]
    allowed_settings: tuple[str, ...]
    text: TextFiles
    license: str | None


def _write(
    bundle: writer.BundleWriter,
    made: WeightPlan,
    placed: Mapping[str, ir.ExternalTensor],
    subject: _Subject,
    report: Progress,
) -> Manifest:
    """Every file of the bundle, the manifest last."""
    opened, config, variant = subject.opened, made.plan.config, made.plan.variant
    weight_bytes = weights.total_bytes(made.weights.values())
    report.stage("writing the weights", weight_bytes)
    bundle.weights(made.weights, placed, report.advance)
    graphs = Graphs.of(made.plan)
    for name, form, layers in graphs.files(subject.stages, config.num_hidden_layers):
        bundle.graph(name, build(config, placed, form, layers))
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
        opset=graphs.form.opset,
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
        quantization=made.quantization,
        stages=subject.stages,
        agreeing_steps=graphs.agreeing_steps,
        kernels=graphs.kernels,
    )
    bundle.file(contract.CARD_FILE, model_card.render(written).encode())
    bundle.file(contract.MANIFEST_FILE, written.to_json().encode())
    return written
