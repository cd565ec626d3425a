"""A request on its way, from the key to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fleet_model.store import Text

End = Literal["done", "superseded", "refused", "lost"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a key asks for. ``text``: around its cursor, of so many ``tokens``, of which the
    ``changed`` last ones differ from what was asked before; ``wanted``: tokens of the completion.
    ``keys``: of the file (:mod:`sc2onnx.fleet.affinity`).
    """

    text: Text
    tokens: int
    changed: int
    wanted: int
    keys: tuple[int, ...]


class Row:
    """A request at a node.

    ``text``, ``prompt``, ``left``: what is computed, its tokens, and those that are not computed
    yet; ``made``: tokens of the completion; ``began``: when it arrived; ``first``: when its first
    token was there. ``over`` is called once, with its end.
    """

    __slots__ = (
        "arrival", "ask", "began", "cancelled", "first", "left", "made", "over", "priority",
        "prompt", "reused", "text", "wanted",
    )  # fmt: skip

    def __init__(self, ask: Ask, text: Text, prompt: int, priority: int = 0) -> None:
        self.ask, self.text, self.prompt, self.priority = ask, text, prompt, priority
        self.left, self.made, self.reused = prompt, 0, 0
        self.wanted = 1 if priority < 0 else ask.wanted
        self.arrival, self.began, self.first = 0, 0.0, 0.0
        self.cancelled = False
        self.over: Callable[[Row, End], None] | None = None

    def end(self, how: End) -> None:
        """Tell whoever asked."""
        if self.over is not None:
            over, self.over = self.over, None
            over(self, how)
