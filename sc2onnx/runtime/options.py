"""What a request may ask for. Each keyword stands once, with its default and its check: here, or in
:mod:`sc2onnx.runtime.choose.parameters` where it says how tokens are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Self, get_args

from sc2onnx.errors import RequestError
from sc2onnx.runtime.adapter import Adapted
from sc2onnx.runtime.arguments import (
    check_keywords,
    flag,
    one_of,
    optional_text,
    shown,
    stop_strings,
    whole_number,
)
from sc2onnx.runtime.choose.parameters import SamplingKeywords, SamplingParameters
from sc2onnx.runtime.text.endings import Ending
from sc2onnx.runtime.text.lines import Lines

SpecialTokens = Literal["parse", "text"]
"""Whether special tokens spelt out in a prompt are taken as such, or as their characters."""

_MOST_PRIORITY: Final = 1000

_MOST_LIKELIEST: Final = 20
"""Tokens in a place whose log probabilities may be asked for."""

_MOST_SAMPLES: Final = 1024
"""Of one prompt, in one call."""

_MOST_SCALE: Final = 100.0
"""Of an adapter, either way."""


class GenerationKeywords(SamplingKeywords, total=False):
    """The keywords of :class:`GenerationOptions`, as type checkers see them."""

    max_new_tokens: int
    stop: str | Sequence[str] | None
    stop_tokens: Iterable[int] | None
    ends: Ending | Lines | None
    line_seconds: float | None
    logprobs: bool
    top_logprobs: int
    prompt_logprobs: bool
    heal: bool
    special_tokens: SpecialTokens
    timeout: float | None
    priority: int
    namespace: str | None
    prediction: str | None
    adapter: str | None
    adapter_scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions(SamplingParameters):
    """How to draw, when to end, and how the prompt is read.

    How tokens are drawn is said by the fields of
    :class:`~sc2onnx.runtime.choose.parameters.SamplingParameters`, such as ``temperature``; greedy
    by default. ``max_new_tokens``: tokens at most. ``seed``: the same gives the same tokens; each
    sample and each prompt of a list draws from a stream of its own, the first from that of a single
    prompt, and how many there are changes none of them. ``stop``: strings that end the text, not in
    it. ``stop_tokens`` replaces the default set: the checkpoint's end-of-text, ``<file_sep>`` and
    the fill-in-the-middle tokens. ``ends``: with the cursor's line (``"line"``); with the block
    that this line opens, or that it is in, before code that follows the cursor already
    (``"block"``); with the bracket that closes what is open on this line, or if none is, with the
    first line at whose end all brackets are closed (``"balanced"``); or as a
    :class:`~sc2onnx.runtime.text.lines.Lines` says. ``line_seconds``: after so many seconds of
    writing, it ends as soon as it has more than one line, as ``"timeout"``. ``logprobs``: nats of
    each token under the unfiltered model; nothing is computed ahead then. ``top_logprobs``: and of
    so many that were likeliest in its place, at most 20. ``prompt_logprobs``: and the same of the
    prompt's own tokens, all of which are computed anew then. ``heal``: take the end of a prompt
    that stops inside a word back, and choose its tokens again together with what follows
    (:mod:`sc2onnx.runtime.choose.healing`); ``text`` begins where the prompt ends, ``tokens`` with
    those that were chosen again. ``special_tokens``: whether ``<fim_prefix>`` and its like, spelt
    out in the prompt, are taken as the special token (``"parse"``) or as their characters
    (``"text"``, for text that is data). ``timeout``: seconds after which it ends with what there
    is. ``priority``: requests of a higher one go first. ``namespace``: whose request it is: what
    others left computed, and their texts, are not used for it, nor its own for them, so that nobody
    can tell by the time what others ask. ``prediction``: a text that the completion may be like,
    such as the code that it is to replace: where it is, several tokens are computed at once.
    ``adapter``: the name of one that ``model.load_adapter`` has loaded; None: the model as it is.
    ``adapter_scale``: what the adapter's part is multiplied by; 0 is without it.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    max_new_tokens: int = 128
    stop: str | Sequence[str] | None = None
    stop_tokens: Iterable[int] | None = None
    ends: Ending | Lines | None = None
    line_seconds: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    heal: bool = False
    special_tokens: SpecialTokens = "parse"
    timeout: float | None = None
    priority: int = 0
    namespace: str | None = None
    prediction: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0

    def __post_init__(self) -> None:
        SamplingParameters.__post_init__(self)  # super() does not know a class with slots
        object.__setattr__(
            self, "max_new_tokens", whole_number("max_new_tokens", self.max_new_tokens, 1)
        )
        object.__setattr__(self, "stop", stop_strings(self.stop))
        flag("logprobs", self.logprobs)
        most = _MOST_LIKELIEST
        object.__setattr__(
            self, "top_logprobs", whole_number("top_logprobs", self.top_logprobs, 0, most)
        )
        if self.top_logprobs and not self.logprobs:
            raise RequestError(
                f"top_logprobs is {self.top_logprobs} and logprobs is False, expected True with it"
            )
        if flag("prompt_logprobs", self.prompt_logprobs) and not self.logprobs:
            raise RequestError(
                "prompt_logprobs is True and logprobs is False, expected True with it"
            )
        if self.ends is not None and not isinstance(self.ends, Lines):
            one_of("ends", self.ends, get_args(Ending))
        _check_seconds("line_seconds", self.line_seconds)
        flag("heal", self.heal)
        one_of("special_tokens", self.special_tokens, get_args(SpecialTokens))
        most = _MOST_PRIORITY
        object.__setattr__(self, "priority", whole_number("priority", self.priority, -most, most))
        _check_seconds("timeout", self.timeout)
        optional_text("namespace", self.namespace)
        optional_text("prediction", self.prediction)
        optional_text("adapter", self.adapter)
        object.__setattr__(self, "adapter_scale", _scale(self.adapter_scale))

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Self:
        """The options of a call's keywords. Raises :class:`TypeError` for others."""
        check_keywords(cls, keywords)
        return cls(**keywords)

    @property
    def sampling(self) -> SamplingParameters:
        """How tokens are drawn."""
        names = [field.name for field in fields(SamplingParameters)]
        return SamplingParameters(**{name: getattr(self, name) for name in names})


def sample_count(n: object) -> int:
    """How many samples of each prompt are asked for: ``n`` of them, or one."""
    return 1 if n is None else whole_number("n", n, 1, _MOST_SAMPLES)


def _scale(value: object) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not abs(value) <= _MOST_SCALE:  # type: ignore[arg-type]
        raise RequestError(
            f"adapter_scale is {shown(value)}, expected a number up to {_MOST_SCALE:g}"
        )
    return float(value)  # type: ignore[arg-type]


def _check_seconds(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):  # type: ignore[operator]
        raise RequestError(f"{name} is {shown(value)}, expected seconds, more than 0, or None")


def owner_of(namespace: str | None, adapted: Adapted | None) -> Hashable:
    """Whose caches serve a request: those of its namespace that were computed with its adapter."""
    return namespace if adapted is None else (namespace, *adapted.key)


@dataclass(frozen=True, slots=True)
class GenerationRules:
    """What of the options a row goes by. ``stop_tokens``: all that end it; ``prediction``: as
    tokens; ``adapted``: with which adapter.
    """

    max_new_tokens: int
    sampling: SamplingParameters
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    logprobs: bool = False
    line_seconds: float | None = None
    top_logprobs: int = 0
    namespace: str | None = None
    prediction: tuple[int, ...] = ()
    prompt_logprobs: bool = False
    adapted: Adapted | None = None

    @property
    def owner(self) -> Hashable:
        """See :func:`owner_of`."""
        return owner_of(self.namespace, self.adapted)

    def __post_init__(self) -> None:
        most = whole_number("max_new_tokens", self.max_new_tokens, 1)
        object.__setattr__(self, "max_new_tokens", most)  # numpy's small integers overflow
        stop_strings(self.stop)
        flag("logprobs", self.logprobs)
