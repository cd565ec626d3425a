"""How good a bundle is: likelihood of code, distance to a reference, infilling.
Needs the runtime only; never torch.
"""

from __future__ import annotations

from sc2onnx.evaluate.report import InfillScore, ReferenceScore, Report, Score
from sc2onnx.evaluate.run import Settings, evaluate
from sc2onnx.evaluate.source import About, LogitSource, Opener, bundle_opener, reference_opener

__all__ = [
    "About",
    "InfillScore",
    "LogitSource",
    "Opener",
    "ReferenceScore",
    "Report",
    "Score",
    "Settings",
    "bundle_opener",
    "evaluate",
    "reference_opener",
]
