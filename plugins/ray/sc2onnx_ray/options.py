"""What the application is told: ``args`` of ``serve.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec

from sc2onnx.cli.outputs import read_keys
from sc2onnx.errors import RequestError
from sc2onnx.serve.configuration import Configuration, configured, of_mapping
from sc2onnx.serve.settings import Settings

_NOT_HERE: Final = {
    "host": "http_options of serve.yaml, or serve.start, say where it listens",
    "port": "http_options of serve.yaml, or serve.start, say where it listens",
    "workers": "replicas says how many there are",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that the application can be told.

    ``configuration``: what each engine serves, by the keys of ``sc2onnx serve --config``. The
    others are keys of the application: ``replicas``: engines, or with ``most_replicas`` the fewest
    of them, and Ray has as many as queues and caches call for. ``cores``: of each engine, which are
    its own where the number is whole (``pin``). ``gpus``: of each. ``fronts``: processes that take
    requests.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    configuration: Configuration = field(default_factory=Configuration)
    replicas: int = 1
    most_replicas: int | None = None
    cores: float = 1.0
    gpus: float = 0.0
    fronts: int = 1
    pin: bool = True

    def __post_init__(self) -> None:
        if not self.configuration.models:
            raise RequestError(
                "models is empty, expected bundles by name: models: {mini: /path/to/bundle}"
            )
        for name, least in (("replicas", 1), ("fronts", 1), ("cores", 0.01), ("gpus", 0.0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.most_replicas is not None and self.most_replicas < self.replicas:
            raise RequestError(
                f"most_replicas is {self.most_replicas}, expected {self.replicas} or more"
            )

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> Options:
        """What ``args`` say. Raises :class:`~sc2onnx.errors.RequestError`."""
        for name, remedy in _NOT_HERE.items():
            if name in args:
                raise RequestError(f"args: {name} is not for here: {remedy}")
        own = {name: value for name, value in args.items() if name in _OWN}
        others = {name: value for name, value in args.items() if name not in _OWN}
        for name in others.keys() - _SERVERS:
            if near := get_close_matches(name, _OWN, 1, 0.8):
                raise RequestError(f"args: {name!r} is not known: did you mean {near[0]}?")
        given = {name: _typed(name, value) for name, value in own.items()}
        return cls(configuration=configured(of_mapping("args", others)), **given)

    @property
    def engine(self) -> Options:
        """What matters to one engine or front. Ray starts those anew whose arguments change, caches
        and all, so that how many there are is none of them.
        """
        return replace(self, replicas=1, most_replicas=None, fronts=1)

    @property
    def threads(self) -> int:
        """Threads of an engine: one for each of its cores."""
        given = self.configuration.threads
        return max(1, int(self.cores)) if given is None else given

    def settings(self) -> Settings:
        """How the server stands to the outside. Without keys it is for this machine's programs
        only, by whatever address Ray listens. Raises :class:`~sc2onnx.errors.RequestError`.
        """
        keys = read_keys([Path(each) for each in self.configuration.key_files])
        host = "0.0.0.0" if keys else "127.0.0.1"  # noqa: S104 - a key protects it
        return replace(self.configuration, host=host).settings(keys)


_TYPES: Final = get_type_hints(Options)
_OWN: Final = frozenset(_TYPES) - {"configuration"}
_SERVERS: Final = frozenset(get_type_hints(Configuration))


def _typed(name: str, value: Any) -> Any:
    try:
        return msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError as wrong:
        expected = str(wrong).replace("Expected", "expected", 1)
        raise RequestError(f"args: {name} is {repr(value)[:60]}, {expected}") from None
