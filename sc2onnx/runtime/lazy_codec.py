"""The tokenizer of a bundle, opened when it is first needed."""

from __future__ import annotations

import threading

from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.runtime.forks import Process
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.text.codec import Codec, open_codec


class LazyCodec:
    """Opens a bundle's tokenizer once. For any number of threads."""

    def __init__(self, bundle: Bundle, process: Process) -> None:
        self._bundle, self._process = bundle, process
        self._codec: Codec | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Codec:
        """Return the tokenizer. Raises :class:`~sc2onnx.errors.TokenizerError` and
        :class:`~sc2onnx.errors.BundleIntegrityError`.
        """
        self._process.check()  # before a lock that another thread may have held at the fork
        with self._lock:
            if self._codec is None:
                codec = open_codec(self._bundle.tokenizer)
                self._bundle.check_unchanged(TOKENIZER_FILE)  # it may have been a long time since
                self._codec = codec
            return self._codec
