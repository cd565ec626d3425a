"""Every exception that sc2onnx raises on purpose.

::

    Sc2onnxError
    |-- CheckpointError (ValueError)          what was given to export
    |   |-- CheckpointNotFoundError (FileNotFoundError)
    |   |-- UnsupportedModelError             not a StarCoder2, or one with unknown settings
    |   |-- TensorError                       missing, extra, misshapen, of an unknown type
    |   `-- CorruptCheckpointError            truncated or malformed files
    |-- OutputError (OSError)                 where export writes
    |   |-- OutputExistsError (FileExistsError)
    |   `-- DiskSpaceError
    |-- BundleError (ValueError)              what was given to load
    |   |-- BundleNotFoundError (FileNotFoundError)
    |   |-- BundleVersionError                written by a newer sc2onnx
    |   |-- BundleIntegrityError              missing file, wrong size, wrong digest, unsafe path
    |   `-- AdapterError                      an adapter that is none, or not of this model
    |-- HubError (OSError)                    the hub refused, or cannot be reached
    |-- RequestError (ValueError)             an option or input that cannot be honoured
    |   |-- EmptyPromptError
    |   |-- TokenIdError
    |   |-- ContextLengthError
    |   |-- SamplingError
    |   |-- ConstraintError                 a grammar or schema that is wrong or too much
    |   |-- CursorError
    |   `-- RewindError
    |-- TokenizerError (RuntimeError)         text asked of a bundle without a usable tokenizer
    |-- ChatTemplateError (RuntimeError)      a chat with a bundle that has no usable chat template
    |-- DeviceError (RuntimeError)            the device asked for does not work here
    |-- InferenceError (RuntimeError)         ONNX Runtime failed
    |   |-- OutOfMemoryError (MemoryError)    a cache or its logits found no room
    |   `-- NotFiniteError                    logits are infinities or no numbers
    |-- BusyError (TimeoutError)              a request that waited in vain for its first step
    |-- SequenceStateError (RuntimeError)     a closed sequence, or one in use by another thread
    |   |-- CancelledError                    closed while it was computing, or the program ended
    |   `-- ForkedError                       a model in a child that was forked after it was loaded
    `-- MissingDependencyError (ImportError)  an optional package is not installed

Each says what was found, what was expected and what to do.
Each also subclasses the builtin it resembles, so that callers need not know this tree.
"""

from __future__ import annotations


class Sc2onnxError(Exception):
    """The root: catch it to catch everything that sc2onnx raises on purpose."""


class CheckpointError(Sc2onnxError, ValueError):
    """The checkpoint cannot be exported."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint at this path or hub id."""


class UnsupportedModelError(CheckpointError):
    """``config.json`` describes something that this exporter does not compute."""


class TensorError(CheckpointError):
    """A tensor is missing, unexpected, misshapen or of an unsupported type."""


class CorruptCheckpointError(CheckpointError):
    """A file of the checkpoint is truncated or malformed."""


class OutputError(Sc2onnxError, OSError):
    """The bundle cannot be written."""


class OutputExistsError(OutputError, FileExistsError):
    """The output path is taken."""


class DiskSpaceError(OutputError):
    """The output would not fit on the disk."""


class BundleError(Sc2onnxError, ValueError):
    """The bundle cannot be loaded."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """No bundle at this path."""


class BundleVersionError(BundleError):
    """The manifest was written by a newer sc2onnx."""


class BundleIntegrityError(BundleError):
    """A file is missing, or its size, digest or path is not what it must be."""


class AdapterError(BundleError):
    """An adapter's files are malformed, or do not fit the model, or the bundle takes none."""


class HubError(Sc2onnxError, OSError):
    """The Hugging Face hub refused, or cannot be reached."""


class RequestError(Sc2onnxError, ValueError):
    """An option or input that cannot be honoured."""


class EmptyPromptError(RequestError):
    """There is no token to start from."""


class TokenIdError(RequestError):
    """A token id outside the vocabulary."""


class ContextLengthError(RequestError):
    """More tokens than the model's context holds."""


class ConstraintError(RequestError):
    """A grammar, schema or expression that is wrong, not supported, or too much to compute."""


class SamplingError(RequestError):
    """A sampling parameter outside its range."""


class CursorError(RequestError):
    """A line or column outside the file."""


class RewindError(RequestError):
    """More tokens to drop than the sliding-window cache can restore exactly."""


class TokenizerError(Sc2onnxError, RuntimeError):
    """Text was asked of a bundle whose tokenizer is missing or unusable."""


class ChatTemplateError(Sc2onnxError, RuntimeError):
    """A chat was asked of a bundle whose chat template is missing, or cannot be rendered within
    bounds.
    """


class DeviceError(Sc2onnxError, RuntimeError):
    """The device asked for does not work here."""


class InferenceError(Sc2onnxError, RuntimeError):
    """ONNX Runtime could not load or run the graph."""


class OutOfMemoryError(InferenceError, MemoryError):
    """There is no room for a cache or for logits."""


class NotFiniteError(InferenceError):
    """The model computed logits that are infinite or no numbers, for this request."""


class BusyError(Sc2onnxError, TimeoutError):
    """A request waited for longer than it may for its first step: others were computed."""


class SequenceStateError(Sc2onnxError, RuntimeError):
    """A sequence was used after it was closed, or by two threads at once."""


class CancelledError(SequenceStateError):
    """The sequence was closed while it was computing, or the program ended under it."""


class ForkedError(SequenceStateError):
    """A model, or a stream or sequence of it, was used in a child process that was
    forked after it was loaded.
    """


class MissingDependencyError(Sc2onnxError, ImportError):
    """An optional dependency is not installed."""
