"""What a request to fill in the middle may ask for, besides what every request may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from sc2onnx.errors import RequestError
from sc2onnx.runtime.arguments import code_files, flag, one_of, optional_text, shown, whole_number
from sc2onnx.runtime.options import GenerationKeywords, GenerationOptions
from sc2onnx.runtime.text.fim import FimOrder


class InfillKeywords(GenerationKeywords, total=False):
    """The keywords of :class:`InfillOptions`, as type checkers see them."""

    path: str | None
    repo: str | None
    files: Mapping[str, str] | None
    order: FimOrder
    fit: bool
    prompt_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InfillOptions(GenerationOptions):
    """What stands around the code at the cursor, and how the prompt is made of it; the rest is as
    in :class:`~sc2onnx.runtime.options.GenerationOptions`.

    ``path`` of the file, ``repo`` name and other ``files`` (path -> code) are optional context,
    in the training format (:func:`sc2onnx.runtime.text.fim.fim_prompt`); all texts are data.
    ``order``: ``"psm"``, prefix first, or ``"spm"``, suffix first, so that a later request
    after typing differs at its end only, and reuses the suffix as well.

    A prompt that would be too long is cut to what is nearest to the cursor
    (:mod:`sc2onnx.runtime.text.fitting`), and ``used`` of the result says what was left.
    ``prompt_tokens``: the most tokens of the prompt, all of it; by default what the context
    leaves after ``max_new_tokens``, three quarters of it at least. ``fit=False``: what is
    longer than the context is a :class:`~sc2onnx.errors.ContextLengthError` instead.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    path: str | None = None
    repo: str | None = None
    files: Mapping[str, str] | None = None
    order: FimOrder = "psm"
    fit: bool = True
    prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        GenerationOptions.__post_init__(self)  # super() is lost where a dataclass has slots
        optional_text("path", self.path)
        optional_text("repo", self.repo)
        object.__setattr__(self, "files", code_files(self.files))
        one_of("order", self.order, get_args(FimOrder))
        fit, most = flag("fit", self.fit), self.prompt_tokens
        if most is not None:
            object.__setattr__(self, "prompt_tokens", whole_number("prompt_tokens", most, 1))
            if not fit:
                found = f"fit is False and prompt_tokens is {shown(most)}"
                raise RequestError(f"{found}, expected one of them")
