"""A conversation with a model: what was said so far, and the next answer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sc2onnx.errors import ContextLengthError
from sc2onnx.messages import tell

if TYPE_CHECKING:
    from sc2onnx.runtime.engine.streams import Stream
    from sc2onnx.runtime.model import Model


class Dialogue:
    """Messages in turns. ``options``: keywords of :meth:`~sc2onnx.Model.stream_chat`."""

    def __init__(self, model: Model, system: str | None, options: Mapping[str, Any]) -> None:
        self._model, self._options = model, dict(options)
        self.system = system
        self.turns = list[tuple[str, str]]()
        """Questions and their answers."""

    def answer(self, question: str, write: Callable[[str], None]) -> dict[str, Any]:
        """Ask, and give each piece of the answer to ``write``. What came of it, as JSON has it.

        Ctrl-C ends an answer; what was written of it stays in the conversation. The oldest turns
        are left out where the model's context does not hold them all.

        Raises what :meth:`~sc2onnx.Model.stream_chat` raises; the question is forgotten then.
        """
        stream = self._begun(question)
        tokens = list[int]()
        with stream, stopped_by_interrupt(stream):
            for piece in stream:
                tokens += piece.tokens
                write(piece.text)
        if stream.text:
            self.turns.append((question, stream.text))
        return {"text": stream.text, "tokens": tokens, "finish_reason": stream.finish_reason}

    def _begun(self, question: str) -> Stream:
        """The answer to come, to as many turns as leave room for it."""
        facts, left = self._model.manifest.model, 0
        room = min(self._options["max_new_tokens"], facts.context_length // 4)
        while True:
            try:
                stream = self._model.stream_chat(self._messages(question), **self._options)
                if not self.turns or stream.prompt_tokens + room <= facts.context_length:
                    break
                stream.close()
            except ContextLengthError:
                if not self.turns:
                    raise
            self.turns.pop(0)
            left += 1
        if left:
            told = "its first turn is" if left == 1 else f"its first {left} turns are"
            tell(f"the conversation no longer fits into the context: {told} left out")
        return stream

    def _messages(self, question: str) -> list[dict[str, str]]:
        said = [] if self.system is None else [("system", self.system)]
        for asked, answered in self.turns:
            said += [("user", asked), ("assistant", answered)]
        return [{"role": role, "content": text} for role, text in [*said, ("user", question)]]


@contextmanager
def stopped_by_interrupt(stream: Stream) -> Iterator[None]:
    """Let SIGINT only end a stream, in the middle of its step, while the block runs."""
    if threading.current_thread() is not threading.main_thread():  # only that one handles signals
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: stream.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
