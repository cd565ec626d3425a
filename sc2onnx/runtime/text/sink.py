"""From tokens to the text that a request gives."""

from __future__ import annotations

from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.detokenize import Detokenizer
from sc2onnx.runtime.text.endings import Rule
from sc2onnx.runtime.text.stop import StopScanner


class TextSink:
    """Tokens in, text out: detokenized, without the first ``skip`` characters, cut at the first
    stop string, and where ``ends`` says.
    """

    def __init__(
        self, codec: Codec, stops: tuple[str, ...], ends: Rule | None = None, *, skip: int = 0
    ) -> None:
        self._detokenizer, self._stops = Detokenizer(codec), StopScanner(stops)
        self._ends = None if ends is None else ends.scanner()
        self._ready, self._skip = "", skip
        self.several = False
        """Whether text of more than one line was given."""

    def push(self, token: int) -> bool:
        """Take a token; whether a stop string is now complete."""
        text = self._detokenizer.push(token)
        self._take(self._stops.push(text[self._skip :]))
        self._skip = max(0, self._skip - len(text))
        return self.stopped

    def pull(self, *, last: bool = False) -> str:
        """Text that is certain and was not pulled before; all of it if no token follows."""
        if last:
            rest = self._detokenizer.flush()[self._skip :]
            self._take(self._stops.push(rest) + self._stops.flush())
            self._ready += "" if self._ends is None else self._ends.flush()
        out, self._ready = self._ready, ""
        return out

    @property
    def stopped(self) -> bool:
        """Whether it ends here; the last bytes, flushed as U+FFFD, may complete a stop string."""
        return self._stops.found or (self._ends is not None and self._ends.found)

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended it."""
        return self._stops.which

    def _take(self, text: str) -> None:
        text = text if self._ends is None else self._ends.push(text)
        self.several = self.several or "\n" in text
        self._ready += text
