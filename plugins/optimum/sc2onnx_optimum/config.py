"""How optimum exports StarCoder2. Source: optimum-onnx's guide "Adding support for an
unsupported architecture".
"""

from __future__ import annotations

from optimum.exporters.onnx.model_configs import MistralOnnxConfig
from optimum.exporters.tasks import TasksManager

from sc2onnx_optimum.rotary import reads_rope_parameters

TASKS = (
    "text-generation",
    "text-generation-with-past",
    "feature-extraction",
    "feature-extraction-with-past",
)

_register = TasksManager.create_register("onnx", overwrite_existing=False)


reads_rope_parameters()


@_register("starcoder2", *TASKS)
class Starcoder2OnnxConfig(MistralOnnxConfig):
    """Its inputs, outputs and cache are Mistral's: grouped-query attention with a sliding
    window, rotary positions.
    """

    ATOL_FOR_VALIDATION = 1e-4  # of logits as large as 20: float32 is not finer
