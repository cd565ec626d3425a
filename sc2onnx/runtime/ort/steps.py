"""Whether steps of several tokens give the tokens of as many steps of one, in
ONNX Runtime's own kernels.
"""

from __future__ import annotations

from sc2onnx.bundle.contract import RING
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.steps import ANY, NONE, agreeing_steps


def steps_agree(manifest: Manifest) -> bool:
    """Whether a step of several tokens gives the tokens of as many steps of one, on the CPU.

    In float32 the logits differ by rounding alone, 1e-5 of the largest; in integers they are the
    same to the last bit, or the last bit decides how the next activations are rounded to int8, and
    they differ by up to a per cent (:mod:`sc2onnx.bundle.steps`). Bundles of earlier versions are
    not written for it. In half precision every kernel rounds in its own way
    (docs/decisions/0013-cuda.md).
    """
    if manifest.cache.dtype != "float32":
        return False
    return manifest.quantization is None or agreeing(manifest) == ANY


def agreeing(manifest: Manifest) -> str:
    """What a bundle of integers says of its steps, as far as its schemes allow it."""
    quantization, facts = manifest.quantization, manifest.model
    if quantization is None or manifest.cache.kind != RING:
        return NONE
    possible = agreeing_steps(
        quantization.schemes.values(), facts.num_heads, facts.num_kv_heads, facts.head_dim
    )
    return possible if possible == manifest.agreeing_steps else NONE
