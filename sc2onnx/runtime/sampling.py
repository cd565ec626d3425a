"""Where programs have imported these from; they are in
:mod:`sc2onnx.runtime.choose.sampling` now.
"""

from sc2onnx.runtime.choose.sampling import Sampler, SamplingParameters, candidates, log_probability

__all__ = ["Sampler", "SamplingParameters", "candidates", "log_probability"]
