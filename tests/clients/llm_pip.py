"""The command ``llm``, with the server among its ``extra-openai-models.yaml``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec

from tests.clients.client import Client, Lack
from tests.clients.server import ENDLESS, KEY, MESSAGES, MOST, PROMPT, TOKENS, TOO_MANY, Server


def command(
    server: Server, *arguments: object, key: str = KEY, model: str = "code", tokens: int = TOKENS
) -> subprocess.Popen[str]:
    """The command, which completes what it reads. Its models: ``code``, ``absent``, ``chat``, which
    does not, and ``instruct``, which does.
    """
    base = {"api_base": f"{server.url}/v1", "api_key_name": "served"}
    models = [
        {**base, "model_id": "code", "model_name": server.model, "completion": True},
        {**base, "model_id": "absent", "model_name": "absent", "completion": True},
        {**base, "model_id": "chat", "model_name": server.model},
        {**base, "model_id": "instruct", "model_name": server.chatting},
    ]
    user = server.scratch()
    (user / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
    (user / "keys.json").write_text(json.dumps({"served": key}))
    started = [
        sys.executable,
        "-m",
        "llm",
        "-m",
        model,
        "--no-log",
        "-o",
        "temperature",
        "0",
        "-o",
        "max_tokens",
        str(tokens),
    ]
    environment = {**os.environ, "LLM_USER_PATH": str(user), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*started, *map(str, arguments)],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment,
    )


def told(process: subprocess.Popen[str], prompt: str = PROMPT) -> tuple[str, str]:
    """What it writes, and what it says of errors."""
    return process.communicate(prompt, timeout=60)


def completes(server: Server) -> None:
    text, trouble = told(command(server, "--no-stream"))
    assert text == server.completion + "\n", trouble


def streams(server: Server) -> None:
    text, trouble = told(command(server))
    assert text == server.completion + "\n", trouble


def chats(server: Server) -> None:
    system, question = (message["content"] for message in MESSAGES)
    for options in ((), ("--no-stream",)):
        process = command(server, "--system", system, *options, model="instruct")
        text, trouble = told(process, question)
        assert text == server.answer + "\n", trouble


def cancels(server: Server) -> None:
    """Somebody ends the command when it has begun to write."""
    with server.gives_up():
        process = command(server, tokens=MOST)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(ENDLESS)
        process.stdin.close()
        assert process.stdout.read(1)
        process.terminate()
        process.wait(10)


def errors(server: Server) -> None:
    wrong = {
        "the key is missing or wrong": command(server, key="another-key"),
        f"max_tokens is {TOO_MANY}, expected at most": command(server, tokens=TOO_MANY),
        "there is no model of that name": command(server, model="absent"),
        "does not chat": command(server, model="chat"),
    }
    for words, process in wrong.items():
        trouble = told(process)[1]
        assert words in trouble
        assert process.returncode == 1
    with server.held():
        process = command(server)
        time.sleep(3)  # it takes a second or two to begin
    assert told(process)[0] == server.completion + "\n"


def missing() -> str | None:
    return None if find_spec("llm") else "llm is not installed: make clients"


_NO_INFILLING = Lack("it sends no `suffix`: its models have no such option")
CLIENT = Client(
    "llm",
    lambda: version("llm"),
    completes,
    _NO_INFILLING,
    streams,
    cancels,
    errors,
    missing,
    chats,
)
