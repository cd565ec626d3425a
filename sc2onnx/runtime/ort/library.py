"""The import of onnxruntime: whoever needs the library takes it from here, so that its
telemetry is off by then.
"""

from __future__ import annotations

from typing import Final

from sc2onnx.errors import MissingDependencyError
from sc2onnx.hints import install
from sc2onnx.runtime.ort.telemetry import Telemetry, turned_off

TELEMETRY: Final[Telemetry] = turned_off()
"""What holds for the library of this process."""

try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingDependencyError(
        f"running a bundle needs onnxruntime ({error}): {install('cpu')}"
    ) from error

if TELEMETRY == "off":
    # what Windows heeds, where it is a provider of the system's own event log
    ort.disable_telemetry_events()

__all__ = ["TELEMETRY", "ort"]
