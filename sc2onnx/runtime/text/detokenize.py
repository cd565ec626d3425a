"""Tokens -> text as they come."""

from __future__ import annotations

import codecs

from sc2onnx.runtime.text.codec import Codec


class Detokenizer:
    """Turns tokens into text as they come, never half a character: bytes wait until they are a
    character, or cannot become one.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Text that this token completes, often all of its own; invalid bytes become U+FFFD."""
        return self._decoder.decode(self._codec.token_bytes(token))

    def flush(self) -> str:
        """What is left when no token follows: U+FFFD for a character that was cut short."""
        return self._decoder.decode(b"", final=True)
