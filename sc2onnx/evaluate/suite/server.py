"""Servers of any engine that fill holes: llama.cpp's, ours, and others that speak like OpenAI's.

A server whose tokenizer cuts a text into the same tokens as the bundle's gets the very prompts that
the bundles get, as token ids. Any other gets the code around the hole as text, and makes a prompt
of it by itself, as it does for an editor.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from sc2onnx.errors import RequestError
from sc2onnx.evaluate.suite.answering import Prompting, texts
from sc2onnx.evaluate.suite.hole import Hole

_SECONDS: Final = 600.0
"""That one answer may take."""

_MOST_BYTES: Final = 1 << 24
"""Of one answer."""

_SAMPLE: Final = 4_000
"""Characters that both tokenizers are compared on."""

_GREEDY: Final[Mapping[str, Any]] = {"temperature": 0.0, "stream": False, "cache_prompt": False}


@dataclass(frozen=True, slots=True)
class Server:
    """A server. ``name``: of its model; ``weight_bytes``: 0 where it does not say."""

    url: str
    name: str
    weight_bytes: int

    @classmethod
    def at(cls, url: str) -> Server:
        """The server at a URL, asked for its model. Raises :class:`RequestError`."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestError(f"--server is {url!r}, expected http://HOST:PORT or https://HOST")
        bare = cls(url.rstrip("/").removesuffix("/v1"), parts.netloc, 0)
        try:
            found = bare.ask("/v1/models", None)["data"][0]
            size = (found.get("meta") or {}).get("size", 0)
            name = str(found["id"]).replace("\\", "/").rpartition("/")[2]
            return cls(bare.url, name or parts.netloc, size if isinstance(size, int) else 0)
        except (_AbsentError, KeyError, IndexError, TypeError, AttributeError):
            return bare

    def ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        """What the server answers to a body, or to none. Raises :class:`RequestError`, of it
        :class:`_AbsentError` where there is no such path.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers)  # noqa: S310 - checked
        try:
            with _opener(self.url)(request, timeout=_SECONDS) as reply:
                return json.loads(reply.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                told = " ".join(error.read(1 << 12).decode(errors="replace").split())[:200]
            kind = _AbsentError if error.code in (404, 405, 501) else RequestError
            raise kind(f"the server at {self.url} refuses {path} ({error.code}): {told}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise RequestError(
                f"the server at {self.url} gives no answer to {path} ({reason}): start it, or give "
                "another (--server)"
            ) from error

    def has_tokens_of(self, prompting: Prompting, text: str) -> bool:
        """Whether its tokenizer cuts a text as the bundle's does."""
        sample = text[:_SAMPLE]
        body = {"content": sample, "add_special": False, "parse_special": False}
        try:
            found = self.ask("/tokenize", body).get("tokens")
        except (_AbsentError, AttributeError):
            return False
        return bool(found == prompting.codec.encode(sample, special=False))


class _AbsentError(RequestError):
    """A path that a server does not have."""


def _opener(url: str) -> Callable[..., Any]:
    """What opens a URL: no proxy for this machine, which it would not reach."""
    if urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1"):
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    return urllib.request.build_opener().open


class TokenAnswers:
    """Answers of a server to prompts of tokens, by llama.cpp's ``/completion``."""

    asked = "tokens"

    def __init__(self, server: Server, prompting: Prompting) -> None:
        self._server, self._prompting = server, prompting

    def pieces(self, hole: Hole) -> Iterable[str]:
        """See :class:`~sc2onnx.evaluate.suite.answering.Answering`."""
        asked = self._prompting
        body = {"prompt": asked.tokens(hole), "n_predict": asked.limit(hole)}
        reply = self._server.ask("/completion", {**_GREEDY, **body, "return_tokens": True})
        tokens = reply.get("tokens")
        if isinstance(tokens, Sequence) and tokens:
            return texts(tokens, asked)
        return [_text(self._server, reply, "content")]


class TextAnswers:
    """Answers of a server to code around a cursor: by llama.cpp's ``/infill``, or where there is
    none by OpenAI's ``/v1/completions`` with a suffix.
    """

    asked = "text"

    def __init__(self, server: Server, prompting: Prompting) -> None:
        self._server, self._prompting = server, prompting
        self._infills = True

    def pieces(self, hole: Hole) -> Iterable[str]:
        """See :class:`~sc2onnx.evaluate.suite.answering.Answering`."""
        before, after = self._prompting.around(hole)
        limit = self._prompting.limit(hole)
        if self._infills:
            body = {"input_prefix": before, "input_suffix": after, "prompt": "", "n_predict": limit}
            try:
                reply = self._server.ask("/infill", {**_GREEDY, **body})
                return [_text(self._server, reply, "content")]
            except _AbsentError:
                self._infills = False
        body = {"model": self._server.name, "prompt": before, "suffix": after, "max_tokens": limit}
        reply = self._server.ask("/v1/completions", {"temperature": 0.0, **body})
        choices = reply.get("choices") if isinstance(reply, dict) else None
        return [_text(self._server, choices[0] if choices else None, "text")]


def answers_of(server: Server, prompting: Prompting, sample: str) -> TokenAnswers | TextAnswers:
    """How a server is asked. ``sample``: text that tokenizers are compared on."""
    same = server.has_tokens_of(prompting, sample)
    return TokenAnswers(server, prompting) if same else TextAnswers(server, prompting)


def _text(server: Server, reply: Any, name: str) -> str:
    if isinstance(reply, dict) and isinstance(reply.get(name), str):
        return str(reply[name])
    raise RequestError(
        f"the server at {server.url} answers without {name!r}: give one that speaks as llama.cpp "
        "or OpenAI do (--server)"
    )
