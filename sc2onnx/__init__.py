"""Run StarCoder2 outside PyTorch: ``sc2onnx.load`` for a bundle,
``sc2onnx.export.export`` to make one.

Names are imported when first used, so that ``import sc2onnx`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sc2onnx.errors import (
    AdapterError,
    BundleError,
    BundleIntegrityError,
    BundleNotFoundError,
    BundleVersionError,
    BusyError,
    CancelledError,
    ChatTemplateError,
    CheckpointError,
    CheckpointNotFoundError,
    ConstraintError,
    ContextLengthError,
    CorruptCheckpointError,
    CursorError,
    DeviceError,
    DiskSpaceError,
    EmptyPromptError,
    ForkedError,
    HubError,
    InferenceError,
    MissingDependencyError,
    NotFiniteError,
    OutOfMemoryError,
    OutputError,
    OutputExistsError,
    RequestError,
    RewindError,
    SamplingError,
    Sc2onnxError,
    SequenceStateError,
    TensorError,
    TokenIdError,
    TokenizerError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from sc2onnx.runtime.adapter import Adapter
    from sc2onnx.runtime.choose.parameters import SamplingParameters
    from sc2onnx.runtime.engine.sequence import TokenSequence
    from sc2onnx.runtime.engine.streams import Stream, TokenStream
    from sc2onnx.runtime.loading import load
    from sc2onnx.runtime.memory import MemoryFootprint
    from sc2onnx.runtime.model import Model
    from sc2onnx.runtime.opening.bundle import push
    from sc2onnx.runtime.results import Completion, Piece, Token
    from sc2onnx.runtime.text.fitting import Surroundings

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "AdapterError",
    "BundleError",
    "BundleIntegrityError",
    "BundleNotFoundError",
    "BundleVersionError",
    "BusyError",
    "CancelledError",
    "ChatTemplateError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "Completion",
    "ConstraintError",
    "ContextLengthError",
    "CorruptCheckpointError",
    "CursorError",
    "DeviceError",
    "DiskSpaceError",
    "EmptyPromptError",
    "ForkedError",
    "HubError",
    "InferenceError",
    "MemoryFootprint",
    "MissingDependencyError",
    "Model",
    "NotFiniteError",
    "OutOfMemoryError",
    "OutputError",
    "OutputExistsError",
    "Piece",
    "RequestError",
    "RewindError",
    "SamplingError",
    "SamplingParameters",
    "Sc2onnxError",
    "SequenceStateError",
    "Stream",
    "Surroundings",
    "TensorError",
    "Token",
    "TokenIdError",
    "TokenSequence",
    "TokenStream",
    "TokenizerError",
    "UnsupportedModelError",
    "__version__",
    "load",
    "push",
]

_HOMES = {
    "Adapter": "sc2onnx.runtime.adapter",
    "Completion": "sc2onnx.runtime.results",
    "Piece": "sc2onnx.runtime.results",
    "Stream": "sc2onnx.runtime.engine.streams",
    "Surroundings": "sc2onnx.runtime.text.fitting",
    "MemoryFootprint": "sc2onnx.runtime.memory",
    "Model": "sc2onnx.runtime.model",
    "load": "sc2onnx.runtime.loading",
    "push": "sc2onnx.runtime.opening.bundle",
    "SamplingParameters": "sc2onnx.runtime.choose.parameters",
    "Token": "sc2onnx.runtime.results",
    "TokenSequence": "sc2onnx.runtime.engine.sequence",
    "TokenStream": "sc2onnx.runtime.engine.streams",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sc2onnx' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
