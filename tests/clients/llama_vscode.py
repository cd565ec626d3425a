"""llama.vscode: its requests, as its source has them, sent by httpx."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

import httpx

from tests.clients.client import Client, Lack
from tests.clients.server import ENDLESS, KEY, MOST, PROMPT, SUFFIX, Server

_FIELDS = [
    "content",
    "timings/prompt_n",
    "timings/prompt_ms",
    "timings/predicted_n",
    "timings/predicted_ms",
    "truncated",
    "tokens_cached",
]


def body(
    samples: int = 3, prefix: str = PROMPT, suffix: str = SUFFIX, tokens: int = 128
) -> dict[str, Any]:
    """What it sends as somebody types."""
    lines, line = prefix.rsplit("\n", 1)
    return {
        "id_slot": 0,
        "input_prefix": lines + "\n",
        "input_suffix": suffix,
        "input_extra": [
            {"text": "def sub(a, b):\n    return a - b\n", "time": 1, "filename": "other.py"}
        ],
        "prompt": line,
        "n_predict": tokens,
        "n_cmpl": samples,
        "stop": [],
        "n_indent": 4,
        "top_k": 40,
        "top_p": 0.99,
        "samplers": ["top_k", "top_p", "infill"],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 2500,
        "lora": [],
        "response_fields": _FIELDS,
        "model": "",
    }


def opened(server: Server, key: str = KEY) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=60)


def infills(server: Server) -> None:
    with opened(server) as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/props").json()["default_generation_settings"]["n_ctx"] > 0
        assert client.post("/tokenize", json={"content": PROMPT}).json()["tokens"]
        several, one = (
            client.post("/infill", json=body()).json(),
            client.post("/infill", json=body(1)).json(),
        )
        assert [each["content"] for each in several] == [one["content"]] * 3
        assert one.keys() == set(_FIELDS)
        warm = {
            **body(1),
            "n_predict": 0,
            "samplers": [],
            "t_max_prompt_ms": 1,
            "t_max_predict_ms": 1,
            "response_fields": [""],
        }
        assert client.post("/infill", json=warm).json() == {}


def cancels(server: Server) -> None:
    asyncio.run(_types_on(server))


async def _types_on(server: Server) -> None:
    """A request is given up while it waits: its connection is closed."""
    headers = {"authorization": f"Bearer {KEY}"}
    with server.held(4):
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            asked = asyncio.create_task(
                client.post("/infill", json=body(prefix=ENDLESS, suffix="", tokens=MOST))
            )
            await asyncio.to_thread(server.busy, 7)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        await asyncio.to_thread(server.idle, 4)


def errors(server: Server) -> None:
    """Statuses and words, of which it shows a message."""
    with opened(server, "another-key") as client:
        assert _told(client.post("/infill", json=body())) == (401, "authentication_error")
    with opened(server) as client:
        assert _told(client.post("/infill", json=body(9))) == (400, "invalid_request_error")
        assert _told(client.post("/infill", json={**body(), "model": "absent"})) == (
            404,
            "not_found_error",
        )
        assert _told(
            client.post("/infill", json={**body(), "lora": [{"id": 0, "scale": 1.0}]})
        ) == (400, "invalid_request_error")
        assert _told(client.post("/v1/chat/completions", json={"messages": []})) == (
            501,
            "not_supported_error",
        )
        with server.held():
            refused = client.post("/infill", json=body())
            assert _told(refused) == (429, "rate_limit_error")
            assert refused.headers["retry-after"] == "1"


def _told(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert error["message"]
    return response.status_code, error["type"]


def _version() -> str:
    return f"its requests, by httpx {version('httpx')}"


_ONLY_INFILLS = Lack("it asks for the middle alone, with the rest of the file as suffix")
_NO_STREAMS = Lack("it asks for answers whole")
CLIENT = Client("llama.vscode", _version, _ONLY_INFILLS, infills, _NO_STREAMS, cancels, errors)
