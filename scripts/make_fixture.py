"""Makes what the runtime's tests need where torch and the exporter are not installed: a
bundle, and torch's answers.

    python scripts/make_fixture.py OUT [--gpu]

OUT gets ``bundle`` (the mini checkpoint in fp32), ``int8`` and ``int4`` (it in integers, int4 not
calibrated, which takes a minute less), ``int8-before`` (int8 as of format 7, whose scales are
float32), ``tokens`` (fp32 without a tokenizer) and ``reference.npz``:
token ids of real code, torch's logits for them, and torch's greedy continuation. With ``--gpu``
also ``gpu``: bundles for tests/cuda, by precision.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

import sc2onnx
from sc2onnx.bundle.contract import MANIFEST_FILE
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.targets import TARGETS
from sc2onnx.export import Calibration, export
from sc2onnx.verify.reference import Reference

CHECKPOINT = Path(__file__).parent.parent / "examples" / "starcoder2-mini"
LENGTH = 600
GREEDY = 96


def make(out: Path) -> None:
    """Write the fixture into a new directory."""
    out.mkdir(parents=True)
    export(CHECKPOINT, out / "bundle")
    export(CHECKPOINT, out / "int8", precision="int8")
    export(CHECKPOINT, out / "int4", precision="int4", calibration=Calibration(False))
    before(out / "int8-before")
    bare = out / "checkpoint-without-tokenizer"
    shutil.copytree(CHECKPOINT, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        export(bare, out / "tokens")
    shutil.rmtree(bare)
    code = Path(argparse.__file__).read_text(encoding="utf-8")
    tokens = np.array(sc2onnx.load(out / "bundle").codec.encode(code)[:LENGTH], dtype=np.int64)
    with Reference(CHECKPOINT) as reference:
        logits = reference.logits(tokens[None])[0]
        greedy, _ = reference.greedy(tokens[:40], GREEDY)
    np.savez_compressed(
        out / "reference.npz", tokens=tokens, logits=logits, greedy=np.array(greedy)
    )


def before(out: Path) -> None:
    """A bundle of integers as exporters wrote it before scales were bfloat16."""
    with patch.dict(TARGETS, cpu=replace(TARGETS["cpu"], scales="float32")):
        export(CHECKPOINT, out, precision="int8")
    path = out / MANIFEST_FILE
    manifest = replace(Manifest.read(out), format_version=7)
    path.write_text(manifest.to_json(), encoding="utf-8")


def for_gpu(out: Path) -> Path:
    """Bundles of the mini checkpoint for a GPU: fp16, bf16, int8, int4, and fp16 in two stages."""
    out.mkdir(parents=True)
    for precision in ("fp16", "bf16", "int8", "int4"):
        export(
            CHECKPOINT,
            out / precision,
            precision=precision,
            target="cuda",
            calibration=Calibration(False) if "int" in precision else None,
        )
    export(CHECKPOINT, out / "staged", precision="fp16", target="cuda", stages=2)
    return out


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    if "--gpu" in sys.argv[2:]:
        for_gpu(Path(sys.argv[1]) / "gpu")
