"""What each way to store the weights costs in quality: our bundles and the peers, against torch
in float32, in one table.

    python benchmarks/quality.py CHECKPOINT FILES... [--precisions fp32 int8 int4]
        [--bundles DIR...] [--save FILE]

Every model sees the same windows of the same files, and every position counts: mean KL divergence
from torch fp32 in nats, the part of positions where the likeliest token is the same, mean negative
log likelihood in nats, and bytes and bits of the weights as stored. A model that cannot be had
becomes a row that says why. The llama.cpp rows stand only if its float32 agrees with torch.

The peers are compiled or large, so give them an environment of their own (cmake and a C++ compiler
are needed, 10 to 20 minutes):

    python -m venv .venv-peers
    .venv-peers/bin/pip install torch
    export CMAKE_ARGS="-DGGML_NATIVE=ON"
    .venv-peers/bin/pip install -e ".[cpu,export,verify]" -r benchmarks/requirements.txt
    .venv-peers/bin/python benchmarks/quality.py examples/starcoder2-mini FILES...

Large files (the model in float32, and reference logits) go to the temporary
directory; TMPDIR moves it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import cpu, system, versions
from peers import (
    Floats,
    Setting,
    Tokens,
    Variant,
    bundles,
    llama_cpp,
    openvino_int4,
    torch_variants,
)
from peers.intervals import SEED, Measured, bare, with_intervals
from peers.table import Row, records, render
from peers.windows import windows
from sc2onnx.bench.report import Missing, one_line
from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.errors import RequestError, Sc2onnxError
from sc2onnx.evaluate.interval import DRAWS, Groups
from sc2onnx.evaluate.measure import Difference, compare, pool
from sc2onnx.evaluate.text import shares
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.weights import checkpoint_shapes, total_parameters
from sc2onnx.runtime.text.codec import open_codec
from sc2onnx.verify.reference import Reference

F32_TOLERANCE = 1e-5
"""KL divergence that llama.cpp in float32 may have from torch (its GELU
is a table of fp16 values).
"""

ENGINES = {
    "llama.cpp": llama_cpp.variants,
    "openvino": openvino_int4.variants,
    "torch": torch_variants.variants,
}


def main() -> None:
    """Parse, measure, print."""
    options = _parse()
    try:
        config = Starcoder2Config.from_dict(Checkpoint.open(options.checkpoint).config)
        cut, owners = _windows(options, config)
    except (Sc2onnxError, OSError) as error:
        sys.exit(f"quality.py: {error}")
    torch.set_num_threads(options.threads)
    parameters = total_parameters(checkpoint_shapes(config))
    # the peers' own messages
    with tempfile.TemporaryDirectory(prefix="quality-") as scratch, redirect_stdout(sys.stderr):
        setting = Setting(options.checkpoint, Path(scratch), options.length, options.threads)
        expected, description = _reference(setting, cut, config.vocab_size)
        groups = Groups.by_file(owners, "windows")
        rows = with_intervals(_measure(setting, options, expected, cut, parameters), groups)
    print(f"{render(rows)}\n\n{_caption(options, cut, owners, groups)}")
    if options.save:
        facts = _facts(options, cut, owners, parameters)
        facts |= {"reference": description, "resampled": groups.unit, "rows": records(rows)}
        options.save.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint directory")
    parser.add_argument(
        "files", type=Path, nargs="+", help="code that the model was not trained on"
    )
    parser.add_argument(
        "--bundles",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="bundles of this checkpoint",
    )
    parser.add_argument(
        "--precisions",
        nargs="*",
        default=["fp32", "int8", "int4", "int4-fast"],
        help="bundles to export for the occasion",
    )
    parser.add_argument(
        "--peers", nargs="*", choices=ENGINES, default=list(ENGINES), help="default: all"
    )
    parser.add_argument(
        "--length",
        type=int,
        default=256,
        help="tokens of a window, at most the sliding window (default: 256)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=24000,
        help="over all files in the order given (default: 24000)",
    )
    spread = "share positions out among the files, instead of taking whole files in turn"
    parser.add_argument("--spread", action="store_true", help=spread)
    parser.add_argument("--threads", type=int, default=2)
    saved = "write every figure, versions and machine"
    parser.add_argument("--save", type=Path, metavar="FILE", help=saved)
    return parser.parse_args()


def _windows(
    options: argparse.Namespace, config: Starcoder2Config
) -> tuple[list[Tokens], list[int]]:
    """The windows to score, and the number of each one's file. Raises :class:`RequestError` beyond
    the sliding window, which llama.cpp does not have.
    """
    longest = min(
        config.sliding_window or config.max_position_embeddings, config.max_position_embeddings
    )
    if not 2 <= options.length <= longest:
        raise RequestError(
            f"--length is {options.length}, expected 2 to {longest}: llama.cpp has no sliding "
            "window, so no window may exceed it"
        )
    codec = open_codec(options.checkpoint / TOKENIZER_FILE)
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in options.files)
    files = [codec.encode(text, special=False) for text in texts]
    granted = shares(list(map(len, files)), options.max_tokens)
    cut, owners = list[Tokens](), list[int]()
    for number, (ids, share) in enumerate(zip(files, granted, strict=True)):
        left = share if options.spread else options.max_tokens - sum(map(len, cut))
        found = windows([ids], options.length, left)
        cut, owners = cut + found, owners + [number] * len(found)
    if not cut:
        raise RequestError("the files hold no window of 32 tokens: give more code")
    return cut, owners


def _reference(setting: Setting, cut: Sequence[Tokens], vocab: int) -> tuple[list[Floats], str]:
    """Torch's logits of every window, on disk, because at the full vocabulary they are
    gigabytes; and what computed them.
    """
    positions = sum(map(len, cut))
    stored = np.memmap(
        setting.scratch / "reference", dtype=np.float32, mode="w+", shape=(positions, vocab)
    )
    starts = np.cumsum([0, *map(len, cut)])
    parts: list[Floats] = [
        stored[start : start + len(tokens)] for start, tokens in zip(starts, cut, strict=False)
    ]
    with Reference(setting.checkpoint) as reference:
        for part, tokens in zip(parts, cut, strict=True):
            part[:] = reference.logits(tokens[None])[0]
        return parts, reference.description


def _measure(
    setting: Setting,
    options: argparse.Namespace,
    expected: Sequence[Floats],
    cut: Sequence[Tokens],
    parameters: int,
) -> list[Measured | Missing]:
    """All rows, each also told to standard error as soon as it is there."""
    same = [_difference(part, part, tokens) for part, tokens in zip(expected, cut, strict=True)]
    rows: list[Measured | Missing] = [
        Measured(_row("torch fp32 (the reference)", pool(same), 4 * parameters, parameters), same)
    ]
    for variant in _variants(setting, options):
        if variant.name in llama_cpp.QUANTISED and not _f32_agrees(rows):
            rows.append(
                Missing(variant.name, f"{llama_cpp.F32} is absent or does not agree with torch")
            )
        else:
            rows.append(_measured(variant, expected, cut, parameters))
        print(render(bare(rows[-1:])).splitlines()[-1], file=sys.stderr, flush=True)
    return rows


def _variants(setting: Setting, options: argparse.Namespace) -> list[Variant]:
    peers = [variant for name in options.peers for variant in ENGINES[name](setting)]
    return bundles.variants(setting, options.precisions, options.bundles) + peers


def _measured(
    variant: Variant, expected: Sequence[Floats], cut: Sequence[Tokens], parameters: int
) -> Measured | Missing:
    """One row. Whatever goes wrong with one model is no reason to lose the others."""
    try:
        with variant.open() as model:
            parts = [
                _difference(model.logits(tokens), part, tokens)
                for part, tokens in zip(expected, cut, strict=True)
            ]
            row = _row(variant.name, pool(parts), model.bytes, parameters)
    except Exception as error:  # each engine has its own
        return Missing(variant.name, one_line(error))
    if variant.name == llama_cpp.F32 and not row.kl < F32_TOLERANCE:
        return Missing(
            variant.name,
            f"KL {row.kl:.2e} from torch fp32, expected below "
            f"{F32_TOLERANCE:.0e}: not the same model",
        )
    return Measured(row, parts)


def _f32_agrees(rows: Sequence[Measured | Missing]) -> bool:
    return any(isinstance(each, Row) and each.name == llama_cpp.F32 for each in bare(rows))


def _difference(ours: Floats, expected: Floats, tokens: Tokens) -> Difference:
    if ours.shape != expected.shape:
        raise ValueError(f"logits of shape {ours.shape}, expected {expected.shape}")
    return compare(ours, expected, tokens[1:])


def _row(name: str, difference: Difference, size: int, parameters: int) -> Row:
    return Row(
        name,
        difference.kl_divergence,
        difference.top1_agreement,
        difference.nll,
        size,
        8 * size / parameters,
    )


def _caption(
    options: argparse.Namespace, cut: Sequence[Tokens], owners: Sequence[int], groups: Groups
) -> str:
    positions = sum(map(len, cut))
    return (
        f"{options.checkpoint.resolve().name}, {positions} positions in {len(cut)} windows of up "
        f"to {options.length} tokens, of {len(set(owners))} files. Intervals hold 95 % of "
        f"{DRAWS:,} draws of {groups.count} {groups.unit} with replacement (seed {SEED}); "
        "quotients are of the same draws. Sizes are everything stored: scales, biases and norms "
        "too, and rotary tables in the bundles."
    )


def _facts(
    options: argparse.Namespace, cut: Sequence[Tokens], owners: Sequence[int], parameters: int
) -> dict[str, Any]:
    """What the figures belong to; names of files only, never where they lie."""
    return {
        "checkpoint": options.checkpoint.resolve().name,
        "parameters": parameters,
        "files": [path.name for number, path in enumerate(options.files) if number in owners],
        "length": options.length,
        "windows": len(cut),
        "positions": sum(map(len, cut)),
        "threads": options.threads,
        "cpu": cpu(),
        "system": system(),
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
