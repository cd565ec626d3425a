"""StarCoder2 for optimum-onnx: ``import sc2onnx_optimum`` lets it export, load and run the model.

``optimum-cli`` imports what exporting needs by itself (``optimum.commands.register``). Either
import turns ONNX Runtime's telemetry off, unless ``ORT_DISABLE_TELEMETRY`` is in the environment,
or onnxruntime was imported before.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from sc2onnx_optimum.config import Starcoder2OnnxConfig
from sc2onnx_optimum.runtime import knows_key_value_heads

knows_key_value_heads()

__all__ = ["Starcoder2OnnxConfig"]
