"""Ollama's client for Python."""

from __future__ import annotations

from importlib.metadata import version

import ollama
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
    TOO_LONG,
    Server,
)

GREEDY = {"temperature": 0, "num_predict": TOKENS}


def opened(server: Server, key: str = KEY) -> ollama.Client:
    return ollama.Client(host=server.url, headers={"Authorization": f"Bearer {key}"})


def completes(server: Server) -> None:
    client = opened(server)
    assert client.list().models[0].model == server.model
    done = client.generate(server.model, PROMPT, options=GREEDY)
    assert done.response == server.completion
    assert (done.done, done.done_reason, done.eval_count) == (True, "length", TOKENS)


def infills(server: Server) -> None:
    client = opened(server)
    assert ".Suffix" in (client.show(server.model).template or "")
    assert (
        client.generate(server.model, PROMPT, suffix=SUFFIX, options=GREEDY).response
        == server.infilling
    )


def streams(server: Server) -> None:
    parts = list(opened(server).generate(server.model, PROMPT, options=GREEDY, stream=True))
    assert "".join(part.response or "" for part in parts) == server.completion
    assert len(parts) > 2
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def chats(server: Server) -> None:
    client = opened(server)
    done = client.chat(server.chatting, MESSAGES, options=GREEDY)
    assert done.message.content == server.answer
    assert (done.done, done.done_reason, done.eval_count) == (True, "length", TOKENS)
    parts = list(client.chat(server.chatting, MESSAGES, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == server.answer
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def cancels(server: Server) -> None:
    with server.gives_up():
        stream = opened(server).generate(
            server.model, ENDLESS, options={**GREEDY, "num_predict": MOST}, stream=True
        )
        next(stream)
        stream.close()  # type: ignore[attr-defined] # it is a generator


def errors(server: Server) -> None:
    _refuses(
        opened(server, "another-key"), server.model, PROMPT, 401, "the key is missing or wrong"
    )
    client = opened(server)
    _refuses(client, server.model, TOO_LONG, 400, "tokens")
    _refuses(client, "absent", PROMPT, 404, "there is no model of that name")
    with pytest.raises(ollama.ResponseError, match="does not chat") as raised:
        client.chat(server.model, [{"role": "user", "content": "hello"}])
    assert raised.value.status_code == 501
    with server.held():
        _refuses(client, server.model, PROMPT, 429, "as much to do as it takes")


def _refuses(client: ollama.Client, model: str, prompt: str, status: int, told: str) -> None:
    with pytest.raises(ollama.ResponseError, match=told) as raised:
        client.generate(model, prompt, options=GREEDY)
    assert raised.value.status_code == status


CLIENT = Client(
    "ollama (Python)",
    lambda: version("ollama"),
    completes,
    infills,
    streams,
    cancels,
    errors,
    chats=chats,
)
