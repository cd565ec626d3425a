"""Requests whose readers take text or tokens as they come."""

from __future__ import annotations

from sc2onnx.runtime.engine.handle import Handle
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.results import Piece, Token
from sc2onnx.runtime.text.fitting import Surroundings


class Stream(Handle[Piece]):
    """Pieces of text as they are generated, of ``model.stream()`` and ``model.stream_infill()``.

    Iterate it, with ``for`` or ``async for``. Closing it, from any thread, or leaving its ``with``
    or ``async with`` block, or cancelling the task that iterates, stops the work within about one
    operator and ends the iteration without an error: look at :attr:`finish_reason` before you take
    :attr:`text` for whole.
    """

    def __init__(self, engine: Engine, row: Row, *, submitted: bool = False) -> None:
        super().__init__(engine, row, submitted=submitted)
        self._text = list[str]()

    @property
    def text(self) -> str:
        """All text of the pieces so far: once :attr:`finish_reason` is ``"stop"`` or ``"length"``,
        what ``generate`` gives.
        """
        return "".join(self._text)

    @property
    def used(self) -> Surroundings | None:
        """What of the code around the cursor is in the prompt; None
        where it is not for infilling.
        """
        return self._row.used

    def _next(self) -> Piece:
        piece = super()._next()
        self._text.append(piece.text)
        return piece


class TokenStream(Handle[Token]):
    """Tokens as they are generated, of ``model.generate_tokens()``.

    Iterate it, with ``for`` or ``async for``. Closing it, from any thread, or leaving its ``with``
    or ``async with`` block, or cancelling the task that iterates, stops the work within about one
    operator and ends the iteration without an error.
    """
