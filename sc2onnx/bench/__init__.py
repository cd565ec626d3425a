"""How fast bundles are, measured side by side: load, first token, prefill, decode over context, steps, memory. Needs the runtime only."""

from __future__ import annotations

from sc2onnx.bench.alone import Alone
from sc2onnx.bench.engine import Engine, Opener, bundle_opener
from sc2onnx.bench.report import Missing, Report, Row
from sc2onnx.bench.run import Settings, bench, bench_engines
from sc2onnx.bench.spread import Spread
from sc2onnx.bench.task import Task

__all__ = ["Alone", "Engine", "Missing", "Opener", "Report", "Row", "Settings", "Spread", "Task", "bench", "bench_engines", "bundle_opener"]
