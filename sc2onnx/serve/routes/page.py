"""The page at ``/`` and its files: they are read once, and hold nothing that a key would keep."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sc2onnx.serve.exchange import Exchange

FILES: Final = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.svg": "image/svg+xml",
    "page.licenses.txt": "text/plain; charset=utf-8",
}
"""Files of the page and their types. ``page/`` of the repository has their sources."""

_TEXT: Final = "sc2onnx is running"

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS: Final = {
    "cache-control": "no-cache",  # a newer server's page is seen at once
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept, accept-encoding",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it is sent. ``tag``: changes with its bytes."""

    kind: str
    plain: bytes
    zipped: bytes
    tag: str

    @classmethod
    def read(cls, name: str) -> _File:
        plain = (files("sc2onnx.serve") / "page" / name).read_bytes()
        digest = hashlib.sha256(plain).hexdigest()[:32]
        return cls(FILES[name], plain, gzip.compress(plain, mtime=0), f'W/"{digest}"')

    def reply(self, request: Request) -> Response:
        """The file, unless whoever asks has it already."""
        headers = {**_HEADERS, "etag": self.tag}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            return Response(self.zipped, headers=headers, media_type=self.kind)
        return Response(self.plain, headers=headers, media_type=self.kind)


class Routes:
    """What they answer. Without the page, ``/`` tells everybody what it tells programs."""

    def __init__(self, exchange: Exchange) -> None:
        self._files = {name: _File.read(name) for name in FILES} if exchange.settings.page else {}

    def routes(self) -> list[Route]:
        """Its paths."""
        others = [name for name in self._files if name != "index.html"]
        return [Route("/", self._root), *(Route(f"/{name}", self._file) for name in others)]

    async def _root(self, request: Request) -> Response:
        if self._files and "text/html" in request.headers.get("accept", ""):
            return self._files["index.html"].reply(request)
        return PlainTextResponse(_TEXT, headers=_HEADERS)

    async def _file(self, request: Request) -> Response:
        return self._files[request.url.path.removeprefix("/")].reply(request)
