"""Tabby's completions, health and settings, as its editor agent asks for them."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType, field, json

from sc2onnx import __version__
from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.runtime.results import Completion
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Answer, Ask
from sc2onnx.serve.dialects.common import PATH
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

_TOKENS = 64
"""Of a completion, as its own server gives."""

_MOST_SNIPPETS = 64

_PROMPT_SECONDS: Final = 0.5
"""That a prompt may take, after which hardly anybody looks at an editor's completion."""


SPOKEN: Final = "0.18.0"
"""Whose paths these are: the agent asks for settings, telemetry among them, from 0.9.0 on."""


class Snippet(Struct):
    """Code of another file."""

    filepath: Annotated[str, Meta(max_length=PATH)] = ""
    body: str = ""


class Segments(Struct):
    """The code around the cursor, and what the editor knows of other files."""

    prefix: str
    suffix: str | None = None
    filepath: Annotated[str, Meta(max_length=PATH)] | None = None
    git_url: Annotated[str, Meta(max_length=PATH)] | None = None
    declarations: list[Snippet] | None = None
    relevant_snippets_from_changed_files: list[Snippet] | None = None
    relevant_snippets_from_recently_opened_files: list[Snippet] | None = None


class Body(Struct):
    """A request to the path that OpenAI's completions have too, where
    ``segments`` tell it apart.
    """

    segments: Segments
    user: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    seed: int | None = None
    mode: str | None = None
    language: str | None = None


class Event(Struct):
    """What the editor tells of completions that were shown or taken. Nothing is kept of it."""

    kind: str | None = field(name="type", default=None)


def is_meant(raw: bytes) -> bool:
    """Whether a body is this dialect's: it has ``segments``. One that is no JSON is nobody's."""
    if b'"segments"' not in raw:
        return False
    try:
        return _PROBE.decode(raw).segments is not UNSET
    except (DecodeError, RecursionError):
        return False


class _Probe(Struct):
    segments: Raw | UnsetType = UNSET


_PROBE: Final = json.Decoder(_Probe)


def ask(body: Body, settings: Settings) -> Ask:
    """What a body asks for: other files first, what was changed last nearest to the cursor.

    A newer request of the same user for the same file takes the place of this one.
    """
    given = body.segments
    groups = (
        given.declarations,
        given.relevant_snippets_from_recently_opened_files,
        given.relevant_snippets_from_changed_files,
    )
    snippets = [snippet for group in groups for snippet in group or ()]
    if len(snippets) > _MOST_SNIPPETS:
        raise RefusedError(
            400,
            f"segments has {len(snippets)} snippets, expected at most {_MOST_SNIPPETS}",
            param="segments",
        )
    code = Surroundings(given.prefix, given.suffix or "", given.filepath, None, _files(snippets))
    options = GenerationKeywords(
        max_new_tokens=min(_TOKENS, settings.most_tokens),
        temperature=body.temperature or 0.0,
        seed=None if body.seed is None else body.seed % 2**63,
        ends="block",
    )
    replaces = None if body.user is None else (body.user, given.filepath)
    return Ask((code,), options, replaces=replaces, prompt_seconds=_PROMPT_SECONDS)


def _files(snippets: Iterable[Snippet]) -> dict[str, str]:
    """Code by file; several snippets of one follow each other."""
    files = dict[str, str]()
    for snippet in snippets:
        path = snippet.filepath or "snippet"
        files[path] = f"{files[path]}\n{snippet.body}" if path in files else snippet.body
    return files


def answer(number: str, body: Body, done: Sequence[Completion], marks: Sequence[Answer]) -> Answer:
    """Completions as the agent has them. ``marks``: further fields of each."""
    pairs = zip(done, marks, strict=True)
    choices = [
        {"index": index, "text": each.text, **more} for index, (each, more) in enumerate(pairs)
    ]
    return {"id": number, "choices": choices, "mode": body.mode or "standard"}


def health(model: str, device: str, threads: int) -> Answer:
    """What the agent wants to know of a server."""
    version = {
        "build_date": "",
        "build_timestamp": "",
        "git_sha": "",
        "git_describe": f"v{SPOKEN}-sc2onnx-{__version__}",
    }
    return {
        "model": model,
        "device": device,
        "arch": platform.machine(),
        "cpu_info": platform.processor() or platform.machine(),
        "cpu_count": threads,
        "cuda_devices": [],
        "version": version,
    }
