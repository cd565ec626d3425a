"""Checkpoint -> bundle: composes the other rooms and adds nothing of its own."""

from __future__ import annotations

import os
import warnings
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from sc2onnx import __version__, card, manifest
from sc2onnx.errors import RequestError
from sc2onnx.export import hub, weights, writer
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config, token_ids
from sc2onnx.export.graph.attention import ring_attention
from sc2onnx.export.graph.layers import linear
from sc2onnx.export.graph.model import build
from sc2onnx.export.graph.ops import OPSET
from sc2onnx.export.progress import Progress, Silent

PRECISIONS: Final = ("fp32",)


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    precision: str = "fp32",
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> manifest.Manifest:
    """Write the bundle ``out`` from a checkpoint directory or hub id, and return its manifest.

    Peak memory is a few tens of megabytes beside the interpreter, whatever the model's size. Raises
    :class:`~sc2onnx.errors.CheckpointError`, :class:`~sc2onnx.errors.OutputError` and their subclasses, and
    :class:`~sc2onnx.errors.RequestError` for an unknown precision; ``out`` is then as it was before.
    Warns (:class:`UserWarning`) if the checkpoint has no ``tokenizer.json``.
    """
    out = Path(os.path.abspath(out))
    if precision not in PRECISIONS:
        raise RequestError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    writer.clean_up(out)
    writer.check_output(out, overwrite)
    with closing(progress or Silent()) as report:
        return _export(checkpoint, out, revision, overwrite, report)


def _export(checkpoint: str | Path, out: Path, revision: str | None, overwrite: bool, report: Progress) -> manifest.Manifest:
    """The export proper, in fp32."""
    report.stage(f"reading {checkpoint}")
    source = hub.resolve(checkpoint, revision)
    opened = Checkpoint.open(source.directory)
    config = Starcoder2Config.from_dict(opened.config)
    weights.check_complete(opened, config)
    if not (source.directory / manifest.TOKENIZER_FILE).is_file():
        warnings.warn(f"{source.name} has no {manifest.TOKENIZER_FILE}: the bundle will take and give token ids, not text", stacklevel=3)

    lazy = weights.graph_weights(opened, config, np.dtype(np.float32))
    weight_bytes = sum(weight.nbytes for weight in lazy.values())
    placed, size = writer.place(lazy.values())
    writer.check_space(out, size)
    report.stage(f"building the graph of {config.num_hidden_layers} layers")
    model = build(config, placed, ring_attention, linear)
    eos = token_ids(opened.generation_config.get("eos_token_id")) or config.eos_token_ids
    with writer.new_bundle(out, overwrite) as bundle:
        report.stage("writing the weights", weight_bytes)
        bundle.weights(lazy, placed, report.advance)
        bundle.graph(model)
        for path in opened.copied_files():
            bundle.file(path.name, path.read_bytes())
        written = manifest.Manifest(
            model=config.facts(weights.total_parameters(weights.checkpoint_shapes(config)), eos),
            precision="fp32",
            target="cpu",
            opset=OPSET,
            cache=manifest.CacheLayout("ring", "float32"),
            weight_bytes=weight_bytes,
            files=bundle.files,
            provenance=manifest.Provenance(source.name, source.revision, opened.license(), f"sc2onnx {__version__}"),
        )
        bundle.file(manifest.CARD_FILE, card.render(written).encode())
        bundle.file(manifest.MANIFEST_FILE, written.to_json().encode())
    report.stage(f"wrote {out}")
    return written
