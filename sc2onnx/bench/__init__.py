"""How fast bundles are, measured side by side: load, first token, prefill, decode over context,
steps, memory. Needs the runtime only.
"""

from __future__ import annotations

from sc2onnx.bench.engine import Engine, Opener, bundle_opener
from sc2onnx.bench.process_cost import ProcessCost
from sc2onnx.bench.quartiles import Quartiles
from sc2onnx.bench.report import Missing, Report, Row
from sc2onnx.bench.run import Settings, bench, bench_engines
from sc2onnx.bench.task import Task

__all__ = [
    "Engine",
    "Missing",
    "Opener",
    "ProcessCost",
    "Quartiles",
    "Report",
    "Row",
    "Settings",
    "Task",
    "bench",
    "bench_engines",
    "bundle_opener",
]
