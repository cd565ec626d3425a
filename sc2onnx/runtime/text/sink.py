"""From tokens to the text that a request gives."""

from __future__ import annotations

from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.detokenize import Detokenizer
from sc2onnx.runtime.text.stop import StopScanner


class TextSink:
    """Tokens in, text out: detokenized, without the first ``skip`` characters, and cut at the first
    stop string.
    """

    def __init__(self, codec: Codec, stops: tuple[str, ...], *, skip: int = 0) -> None:
        self._detokenizer, self._scanner = Detokenizer(codec), StopScanner(stops)
        self._ready, self._skip = "", skip

    def push(self, token: int) -> bool:
        """Take a token; whether a stop string is now complete."""
        text = self._detokenizer.push(token)
        self._ready += self._scanner.push(text[self._skip :])
        self._skip = max(0, self._skip - len(text))
        return self._scanner.found

    def pull(self, *, last: bool = False) -> str:
        """Text that is certain and was not pulled before; all of it if no token follows."""
        if last:
            rest = self._detokenizer.flush()[self._skip :]
            self._ready += self._scanner.push(rest) + self._scanner.flush()
        out, self._ready = self._ready, ""
        return out

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; the last bytes, flushed as U+FFFD, may complete one."""
        return self._scanner.found
