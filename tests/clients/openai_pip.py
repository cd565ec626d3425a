"""OpenAI's SDK for Python."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import openai
import pytest

from tests.clients.client import Client
from tests.clients.server import (
    ENDLESS,
    KEY,
    MESSAGES,
    MOST,
    PROMPT,
    SUFFIX,
    TOKENS,
    TOO_MANY,
    Server,
)


def opened(server: Server, key: str = KEY, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries)


def asked(client: openai.OpenAI, server: Server, **options: Any) -> Any:
    """A greedy completion, unless ``options`` say otherwise."""
    usual = {"model": server.model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    return client.completions.create(**{**usual, **options})


def completes(server: Server) -> None:
    with opened(server) as client:
        assert server.model in [each.id for each in client.models.list()]
        done = asked(client, server, n=2, logprobs=2)
    assert [choice.text for choice in done.choices] == [server.completion] * 2
    assert done.usage is not None
    assert done.usage.completion_tokens == 2 * TOKENS
    assert done.choices[0].logprobs is not None
    assert len(done.choices[0].logprobs.token_logprobs or []) == TOKENS


def infills(server: Server) -> None:
    with opened(server) as client:
        assert asked(client, server, suffix=SUFFIX).choices[0].text == server.infilling


def streams(server: Server) -> None:
    with opened(server) as client:
        events = list(asked(client, server, stream=True, stream_options={"include_usage": True}))
    texts = [choice.text for event in events for choice in event.choices]
    assert "".join(texts) == server.completion
    assert len(texts) > 2
    assert events[-1].usage.completion_tokens == TOKENS


_TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "f"}}]}


def chats(server: Server) -> None:
    asked_for: dict[str, Any] = {"messages": MESSAGES, "max_completion_tokens": TOKENS}
    usual = {**asked_for, "model": server.chatting, "temperature": 0}
    with opened(server) as client:
        done = client.chat.completions.create(**usual)
        events = list(client.chat.completions.create(**usual, stream=True))
        with pytest.raises(openai.BadRequestError, match="tools is not supported"):
            client.chat.completions.create(**usual, **_TOOLS)
    assert done.choices[0].message.content == server.answer
    assert done.usage.completion_tokens == TOKENS
    deltas = [choice.delta for event in events for choice in event.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == server.answer


def cancels(server: Server) -> None:
    with opened(server) as client, server.gives_up():
        stream = asked(client, server, prompt=ENDLESS, max_tokens=MOST, stream=True)
        next(iter(stream))
        stream.close()


def errors(server: Server) -> None:
    with opened(server, "another-key") as client, pytest.raises(openai.AuthenticationError):
        asked(client, server)
    with opened(server) as client:
        with pytest.raises(openai.BadRequestError, match=f"max_tokens is {TOO_MANY}, expected at"):
            asked(client, server, max_tokens=TOO_MANY)
        with pytest.raises(openai.NotFoundError, match="there is no model of that name"):
            asked(client, server, model="absent")
        with pytest.raises(openai.APIStatusError, match="does not chat") as raised:
            client.chat.completions.create(
                model=server.model, messages=[{"role": "user", "content": "hello"}]
            )
        assert raised.value.status_code == 501
        with server.held(), pytest.raises(openai.RateLimitError):
            asked(client, server)
    _comes_again(server)


def _comes_again(server: Server) -> None:
    """It is told to come later, and does so by itself."""
    with opened(server, retries=2) as client, ThreadPoolExecutor(1) as pool:
        with server.held():
            raw = client.completions.with_raw_response
            coming = pool.submit(raw.create, model=server.model, prompt=PROMPT, max_tokens=1)
            time.sleep(0.5)
        done = coming.result(30)
    assert done.retries_taken >= 1
    assert done.parse().choices[0].finish_reason == "length"


CLIENT = Client(
    "openai (Python)",
    lambda: version("openai"),
    completes,
    infills,
    streams,
    cancels,
    errors,
    chats=chats,
)
