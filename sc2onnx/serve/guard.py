"""Who may ask: looked at before anything else of a request is.

A web page can have its visitor's browser send requests to this machine. So the name by which it
is called is checked (a page's own name may be made to point here), pages that are not listed
get no answer that their browser shows them, and what a page may send without asking first, a
form or plain text, is refused.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sc2onnx.serve.ask import Answer
from sc2onnx.serve.dialects import ollama
from sc2onnx.serve.entry import entry_of
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.replies import error, refused
from sc2onnx.serve.settings import Settings, is_loopback

LOG: Final = logging.getLogger("sc2onnx.serve")

_PAGE: Final = {"/", "/page.js", "/page.css", "/page.svg", "/page.licenses.txt"}
OPEN: Final = frozenset({"/health", "/livez", "/v2/health/live", "/v2/health/ready", *_PAGE})
"""Paths that need no key: nothing can be asked for there.
The page asks by others, with its visitor's key.
"""

_CORS: Final = {
    "access-control-allow-headers": "authorization, content-type, x-api-key",
    "access-control-allow-methods": "GET, POST",
}


class Guard:
    """Lets requests through that may be answered, and as many at once as there may be."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the specification of ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        allowed = cors(self._settings, headers.get("origin"))
        try:
            self._check(scope, headers)
        except RefusedError as refusal:
            await refusing(scope["path"], refusal)(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=allowed)(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(allowed)
            # who does not read holds what others wait for
            async with asyncio.timeout(self._settings.patience):
                await send(message)

        self._open += 1
        try:
            await self._app(scope, receive, sending)
        except TimeoutError:
            LOG.info("a client does not read its answer: it is not waited for")
        finally:
            self._open -= 1

    def _check(self, scope: Scope, headers: Headers) -> None:
        method = scope["method"]
        self._check_name(headers)
        origin = headers.get("origin")
        if (
            origin is not None
            and origin not in self._settings.origins
            and not _same(origin, headers)
        ):
            raise RefusedError(
                403,
                "pages of that origin may not ask: list it (--origin) if they are yours",
                "permission_error",
            )
        if scope["path"] not in OPEN and method != "OPTIONS":
            entry_of(scope).key = self._check_key(headers)
        if method == "POST" and not (_is_json(headers) or _no_browser(headers)):
            shown = repr(headers.get("content-type", "")[:100])
            raise RefusedError(
                415,
                f"the body's Content-Type is {shown}, expected application/json",
                "invalid_request_error",
            )
        if self._open >= self._settings.connections:
            raise RefusedError(
                503,
                "the server has as many requests open as it takes",
                "unavailable_error",
                retry_after=1,
            )

    def _check_name(self, headers: Headers) -> None:
        if not is_loopback(self._settings.host) and not self._settings.hosts:
            return
        name = _name(headers.get("host", "")).lower().rstrip(".")
        if not is_loopback(name) and name not in self._settings.hosts:
            raise RefusedError(
                403,
                "the server does not go by that name: list it (--allowed-host) if it is its own",
                "permission_error",
            )

    def _check_key(self, headers: Headers) -> int | None:
        """The number of the key, None where none is asked for."""
        number = key_number(self._settings, headers)
        if self._settings.keys and number is None:
            raise RefusedError(
                401,
                "the key is missing or wrong: send it as Authorization: Bearer KEY",
                "authentication_error",
            )
        return number


def refusing(path: str, refusal: RefusedError) -> Response:
    """A request that is not answered, as the dialect of its path tells of it.

    Clients of Ollama and of the Open Inference Protocol read an ``error``
    that is a text, and no other.
    """
    return refused(refusal, told_of(path, refusal))


def told_of(path: str, refusal: RefusedError) -> Answer:
    """A refusal in JSON, as the dialect of a path tells of it."""
    return ollama.error(refusal) if path.startswith(("/api/", "/v2")) else error(refusal)


def key_number(settings: Settings, headers: Headers) -> int | None:
    """Which of the keys a request brings. It takes as long whichever it is."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = (token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")).encode()
    right = [hmac.compare_digest(given, key.encode()) for key in settings.keys]
    return right.index(True) if any(right) else None


def cors(settings: Settings, origin: str | None) -> dict[str, str]:
    """Headers that let a listed page's script read an answer."""
    if origin is None or origin not in settings.origins:
        return {}
    return {"access-control-allow-origin": origin, "vary": "origin", **_CORS}


def _name(host: str) -> str:
    """A host without its port: [::1]:80 is [::1]."""
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.rsplit(":", 1)[0] if ":" in host else host


def _same(origin: str, headers: Headers) -> bool:
    """Whether a page is the server's own."""
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and host == headers.get("host")


def _no_browser(headers: Headers) -> bool:
    """Whether a body without a type comes from a program: pages' requests bring their origin."""
    return "content-type" not in headers and not {
        "origin",
        "sec-fetch-site",
        "sec-fetch-mode",
    } & set(headers.keys())


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"
