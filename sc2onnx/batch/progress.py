"""How far a job is, for a person: a line that changes on a terminal, one now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import Final

from sc2onnx.batch.checkpoint import Checkpoint
from sc2onnx.evaluate.score import bits_per_byte
from sc2onnx.messages import duration

EVERY: Final = 30.0
"""Seconds between two lines, if nothing else is said."""

_SMOOTH: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Place:
    """How far a job is: its rows so far, and the part of its input that was read."""

    done: Checkpoint
    position: float


class Progress:
    """Tells how far a job is, how fast it goes, and how long it will take."""

    def __init__(self, tell: Callable[[str], None] | None, every: float = EVERY) -> None:
        """``tell``: takes a line; None where nobody wants it. ``every``: seconds between two."""
        self._tell, self._every = tell, every
        self._first: Place | None = None
        self._began = self._told = time.monotonic()

    def begin(self, place: Place) -> None:
        """From here on it counts: what an earlier run did says nothing of how fast this one is."""
        self._first = place
        self._began = self._told = time.monotonic()

    def show(self, place: Place) -> None:
        """Tell, unless that was just done."""
        now = time.monotonic()
        if self._tell is not None and self._first is not None and now - self._told >= self._every:
            self._told = now
            self._tell(line(self._first, place, now - self._began))


def line(first: Place, now: Place, seconds: float) -> str:
    """What is told of a job that was at ``first`` so many seconds ago."""
    done, before = now.done, first.done
    rows, tokens = (
        (getattr(done, name) - getattr(before, name)) / max(seconds, _SMOOTH)
        for name in ("rows", "tokens")
    )
    parts = [
        f"{done.rows:,} rows{_errors(done)}",
        f"{now.position:.0%} read",
        f"{rows:.1f} rows/s",
        f"{tokens:.0f} tokens/s",
    ]
    gained = now.position - first.position
    if gained > 0 and rows:
        parts.append(f"about {duration(seconds / gained * (1 - now.position))} left")
    return ", ".join(parts)


def summary(done: Checkpoint) -> list[str]:
    """What a job came to, in lines for a person."""
    lines = [f"{done.rows:,} rows{_errors(done)}, {done.tokens:,} tokens"]
    sums = done.sums
    if done.tokens and "nats" in sums:
        nll = sums["nats"] / done.tokens
        bits = bits_per_byte(nll, done.tokens, int(sums["bytes"]))
        lines.append(f"NLL {nll:.4f}, perplexity {exp(min(nll, 700)):.3f}, {bits:.4f} bits/byte")
    if spans := sums.get("spans"):
        exact, edit = sums["exact_match"] / spans, sums["edit_similarity"] / spans
        lines.append(f"{spans:,.0f} spans infilled: {exact:.1%} exact, edit similarity {edit:.3f}")
    return lines


def _errors(done: Checkpoint) -> str:
    return f" ({done.errors:,} with errors)" if done.errors else ""
