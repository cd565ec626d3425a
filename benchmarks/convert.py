"""What an export takes: seconds, peak resident memory, peak disk, and the size of the result.

    python benchmarks/make_checkpoint.py 3b checkpoint-3b
    python benchmarks/convert.py checkpoint-3b int8 int4 int4-fast --no-calibration

One row per precision, each exported by a process of its own into a temporary directory (``TMPDIR``
moves it) that is removed afterwards. Other arguments go to ``sc2onnx export`` as they are. Memory
is the kernel's high-water mark of that process (Linux, in kilobytes); disk is everything in the
temporary directory, the store of calibration included, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

FLOATS = ("fp16", "bf16")


@dataclass(frozen=True, slots=True)
class Conversion:
    """One export. Bytes and seconds."""

    precision: str
    seconds: float
    peak_resident: int
    peak_disk: int
    weights: int


def convert(checkpoint: Path, precision: str, extra: list[str]) -> Conversion:
    """Export once and watch."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "bundle"
        target = ["--target", "cuda"] if precision in FLOATS else []
        command = [
            sys.executable,
            "-m",
            "sc2onnx",
            "export",
            str(checkpoint),
            str(out),
            "--precision",
            precision,
            *target,
            *extra,
        ]
        began, disk = time.perf_counter(), 0
        process = subprocess.Popen(
            command,
            env={**os.environ, "SC2ONNX_CACHE": str(Path(scratch) / "cache")},
            stdout=subprocess.DEVNULL,
        )
        while True:
            finished, status, usage = os.wait4(process.pid, os.WNOHANG)
            if finished:
                break
            disk = max(disk, occupied(Path(scratch)))
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        weights = json.loads((out / "sc2onnx.json").read_text())["weight_bytes"]
        return Conversion(
            precision, seconds, usage.ru_maxrss * 1024, max(disk, occupied(Path(scratch))), weights
        )


def occupied(directory: Path) -> int:
    """Bytes of the files below a directory; those that vanish meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(folder) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("precisions", nargs="+")
    arguments, extra = parser.parse_known_args()
    print(
        "| precision | seconds | peak resident GB | peak disk GB | weights GB |\n"
        "|---|---|---|---|---|",
        flush=True,
    )
    for precision in arguments.precisions:
        row = convert(arguments.checkpoint, precision, extra)
        sizes = " | ".join(
            f"{value / 1e9:.3f}" for value in (row.peak_resident, row.peak_disk, row.weights)
        )
        print(f"| {row.precision} | {row.seconds:.0f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
