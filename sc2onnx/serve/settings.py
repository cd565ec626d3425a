"""How a server stands to the outside: whom it lets in, and how much it takes of them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal

from sc2onnx.attribution.attribution import Attribution
from sc2onnx.errors import RequestError

_SIZES: Final = (
    "body_bytes",
    "most_tokens",
    "most_prompts",
    "most_samples",
    "most_stops",
    "waiting",
    "connections",
)


Traces = Literal["off", "otlp", "console"]
"""Where traces of requests go (:mod:`sc2onnx.serve.tracing`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of a server.

    ``host`` and ``port``: where it listens. ``keys``: one of them must come with each request, none
    where it is empty, which only a loopback address may do. ``hosts``: names that requests may call
    the server by, besides loopback ones; ``origins``: web pages that may ask, none by default.
    ``body_bytes``: of a request. ``most_tokens``, ``most_prompts``, ``most_samples``,
    ``most_stops``: what one request may ask for. ``waiting``: requests under way, beyond which
    others are told to come later; ``queue_seconds``: that one waits at most for its first step;
    ``connections``: open at once. ``patience``: seconds that a client may take to send its body,
    and to take a part of an answer. ``drain_seconds``: that requests have to end in when the server
    does. ``log_prompts``: whether the log has what requests go on from. ``heal``: whether a cursor
    inside a word is completed as if the word were whole (:mod:`sc2onnx.runtime.choose.healing`).
    ``rewrite_fim``: whether prompts for the middle that are spelt out in special tokens are taken
    apart, and put together so that typing reuses what is computed. ``page``: whether browsers are
    shown a page at ``/``. ``traces``: where traces of requests go. ``attribution``: an index,
    whose files answers are compared with; None: none.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    host: str = "127.0.0.1"
    port: int = 8012
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body_bytes: int = 4 << 20
    most_tokens: int = 4096
    most_prompts: int = 16
    most_samples: int = 8
    most_stops: int = 16
    waiting: int = 64
    queue_seconds: float = 30.0
    connections: int = 256
    patience: float = 30.0
    drain_seconds: float = 10.0
    log_prompts: bool = False
    heal: bool = True
    rewrite_fim: bool = True
    page: bool = True
    traces: Traces = "off"
    attribution: Attribution | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name, least in (("patience", 0.1), ("queue_seconds", 0.1), ("drain_seconds", 0.0)):
            if not least <= getattr(self, name) <= _LONGEST:
                raise RequestError(
                    f"{name} is {getattr(self, name)}, expected {least} to {_LONGEST} seconds"
                )
        if not 0 <= self.port <= 65535:
            raise RequestError(f"port is {self.port}, expected 0 to 65535 (0: any that is free)")
        if any(len(key) < _LEAST_KEY for key in self.keys):
            raise RequestError(f"a key has fewer than {_LEAST_KEY} characters: use a longer one")
        if not self.keys and not is_loopback(self.host):
            raise RequestError(
                f"the server would listen on {self.host} without a key, and whoever reaches it "
                "could use it: give a key (--key-file FILE), or listen on 127.0.0.1"
            )


_LEAST_KEY: Final = 8
_LONGEST: Final = 3600.0


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
