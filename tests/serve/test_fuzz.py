"""Requests that nobody should send: answered in words, never with a fault of the server's own.

``SC2ONNX_FUZZ=10000 pytest tests/serve/test_fuzz.py`` sends more of them.
"""

from __future__ import annotations

import json
import os
import random
import socket
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import sc2onnx
from sc2onnx.serve.settings import Settings
from tests.instruct import instruct
from tests.serve.conftest import Served, serving

COUNT = int(os.environ.get("SC2ONNX_FUZZ", "1000"))
"""Requests in all."""

SEEDS = 4
PATHS = """/v1/completions /infill /completion /tokenize /detokenize /api/generate /api/show
    /v1/fim/completions /v1/events /v1/health /completions /v1/chat/completions /api/chat
    /apply-template
    /v2/models/mini/generate /v2/models/mini/generate_stream""".split()
OTHERS = """/props /slots /health /livez /metrics /v1/models /models /api/tags /api/ps /api/version
    /lora-adapters /v1beta/server_setting /
    /page.js /x /v2 /v2/health/live /v2/health/ready /v2/models/mini
    /v2/models/mini/ready /v2/models/x""".split()
FIELDS = """prompt model suffix max_tokens temperature top_p top_k min_p n best_of stop seed stream
    stream_options logprobs echo logit_bias input_prefix input_suffix input_extra n_predict n_indent
    t_max_predict_ms samplers n_cmpl response_fields repeat_penalty content tokens options format
    system template name random_seed grammar lora json_schema segments language user filename ends
    ignore_eos text_input parameters t_max_prompt_ms prediction cache_prompt id_slot
    repetition_penalty logit_bias keep_alive raw response_format structured_outputs guided_json
    guided_regex guided_choice guided_grammar messages tools top_logprobs max_completion_tokens
    chat_template_kwargs continue_final_message think special_tokens modalities
    tool_choice""".split()
NUMBERS: list[object] = [0, 1, -1, 2, 3.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63)]
TEXTS: list[object] = ["", "x", "def f():\n", "\x00", "\ud7ff", "<fim_middle>"]
ODD = [None, True, False, *NUMBERS, *TEXTS, [], {}]


@pytest.fixture(scope="module")
def served(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a model that chats as well."""
    model = sc2onnx.load(instruct(bundle, tmp_path_factory.mktemp("instruct") / "bundle"))
    with serving(model, Settings(port=0, most_tokens=64)) as running:
        yield running


def value(chance: random.Random, depth: int = 0) -> object:
    """Something, now and then nested."""
    kind = chance.random()
    if depth < 4 and kind < 0.1:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if depth < 4 and kind < 0.15:
        return {chance.choice(FIELDS): value(chance, depth + 1) for _ in range(chance.randrange(4))}
    if kind < 0.25:
        return "".join(chance.choices(string.printable, k=chance.randrange(200)))
    return chance.choice(ODD)


def body(chance: random.Random) -> bytes:
    """A body: mostly fields that mean something, small so that it is computed at
    once, some of them wrong.
    """
    asked: dict[str, object] = {
        "prompt": "def f():\n",
        "content": "x",
        "max_tokens": 2,
        "n_predict": 2,
        "options": {"num_predict": 2},
        "text_input": "x",
        "messages": [{"role": "user", "content": "x"}],
    }
    if chance.random() < 0.1:
        asked["messages"] = [
            {chance.choice(("role", "content", "name", "tool_calls")): value(chance)}
            | chance.choice(({}, {"role": "user"}, {"role": "user", "content": value(chance)}))
            for _ in range(chance.randrange(3))
        ]
    for _ in range(chance.randrange(4)):
        asked[chance.choice(FIELDS)] = value(chance)
    found = json.dumps(asked).encode()
    if chance.random() < 0.1:  # damaged
        place = chance.randrange(len(found))
        found = found[:place] + bytes([chance.randrange(256)]) + found[place + 1 :]
    return found


HEADERS: list[dict[str, str]] = [
    {},
    {"host": "evil.example"},
    {"origin": "https://evil.example"},
    {"content-type": "text/plain"},
    {"authorization": "Bearer " + "x" * 5000},
    {"x-request-id": "a" * 3000},
    {"accept": "text/html", "accept-encoding": "gzip;q=x"},
    {"if-none-match": '"' * 100},
]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_other_methods_paths_and_headers(served: Served, seed: int) -> None:
    chance = random.Random(seed)
    with httpx.Client(timeout=60) as client:
        for _ in range(COUNT // SEEDS // 5):
            method = chance.choice(
                ["GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "QUERY"]
            )
            path = chance.choice([*PATHS, *OTHERS]) + chance.choice(
                ["", "", "?model=x", "?" + "a" * 3000, "/..%2f..%2fetc", "%00", "//"]
            )
            reply = client.request(
                method,
                served.url + path,
                headers=chance.choice(HEADERS),
                content=chance.choice([None, b"{}", b"\xff"]),
            )
            assert reply.status_code in (200, 204, 304, 400, 403, 404, 405, 415, 501), (
                method,
                path,
                reply.status_code,
            )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_no_http(served: Served, seed: int) -> None:
    chance = random.Random(seed)
    host, port = served.url.removeprefix("http://").split(":")
    whole = (
        b"POST /infill HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
    for _ in range(COUNT // SEEDS // 10):
        sent = bytearray(
            whole if chance.random() < 0.7 else chance.randbytes(chance.randrange(2000))
        )
        for _ in range(chance.randrange(4)):
            if sent:
                sent[chance.randrange(len(sent))] = chance.randrange(256)
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            try:
                answer = connection.recv(4096)
            except ConnectionError:
                answer = b""
            assert not answer or answer.split(b" ")[1] in (
                b"200",
                b"400",
                b"403",
                b"404",
                b"405",
                b"413",
                b"415",
                b"501",
            ), (sent, answer)
    assert served.get("/health").status_code == 200


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_answered_with_a_fault(served: Served, seed: int) -> None:
    chance = random.Random(seed)
    asked = [(chance.choice(PATHS), body(chance)) for _ in range(COUNT // SEEDS)]

    def ask(each: tuple[str, bytes]) -> int:
        with httpx.Client(timeout=60) as client:
            reply = client.post(
                served.url + each[0], content=each[1], headers={"content-type": "application/json"}
            )
        assert reply.status_code in (200, 400, 404, 413, 429, 501), (each, reply.text)
        if reply.status_code != 200:
            assert reply.json()["error"]
        return reply.status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(ask, asked))
    assert statuses.count(200) > len(asked) / 6  # it does get to the model
    assert statuses.count(400) > len(asked) / 20
    assert served.get("/health").status_code == 200
