"""What dialects have in common: bounds that are told of in the same words,
and why a completion ended.
"""

from __future__ import annotations

from typing import Final

from sc2onnx.runtime.results import FinishReason
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

MOST: Final = 2**31 - 1
"""Of any whole number in a body but a seed: numbers beyond that are nonsense, and long ones cannot
be computed with, or told of.
"""

PATH: Final = 4096
"""Characters of a path, or of another name that goes into a prompt."""

MOST_BIASED: Final = 1024
"""Tokens whose logits a request may change."""


def check_most(name: str, value: int | None, most: int) -> None:
    """Raise :class:`~sc2onnx.serve.refusal.RefusedError` for more than
    ``most`` in the field ``name``.
    """
    if (value or 0) > most:
        raise RefusedError(400, f"{name} is {value}, expected at most {most}", param=name)


def check_stops(stop: str | list[str] | None, settings: Settings) -> None:
    """Raise :class:`~sc2onnx.serve.refusal.RefusedError` for more stop
    strings than a request may have.
    """
    if isinstance(stop, list) and len(stop) > settings.most_stops:
        raise RefusedError(
            400, f"stop has {len(stop)} texts, expected at most {settings.most_stops}", param="stop"
        )


def ended(reason: FinishReason) -> str:
    """Why a completion ended, in the two words that most dialects have: ``length`` or ``stop``."""
    return "length" if reason in ("length", "timeout") else "stop"
