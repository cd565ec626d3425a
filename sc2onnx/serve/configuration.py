"""What a server is told at its start: by a file, by the environment and by flags."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from string import Template
from typing import Any, Final, Literal, get_args, get_type_hints

import msgspec

from sc2onnx.attribution.attribution import Attribution
from sc2onnx.attribution.repetitions import USUAL_FILES, USUAL_LEAST
from sc2onnx.bundle.hub import is_id
from sc2onnx.errors import RequestError
from sc2onnx.runtime.ort.kernels import CacheType, Use
from sc2onnx.serve.settings import Settings, Traces

LogFormat = Literal["text", "json"]
"""How lines of the log look."""

PREFIX: Final = "SC2ONNX_SERVE_"
"""What names of environment variables begin with that stand for a key."""

_USUAL: Final = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything that ``sc2onnx serve`` can be told; each field is a key of its file.

    ``models``: bundles, directories or hub ids, by the names that they go by, the first of them
    where a request names none. ``adapters`` of the first of them, by the names that they go by as
    models. ``device`` to ``speculate``: of each of them, see
    :class:`~sc2onnx.runtime.load_options.LoadOptions`. ``workers``: processes that serve, each on
    cores of its own (:mod:`sc2onnx.fleet`). ``key_files``: files of keys, one a line.
    ``attribution``: the file of an index, ``least_repeated`` and ``most_files``: see
    :class:`~sc2onnx.attribution.repetitions.Rules`. ``log``: how lines of the log look. The others:
    see :class:`~sc2onnx.serve.settings.Settings`.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    models: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    threads: int | None = None
    kernels: Use = "auto"
    cache_type: CacheType = "auto"
    max_batch: int = 8
    prefix_memory: int | None = None
    speculate: bool | None = None
    workers: int = 1
    host: str = _USUAL.host
    port: int = _USUAL.port
    key_files: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    waiting: int = _USUAL.waiting
    queue_seconds: float = _USUAL.queue_seconds
    connections: int = _USUAL.connections
    most_tokens: int = _USUAL.most_tokens
    most_prompts: int = _USUAL.most_prompts
    most_samples: int = _USUAL.most_samples
    most_stops: int = _USUAL.most_stops
    body_bytes: int = _USUAL.body_bytes
    patience: float = _USUAL.patience
    drain_seconds: float = _USUAL.drain_seconds
    heal: bool = _USUAL.heal
    rewrite_fim: bool = _USUAL.rewrite_fim
    page: bool = _USUAL.page
    traces: Traces = _USUAL.traces
    attribution: str | None = None
    least_repeated: int = USUAL_LEAST
    most_files: int = USUAL_FILES
    log: LogFormat = "text"
    log_prompts: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise RequestError(f"workers is {self.workers}, expected 1 or more")
        if both := set(self.models) & set(self.adapters):
            found = f"{min(both)!r} is the name of a model and of an adapter"
            raise RequestError(f"{found}, expected a name for each: rename one")

    def settings(self, keys: tuple[str, ...]) -> Settings:
        """How the server stands to the outside, with the keys that the files have. Raises
        :class:`~sc2onnx.errors.RequestError` for values that are out of bounds, and for an index
        that cannot be opened.
        """
        same = {each.name for each in fields(Settings)} & set(_TYPES) - {"attribution"}
        given = {name: getattr(self, name) for name in same}
        attribution = self._attribution()
        return Settings(keys=keys, hosts=self.allowed_hosts, attribution=attribution, **given)

    def _attribution(self) -> Attribution | None:
        if self.attribution is None:
            return None
        return Attribution.open(self.attribution, self.least_repeated, self.most_files)


Given = dict[str, Any]
"""Some of the fields of :class:`Configuration`, checked."""


def configured(*layers: Given) -> Configuration:
    """The configuration that these make together: in each field the first that has it wins."""
    merged = dict[str, Any]()
    for layer in reversed(layers):
        merged |= layer
    return Configuration(**merged)


def of_file(path: Path, text: str, environment: Mapping[str, str]) -> Given:
    """What a TOML file says. Relative paths in it are relative to it, and ``$NAME`` in those of
    ``key_files`` is a variable of the environment, such as ``$CREDENTIALS_DIRECTORY``.

    Raises :class:`~sc2onnx.errors.RequestError` for a key that is none, and for a value of a wrong
    type.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise RequestError(f"{path} is not TOML ({wrong}): correct it") from None
    given = of_mapping(str(path), found)
    folder = path.parent
    if "models" in given:
        given["models"] = {name: _bundle(folder, each) for name, each in given["models"].items()}
    if "adapters" in given:
        given["adapters"] = {name: str(folder / each) for name, each in given["adapters"].items()}
    if "key_files" in given:
        filled = [_filled(path, each, environment) for each in given["key_files"]]
        given["key_files"] = tuple(str(folder / each) for each in filled)
    if given.get("attribution") is not None:
        given["attribution"] = str(folder / given["attribution"])
    return given


def of_mapping(source: str, found: Mapping[str, Any]) -> Given:
    """What a mapping says, such as a file that was read; ``source`` is named in errors.

    Raises :class:`~sc2onnx.errors.RequestError` for a key that is none, and for a value of a wrong
    type.
    """
    return {key: _typed(source, _known(source, key), value) for key, value in found.items()}


def of_environment(environment: Mapping[str, str]) -> Given:
    """What variables ``SC2ONNX_SERVE_<KEY>`` say; lists are separated by commas, models are
    ``NAME=BUNDLE,NAME=BUNDLE``, and adapters are as well.

    Raises :class:`~sc2onnx.errors.RequestError` for one that stands for no key, and for a value
    of a wrong type.
    """
    given: Given = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == f"{PREFIX}CONFIG":
            continue
        source = f"{variable} in the environment"
        key = _known(source, variable.removeprefix(PREFIX).lower(), _variable)
        given[key] = _typed(source, key, _parted(source, key, value), strict=False)
    return given


def named(
    models: Iterable[str],
    source: str,
    first: Mapping[str, str] | None = None,
    what: str = "BUNDLE",
) -> dict[str, str]:
    """Bundles by name, of texts ``NAME=BUNDLE``, after those that have their names already; or
    ``what`` else is named. Raises :class:`~sc2onnx.errors.RequestError`.
    """
    found = dict(first or {})
    for given in models:
        name, equals, bundle = given.partition("=")
        if not (name and equals and bundle) or name in found:
            raise RequestError(f"{source} is {given!r}, expected NAME={what}, each name once")
        found[name] = bundle
    return found


_TYPES: Final = get_type_hints(Configuration)


def _variable(key: str) -> str:
    return PREFIX + key.upper()


def _known(source: str, key: str, spelt: Callable[[str], str] = str) -> str:
    if key in _TYPES:
        return key
    near = get_close_matches(key, _TYPES, 1, 0.5)
    remedy = f"did you mean {spelt(near[0])}?" if near else "docs/serving.md lists what there is"
    raise RequestError(f"{source}: {key[:60]!r} is not known: {remedy}")


def _typed(source: str, key: str, value: Any, *, strict: bool = True) -> Any:
    """A value as the field has it. Without ``strict``, texts may stand for numbers."""
    try:
        return msgspec.convert(value, _TYPES[key], strict=strict)
    except msgspec.ValidationError as wrong:
        expected = str(wrong).replace("Expected", "expected", 1)
        if key in _CHOICES:
            expected = f"expected one of {', '.join(get_args(_TYPES[key]))}"
        raise RequestError(f"{source}: {key} is {repr(value)[:60]}, {expected}") from None


_CHOICES: Final = ("kernels", "cache_type", "traces", "log")


def _parted(source: str, key: str, value: str) -> Any:
    if key not in ("models", "adapters", "key_files", "allowed_hosts", "origins"):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if key == "adapters":
        return named(parts, source, what="DIR")
    return named(parts, source) if key == "models" else parts


def _bundle(folder: Path, bundle: str) -> str:
    """A bundle of a file: beside it, or of the hub where the text is an id and there is none."""
    beside = folder / bundle
    return bundle if is_id(bundle) and not beside.exists() else str(beside)


def _filled(source: Path, path: str, environment: Mapping[str, str]) -> str:
    try:
        return Template(path).substitute(environment)
    except KeyError as missing:
        told = f"key_files names ${missing.args[0]}, which is not set: set it"
    except ValueError:
        told = f"key_files has {path!r}, expected the name of a variable after $"
    raise RequestError(f"{source}: {told}")
