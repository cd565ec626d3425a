"""Where programs have imported these from; they are in
:mod:`sc2onnx.runtime.choose` now.
"""

from sc2onnx.runtime.choose.likelihood import log_probability
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.choose.weights import candidates

__all__ = ["Sampler", "SamplingParameters", "candidates", "log_probability"]
