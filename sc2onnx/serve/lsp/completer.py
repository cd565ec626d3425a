"""Who completes: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sc2onnx.runtime.text.endings import Ending
from sc2onnx.runtime.text.fitting import Surroundings

PROMPT_SECONDS: Final = 0.5
"""That the prompt of a completion may take: nobody waits for longer after a move of the cursor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place to complete at, and how.

    ``document``: its URI; a newer request for it takes the place of an older one. ``code``:
    what stands around the cursor. ``max_tokens``: the most to write. ``timeout``: seconds
    after which what there is by then is taken. ``ends``: where the completion ends by its
    lines, None: anywhere. ``line_seconds``: after so many seconds of writing it ends as soon
    as it has more than one line.
    """

    document: str
    code: Surroundings
    max_tokens: int
    timeout: float
    ends: Ending | None = None
    line_seconds: float | None = None


class Completer(Protocol):
    """Completes code at a cursor. For one event loop.

    Its methods raise :class:`~sc2onnx.serve.refusal.RefusedError`, and what the runtime raises. A
    task that is cancelled in one of them stops the work.
    """

    @property
    def loading(self) -> bool:
        """Whether it cannot complete yet."""
        ...

    async def open(self, tell: Callable[[str], None]) -> None:
        """Become able to complete. ``tell``: is told how far that is."""
        ...

    async def complete(self, cursor: Cursor) -> str:
        """What is to be inserted at the cursor; empty: nothing."""
        ...

    async def warm(self, cursor: Cursor) -> None:
        """Compute the prompt of a cursor and leave it to later ones, behind every completion."""
        ...

    async def forget(self) -> None:
        """Free what completions left for later ones."""
        ...

    async def close(self) -> None:
        """End what runs. Closing twice, or before it was opened, is fine."""
        ...
