"""Fill-in-the-middle prompts of a size: what of the code around a cursor, and of other files, goes
in.

What is farthest from the cursor goes first. The file that is edited has at least half of the room;
what it leaves, the other files take, and the other way round. Of the other files the last one is
next to the cursor: the first ones are left out, and of the one that fits in part the end stays.
Cuts fall on line breaks where they can, and in steps of a sixteenth of the room, so that they stay
where they are while somebody types and the start of the prompt need not be computed again.

Worked example, room for 1000 tokens: a file of 300 and others of 200 and 600 before it. 300 and 600
fit, 100 are left for the end of the file of 200, less what its path takes. A file of 3000 instead
has 500, and of the one of 600 about 500 stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from sc2onnx.errors import ContextLengthError, RequestError
from sc2onnx.runtime.arguments import shown
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.fim import FimOrder, cut_around, fim_prompt, last_tokens

LEAST: Final = 16
"""Tokens of code around the cursor below which an answer means nothing."""

_STEPS: Final = 16
"""Cuts move by the room over this."""

_MERGED: Final = 8
"""Tokens that a prompt may have less than its parts, which end where a token need not."""

_CHARACTERS: Final = 32
"""Characters of a token that are looked at: tokens of code have 3 on average, and few have more
than 16.
"""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The code around a cursor: before it, after it, the file's path, the repository's name, and
    other files (path -> code).

    ``cut``: whether this is less than was given, because it would not have fitted.
    """

    prefix: str
    suffix: str
    path: str | None = None
    repo: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False

    @property
    def characters(self) -> int:
        """Of all the code."""
        return len(self.prefix) + len(self.suffix) + sum(map(len, self.files.values()))

    @property
    def texts(self) -> tuple[str, ...]:
        """All the code: before the cursor, after it, and that of other files."""
        return (self.prefix, self.suffix, *self.files.values())

    def prompt(self, codec: Codec, order: FimOrder) -> list[int]:
        """Token ids of the fill-in-the-middle prompt, all of it."""
        return fim_prompt(
            codec, self.prefix, self.suffix, self.path, self.repo, self.files, order=order
        )


def fitted(
    codec: Codec, code: Surroundings, budget: int, order: FimOrder = "psm"
) -> tuple[list[int], Surroundings]:
    """A prompt of at most ``budget`` tokens, and what of the code is in it: all of it, where that
    fits.

    Raises :class:`RequestError` where the budget does not take what must be in it, and
    :class:`EmptyPromptError`.
    """
    sized = _Sized.of(codec, code, budget)
    fixed = len(fim_prompt(codec, "x", "", code.path, code.repo, order=order)) - 1
    if sized.whole and sized.tokens + fixed <= budget + _MERGED:
        prompt = code.prompt(codec, order)
        if len(prompt) <= budget:
            return prompt, code
    room = budget - fixed
    while room >= LEAST:
        kept = sized.cut(room)
        prompt = kept.prompt(codec, order)
        if len(prompt) <= budget:
            return prompt, kept
        room -= len(prompt) - budget  # a text cut in two may take a few tokens more than it did
    raise RequestError(
        f"the prompt may have {budget} tokens (prompt_tokens), expected at least {fixed + LEAST}: "
        f"the marks of its parts, the path and the repository take {fixed}, the code around the "
        f"cursor {LEAST} or more"
    )


def budget_of(context: int, max_new_tokens: int, prompt_tokens: int | None) -> int:
    """Tokens that a prompt may have: so many as were asked for, or what the context leaves to it.

    Room is kept for the answer, of which ``max_new_tokens`` is only the limit: a quarter of the
    context at most. Raises :class:`ContextLengthError` for more than the context.
    """
    if prompt_tokens is None:
        return context - min(max_new_tokens, context // 4)
    if prompt_tokens > context:
        raise ContextLengthError(
            f"prompt_tokens is {shown(prompt_tokens)}, the model's context holds "
            f"{context}: ask for less"
        )
    return prompt_tokens


@dataclass(frozen=True, slots=True)
class _File:
    """A file, what of its code is looked at, and the tokens of both."""

    path: str
    code: str
    tokens: list[int]

    @property
    def size(self) -> int:
        """Tokens that it takes, with the one that begins a file."""
        return 1 + len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Sized:
    """Code around a cursor, and the tokens of what may matter of it: the files nearest first.
    ``whole``: that is all of it.
    """

    codec: Codec
    code: Surroundings
    near: tuple[str, str]
    before: list[int]
    after: list[int]
    files: list[_File]
    whole: bool

    @classmethod
    def of(cls, codec: Codec, code: Surroundings, budget: int) -> _Sized:
        """Each text is tokenized once, no more of it than may matter to ``budget`` tokens."""
        near = (_end(code.prefix, budget), code.suffix[: budget * _CHARACTERS])
        before, after = (codec.encode(text, special=False) for text in near)
        files, tokens = list[_File](), 0
        for path, whole in reversed(list(code.files.items())):
            looked_at = _end(whole, budget)
            files.append(
                _File(path, looked_at, codec.encode(f"{path}\n{looked_at}", special=False))
            )
            tokens += files[-1].size
            if tokens > budget:
                break
        seen = sum(len(file.code) for file in files) + len(near[0]) + len(near[1])
        complete = len(files) == len(code.files) and seen == code.characters
        return cls(codec, code, near, before, after, files, complete)

    @property
    def tokens(self) -> int:
        """Of all of it."""
        return len(self.before) + len(self.after) + sum(file.size for file in self.files)

    def cut(self, room: int) -> Surroundings:
        """What of the code takes about ``room`` tokens."""
        step = max(1, room // _STEPS)
        others = max(room // 2, room - len(self.before) - len(self.after))
        files, used = self._nearest_files(others - others % step)
        prefix, suffix = cut_around(
            self.codec, self.near, (self.before, self.after), room - used, step
        )
        return replace(self.code, prefix=prefix, suffix=suffix, files=files, cut=True)

    def _nearest_files(self, room: int) -> tuple[dict[str, str], int]:
        """The files that take at most ``room`` tokens, the farthest of them in part, and the tokens
        that they take.
        """
        kept, used = dict[str, str](), 0
        for file in self.files:
            if used + file.size <= room and file.code == self.code.files[file.path]:
                kept[file.path], used = file.code, used + file.size
                continue
            left = room - used - 1 - len(self.codec.encode(f"{file.path}\n", special=False))
            end = last_tokens(self.codec, file.tokens, left) if left >= LEAST else ""
            if end and file.code.endswith(end):  # else it would reach into the path
                kept[file.path] = end
                used += 1 + len(self.codec.encode(f"{file.path}\n{end}", special=False))
            break
        return dict(reversed(kept.items())), used


def _end(text: str, tokens: int) -> str:
    """The end of a text that may matter to so many tokens; where it begins moves in steps, while
    the text grows.
    """
    most = tokens * _CHARACTERS
    step = max(1, most // _STEPS)
    return text[max(0, -(-(len(text) - most) // step) * step) :]
