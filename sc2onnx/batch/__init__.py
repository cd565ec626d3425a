"""Jobs over many rows: completed, infilled, scored or evaluated, once each and resumable."""

from __future__ import annotations

from sc2onnx.batch.attributing import Marks
from sc2onnx.batch.evaluating import Evaluating, Measures
from sc2onnx.batch.job import Job, answered, run
from sc2onnx.batch.progress import Progress
from sc2onnx.batch.records import Record
from sc2onnx.batch.tasks import Completing, Infilling, Scoring, Task

__all__ = [
    "Completing",
    "Evaluating",
    "Infilling",
    "Job",
    "Marks",
    "Measures",
    "Progress",
    "Record",
    "Scoring",
    "Task",
    "answered",
    "run",
]
