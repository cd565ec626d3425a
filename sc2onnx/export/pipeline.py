"""Checkpoint -> bundle: composes the other rooms and adds nothing of its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sc2onnx import __version__
from sc2onnx.bundle import contract, model_card
from sc2onnx.bundle.entries import FileEntry
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.provenance import Provenance
from sc2onnx.export import weights, writer
from sc2onnx.export.adapters.wanted import Wanted, weights_by_path
from sc2onnx.export.calibrated import weights_of
from sc2onnx.export.calibration import Calibration
from sc2onnx.export.estimate import estimate
from sc2onnx.export.genai import genai_config
from sc2onnx.export.graph.model import Form, build
from sc2onnx.export.graphs import Graphs
from sc2onnx.export.order import Order
from sc2onnx.export.plan import Plan, WeightPlan
from sc2onnx.export.precision import Variant
from sc2onnx.export.progress import Progress, Silent
from sc2onnx.export.quantize.store import Need
from sc2onnx.export.stages import stages_of
from sc2onnx.export.subject import Subject


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    precision: str = "fp32",
    target: str = "cpu",
    revision: str | None = None,
    allow_settings: Collection[str] = (),
    calibration: Calibration | None = None,
    adapters: Wanted = (),
    stages: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Write the bundle ``out`` from a checkpoint directory or hub id, and return its manifest.

    ``precision``: one of :data:`~sc2onnx.export.precision.PRECISIONS` or a recipe in a ``.json``
    file; ``target``: one of :data:`~sc2onnx.export.precision.TARGETS`. ``calibration``: on what
    text, if not as the recipe says. Without calibration, peak memory is a few hundred megabytes,
    whatever the model's size; what it takes otherwise: ``sc2onnx plan CHECKPOINT``.
    ``stages``: cut the layers into so many graphs, balanced by bytes, for several devices
    (``device_map`` of :func:`sc2onnx.load`). ``allow_settings``: settings of ``config.json`` that
    are unknown here, and of which the caller vouches that they change nothing. ``adapters``: LoRA
    adapters to merge, in order, directories as peft saves them or hub ids; as a mapping, each with
    the weight of its change, which is 1 otherwise. Raises
    :class:`~sc2onnx.errors.CheckpointError`, :class:`~sc2onnx.errors.OutputError` and their
    subclasses, and :class:`~sc2onnx.errors.RequestError` for an unknown precision or one that the
    target cannot run; ``out`` is then as it was before. Warns (:class:`UserWarning`) of a tokenizer
    that is absent or does not fit the model, files that disagree on the end of a text or are left
    behind, and weights to be quantised that are zeros in whole blocks.
    """
    wanted = Variant(precision, target), revision, allow_settings, calibration or Calibration()
    weighted = weights_by_path(adapters)
    order = Order(checkpoint, Path(os.path.abspath(out)), *wanted, stages, overwrite, weighted)
    writer.clean_up(order.out)
    writer.check_output(order.out, overwrite)
    with closing(progress or Silent()) as report:
        report.stage(f"reading {checkpoint}")
        subject = Subject.read(order)
        for doubt in subject.doubts:
            warnings.warn(doubt, stacklevel=2)
        written = _export(order, subject, report)
        report.stage(f"wrote {order.out}")
        return written


def _export(order: Order, subject: Subject, report: Progress) -> Manifest:
    """The bundle of an order, or none; called by :func:`export`, whose caller gets the warning."""
    variant, calibration, out = order.variant, order.calibration, order.out
    floats = weights.graph_weights(subject.opened, subject.config, variant.read_as)
    plan = Plan.of(subject.config, floats, variant)
    ahead = estimate(plan, calibration)
    writer.check_space(out, ahead.data_file)  # calibration may take an hour
    room = Need(out.parent, ahead.disk)
    with weights_of(plan, calibration, subject.opened, ahead, room, report) as made:
        placed, size = writer.place(made.weights.values())
        writer.check_space(out, size)
        with writer.new_bundle(out, order.overwrite) as bundle:
            stages = stages_of(made.weights, plan.config, order.stages)
            graphs = Graphs.of(made.plan)
            parts = graphs.files(stages, plan.config.num_hidden_layers)
            _write_model(bundle, made, parts, placed, report)
            subject.opened.check_unchanged()
            written = _write_beside(bundle, subject, made, graphs, stages)
            if doubts := made.doubts():
                report.stage("looking at what was written")  # a bar ends before the line
                warnings.warn(doubts, stacklevel=3)  # may be an error: nothing is in place yet
    return written


def _write_model(
    bundle: writer.BundleWriter,
    made: WeightPlan,
    graphs: Iterable[tuple[str, Form, range]],
    placed: Mapping[str, ir.ExternalTensor],
    report: Progress,
) -> None:
    """The weights, and the graphs that refer to them."""
    report.stage("writing the weights", weights.total_bytes(made.weights.values()))
    bundle.weights(made.weights, placed, report.advance)
    for name, form, layers in graphs:
        bundle.graph(name, build(made.plan.config, placed, form, layers))


def _write_beside(
    bundle: writer.BundleWriter,
    subject: Subject,
    made: WeightPlan,
    graphs: Graphs,
    stages: tuple[int, ...],
) -> Manifest:
    """Every file that is neither weights nor graph, the manifest last."""
    variant = made.plan.variant
    for name, data in subject.text.files.items():
        bundle.file(name, data)
    if config_file := variant.made_for.config_file:
        halves = variant.dtype != np.float32
        config = genai_config(subject.facts, subject.opened.config, on_a_gpu=halves)
        bundle.file(config_file, config.encode())
    written = _manifest(bundle.files, subject, made, graphs, stages)
    bundle.file(contract.CARD_FILE, model_card.render(written).encode())
    bundle.file(contract.MANIFEST_FILE, written.to_json().encode())
    return written


def _manifest(
    files: Mapping[str, FileEntry],
    subject: Subject,
    made: WeightPlan,
    graphs: Graphs,
    stages: tuple[int, ...],
) -> Manifest:
    variant, source = made.plan.variant, subject.source
    provenance = Provenance(
        source=source.name,
        revision=source.revision,
        license=subject.license,
        exporter=f"sc2onnx {__version__}",
        allowed_settings=subject.allowed_settings,
        adapters=subject.opened.merged,
    )
    return Manifest(
        model=subject.facts,
        precision=variant.name,
        target=variant.target,
        opset=graphs.form.opset,
        cache=variant.cache,
        weight_bytes=weights.total_bytes(made.weights.values()),
        files=files,
        provenance=provenance,
        quantization=made.quantization,
        stages=stages,
        agreeing_steps=graphs.agreeing_steps,
        kernels=graphs.kernels,
    )
