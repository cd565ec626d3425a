"""Which file a request is about, by what it brings: requests for one file should meet one cache.

Some clients name the file. Most send only the code around the cursor, which differs with every
key. So a file is known by its lines: of all runs of three lines the few with the smallest hashes
stand for it (bottom-k sketches, Broder 1997). A key changes the run at the cursor, which is left
out, and a new line is among the smallest of n with a chance of 1 in n. A conversation is known by
its first question, and what stands before it.

Worked example: 200 lines, four sketches. One more line replaces the first sketch with a chance of
0.5 %, and even then the other three are those that the request before had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from heapq import nsmallest
from typing import Any, Final

import msgspec

from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.dialects.spelt import parts

SESSION: Final = "x-session-id"
"""The header by which a client may say which of its requests belong together."""

SKETCHES: Final = 4
"""Hashes that stand for a file."""

BEFORE: Final = 512
"""Lines before the cursor that are looked at."""

AFTER: Final = 128
"""Lines after the cursor that are looked at."""

_RUN: Final = 3
"""Lines that are hashed together: a single one, such as an import, is in many files."""

_TOKENS: Final = 16
"""Tokens that are hashed together, of prompts that are tokenized already."""

_OPENING: Final = 8
"""Messages that are looked at for the first question."""

_CHARACTERS: Final = 1 << 16
"""Of each of these texts."""

Keys = tuple[int, ...]
"""Numbers of 64 bits that stand for a client's file: the first one decides which member it goes to,
and where it is not known, another may be.
"""


class _Segments(msgspec.Struct):
    prefix: str = ""
    suffix: str | None = None
    filepath: str | None = None
    git_url: str | None = None


class _Body(msgspec.Struct):
    """What of a request's body tells the file, by the names of all dialects."""

    model: str = ""
    user: str | None = None
    prompt: Any = None
    suffix: str | None = None
    text_input: str | None = None
    parameters: Any = None
    input_prefix: str | None = None
    input_suffix: str | None = None
    segments: _Segments | None = None
    lora: Any = None
    messages: Any = None


_BODY: Final = msgspec.json.Decoder(_Body)


def keys(body: bytes, client: str = "") -> Keys:
    """The keys of a request.

    ``body``: its JSON, of any dialect. ``client``: tells apart who asks, such as the number of an
    API key or the header :data:`SESSION`. A body that cannot be read has the keys of its client;
    the member says what is wrong with it.
    """
    try:
        found = _BODY.decode(body) if body else _Body()
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        found = _Body()
    adapter = repr(found.lora) if found.lora else ""  # its caches are its own
    owner = f"{client}\0{found.user or ''}\0{found.model}{adapter}"
    given = found.segments
    if given is not None and given.filepath and (given.git_url or found.user or client):
        return (_hash(f"{owner}\0{given.git_url or ''}\0{given.filepath}"),)
    if spoken := _opening(found.messages):
        return (_hash(f"{owner}\0{spoken}"),)
    sketches = nsmallest(SKETCHES, {_hash(run) for run in _runs(found)})
    return tuple(_hash(f"{owner}\0{each}") for each in sketches) or (_hash(owner),)


def _opening(messages: Any) -> str:
    """A conversation up to its first question, which all of its turns have; empty for none."""
    if not isinstance(messages, list):
        return ""
    opening = list[str]()
    for message in messages[:_OPENING]:
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else part
            opening.append(text[:_CHARACTERS] if isinstance(text, str) else "")
        if message.get("role") == "user":
            break
    return "\0".join(opening)


def _runs(body: _Body) -> Iterator[str]:
    """Consecutive lines of the file, or tokens of a prompt that has no lines."""
    prompt = body.prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list):
        return _token_runs(prompt)
    return _line_runs(*_around(body, prompt if isinstance(prompt, str) else ""))


def _around(body: _Body, prompt: str) -> tuple[str, str]:
    """The code before the cursor, and after it."""
    if body.segments is not None:
        return body.segments.prefix, body.segments.suffix or ""
    if body.input_prefix is not None or body.input_suffix is not None:
        return (body.input_prefix or "") + prompt, body.input_suffix or ""
    prompt, suffix = prompt or body.text_input or "", body.suffix
    if isinstance(body.parameters, dict) and isinstance(body.parameters.get("suffix"), str):
        suffix = body.parameters["suffix"]
    if suffix:
        return prompt, suffix
    found = parts(prompt)
    return (found.prefix, found.suffix) if isinstance(found, Surroundings) else (found, "")


def _line_runs(prefix: str, suffix: str) -> Iterator[str]:
    for part in (prefix.split("\n")[:-1][-BEFORE:], suffix.split("\n")[1 : AFTER + 1]):
        lines = [line for line in map(str.strip, part) if line]
        for first in range(max(1, len(lines) - _RUN + 1)) if lines else ():
            yield "\n".join(lines[first : first + _RUN])


def _token_runs(prompt: Sequence[Any]) -> Iterator[str]:
    for first in range(0, len(prompt) - _TOKENS + 1, _TOKENS):
        yield repr(prompt[first : first + _TOKENS])


def _hash(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def client_of(headers: Mapping[str, str], key: int | None) -> str:
    """Who asks, as :func:`keys` takes it. ``key``: the number of the API key, None without one."""
    return headers.get(SESSION, "")[:_LONGEST] + ("" if key is None else f"\0{key}")


_LONGEST: Final = 200
