"""litellm, by its providers for OpenAI's completions, Mistral's and Ollama's."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Final

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
    post,
)

_PATHS: Final = {
    "text-completion-openai": "/v1",
    "text-completion-codestral": "/v1/fim/completions",
    "ollama": "",
}


def asking(server: Server, provider: str = "text-completion-openai", **options: Any) -> Any:
    """A request for text, a greedy one unless ``options`` say otherwise."""
    path = _PATHS[provider]
    usual = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "api_key": KEY}
    usual |= {"api_base": server.url + path, "max_retries": 0}
    if provider != "text-completion-openai":  # else it makes a chat of the prompt
        usual["roles"] = {"user": {"pre_message": "", "post_message": ""}}
    usual["model"] = f"{provider}/{options.pop('model', server.model)}"
    return {**usual, **options}


def asked(server: Server, provider: str = "text-completion-openai", **options: Any) -> Any:
    """The answer to such a request."""
    import litellm

    return litellm.text_completion(**asking(server, provider, **options))


def completes(server: Server) -> None:
    for provider, expected in _completions(server).items():
        done = asked(server, provider)
        assert done.choices[0].text == expected, provider
        assert done.usage.completion_tokens == TOKENS, provider


def _completions(server: Server) -> dict[str, str]:
    """What each provider's path gives; Mistral's takes the prompt for a file that ends there."""
    body = {"model": server.model, "prompt": PROMPT, "max_tokens": TOKENS}
    ending = post(f"{server.url}/v1/fim/completions", body)["choices"][0]["message"]["content"]
    return {
        "text-completion-openai": server.completion,
        "text-completion-codestral": ending,
        "ollama": server.completion,
    }


def infills(server: Server) -> None:
    for provider in ("text-completion-openai", "text-completion-codestral"):
        assert (
            asked(server, provider, prompt=PROMPT, suffix=SUFFIX).choices[0].text
            == server.infilling
        ), provider


def streams(server: Server) -> None:
    for provider, expected in _completions(server).items():
        texts = [event.choices[0].text or "" for event in asked(server, provider, stream=True)]
        assert "".join(texts) == expected, provider
        assert len(texts) > 2, provider


def chats(server: Server) -> None:
    import litellm

    for provider, path in (("openai", "/v1"), ("ollama_chat", "")):
        usual = {
            "model": f"{provider}/{server.chatting}",
            "messages": list(MESSAGES),
            "api_base": server.url + path,
            "api_key": KEY,
            "max_tokens": TOKENS,
            "temperature": 0,
        }
        done = litellm.completion(**usual)
        assert done.choices[0].message.content == server.answer, provider
        assert done.usage.completion_tokens == TOKENS, provider
        events = litellm.completion(**usual, stream=True)
        texts = [event.choices[0].delta.content or "" for event in events]
        assert "".join(texts) == server.answer, provider


def cancels(server: Server) -> None:
    """A task that reads a stream is cancelled, and one that waits for a whole answer."""
    for streamed in (True, False):
        with server.gives_up():
            asyncio.run(_given_up(server, streamed))


async def _given_up(server: Server, streamed: bool) -> None:
    import litellm

    options = asking(server, prompt=ENDLESS, max_tokens=MOST, stream=streamed)

    async def reads() -> None:
        answer = await litellm.atext_completion(**options)
        async for _ in answer:
            pass

    task = asyncio.create_task(reads())
    await asyncio.to_thread(server.busy)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def errors(server: Server) -> None:
    import litellm

    with pytest.raises(litellm.AuthenticationError):
        asked(server, api_key="another-key")
    with pytest.raises(
        litellm.BadRequestError, match=f"max_tokens is {TOO_MANY}, expected at most"
    ):
        asked(server, max_tokens=TOO_MANY)
    with pytest.raises(litellm.NotFoundError, match="there is no model of that name"):
        asked(server, model="absent")
    with pytest.raises(litellm.exceptions.APIError, match="does not chat"):
        litellm.completion(
            f"openai/{server.model}",
            [{"role": "user", "content": "hi"}],
            api_base=f"{server.url}/v1",
            api_key=KEY,
            max_retries=0,
        )
    with server.held(), pytest.raises(litellm.RateLimitError):
        asked(server)
    with ThreadPoolExecutor(1) as pool:
        with server.held():
            coming = pool.submit(asked, server, max_retries=2)
            time.sleep(0.5)
        assert coming.result(30).choices[0].text == server.completion


def missing() -> str | None:
    return None if find_spec("litellm") else "litellm is not installed: make clients"


CLIENT = Client(
    "litellm",
    lambda: version("litellm"),
    completes,
    infills,
    streams,
    cancels,
    errors,
    missing,
    chats,
)
