"""Completions by a server that speaks llama.cpp's ``/infill``: ``sc2onnx serve``, or another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

import httpx

from sc2onnx.errors import RequestError
from sc2onnx.runtime.text.endings import Rule, ending
from sc2onnx.runtime.text.lines import Lines, indentation
from sc2onnx.serve.lsp.completer import PROMPT_SECONDS, Cursor
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import is_loopback

_MOST_CHARACTERS: Final = 500_000
"""Of either side of the cursor: more than any context holds, less than servers take."""

_CONNECT: Final = 5.0
"""Seconds that a server may take to accept a connection."""


class Remote:
    """A :class:`~sc2onnx.serve.lsp.completer.Completer` that asks a server.

    Answers are read as they come, and the connection is closed where the completion ends, upon
    which the server stops.
    """

    loading = False

    def __init__(self, url: str, key: str | None = None) -> None:
        """``url``: where the server listens, such as ``http://127.0.0.1:8012``. ``key``: is sent as
        ``Authorization: Bearer KEY``. Raises :class:`~sc2onnx.errors.RequestError` for another URL.
        """
        self._url = url.rstrip("/").removesuffix("/infill")
        self._client = httpx.AsyncClient(
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(None, connect=_CONNECT),
            trust_env=not is_loopback(_host(url)),  # a proxy would not reach this machine
        )

    async def open(self, tell: Callable[[str], None]) -> None:
        """Look whether the server is there. Raises :class:`~sc2onnx.serve.refusal.RefusedError`."""
        tell(f"looking for {self._url}")
        try:
            response = await self._client.get(f"{self._url}/health", timeout=_CONNECT)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code == 503:
            raise self._refused(503, _told(response.text))

    async def complete(self, cursor: Cursor) -> str:
        """What is to be inserted at the cursor."""
        scanner, text = _rule(cursor).scanner(), ""
        with suppress(TimeoutError):
            async with asyncio.timeout(cursor.timeout):
                async with aclosing(self._parts(_body(cursor))) as parts:
                    async for part in parts:
                        text += scanner.push(part)
                        if scanner.found:
                            break
        return text + scanner.flush()

    async def warm(self, cursor: Cursor) -> None:
        """Have the server compute the prompt of a cursor."""
        with suppress(TimeoutError):
            async with asyncio.timeout(cursor.timeout):
                async with aclosing(self._parts({**_body(cursor), "n_predict": 0})) as parts:
                    async for _ in parts:
                        pass

    async def forget(self) -> None:
        """Nothing: what a server keeps is its own affair."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _parts(self, body: Mapping[str, Any]) -> AsyncGenerator[str]:
        """An answer as it comes. Raises :class:`~sc2onnx.serve.refusal.RefusedError`."""
        try:
            async with self._client.stream("POST", f"{self._url}/infill", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refused(response.status_code, _told(response.text))
                async for line in response.aiter_lines():
                    yield self._part(line)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _part(self, line: str) -> str:
        """The text of an event. An answer that is no stream, but whole, is one as well."""
        if line.startswith("error:"):
            raise self._refused(500, _told(line.removeprefix("error:")))
        try:
            event = json.loads(line.removeprefix("data:").strip() or "{}")
            if "error" in event:
                raise self._refused(int(event["error"].get("code", 500)), _told(line[5:]))
            return str(event.get("content", ""))
        except (ValueError, AttributeError, TypeError):
            found = f"the server at {self._url} does not speak llama.cpp's /infill"
            raise RefusedError(502, f"{found}: give another (--server)") from None

    def _unreachable(self, error: httpx.HTTPError) -> RefusedError:
        reason = str(error) or type(error).__name__
        found = f"the server at {self._url} cannot be reached ({reason})"
        return RefusedError(503, f"{found}: start it, or give another (--server)")

    def _refused(self, status: int, told: str) -> RefusedError:
        if status == 401:
            found = f"the server at {self._url} wants another key, or one at all"
            return RefusedError(401, f"{found}: give the file that holds it (--key-file FILE)")
        return RefusedError(status, f"the server at {self._url} refuses ({status}): {told}")


def _host(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise RequestError(f"--server is {url!r}, expected http://HOST:PORT or https://HOST")
    return parsed.host


def _rule(cursor: Cursor) -> Rule:
    """Where the completion ends, which is looked at here: servers differ."""
    code = cursor.code
    return ending(cursor.ends, code.prefix, code.suffix, code.path) or Lines()


def _body(cursor: Cursor) -> dict[str, Any]:
    """What is asked for, greedily. The line up to the cursor is ``prompt``, which servers append to
    the lines before it; ``filename`` and ``ends`` are read by ours alone. ``n_indent`` and
    ``t_max_predict_ms`` spare servers what is cut here.
    """
    code = cursor.code
    before = code.prefix[-_MOST_CHARACTERS:]
    line = before[before.rfind("\n") + 1 :]
    indent = indentation(line) if cursor.ends == "block" else 0
    return {
        "filename": code.path or "",
        "input_prefix": before[: len(before) - len(line)],
        "prompt": line,
        "input_suffix": code.suffix[:_MOST_CHARACTERS],
        "input_extra": [{"filename": path, "text": text} for path, text in code.files.items()],
        "n_predict": cursor.max_tokens,
        "n_indent": indent,
        "ends": cursor.ends,
        "t_max_predict_ms": round(1000 * (cursor.line_seconds or 0)),
        "t_max_prompt_ms": round(1000 * PROMPT_SECONDS),
        "temperature": 0.0,
        "stream": True,
        "cache_prompt": True,
    }


def _told(text: str) -> str:
    """What a server says of an error, on one line."""
    try:
        error = json.loads(text)["error"]
        found = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        found = text
    return " ".join(found.split())[:200] or "it does not say why"
