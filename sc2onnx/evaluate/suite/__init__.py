"""Tasks with a right answer: holes in code that a model fills, with what stood there to compare
with, and programs with tests. For bundles, references, and servers of other engines.
"""

from __future__ import annotations

from sc2onnx.evaluate.suite.hole import CUT, TASKS, Task

__all__ = ["CUT", "TASKS", "Task"]
