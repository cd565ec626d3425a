"""Requests that nobody should send: answered in words, never with a fault of the server's own."""

from __future__ import annotations

import json
import random
import string
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serve.conftest import Served

PATHS = ["/v1/completions", "/infill", "/completion", "/tokenize", "/detokenize", "/api/generate", "/api/show", "/v1/fim/completions"]
FIELDS = """prompt model suffix max_tokens temperature top_p top_k min_p n best_of stop seed stream stream_options logprobs echo logit_bias
    input_prefix input_suffix input_extra n_predict n_indent t_max_predict_ms samplers n_cmpl response_fields repeat_penalty content tokens
    options format system template name random_seed grammar lora json_schema""".split()
NUMBERS: list[object] = [0, 1, -1, 2, 3.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63)]
TEXTS: list[object] = ["", "x", "def f():\n", "\x00", "\ud7ff", "<fim_middle>"]
ODD = [None, True, False, *NUMBERS, *TEXTS, [], {}]


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
    """A body: mostly fields that mean something, small so that it is computed at once, some of them wrong."""
    asked: dict[str, object] = {"prompt": "def f():\n", "content": "x", "max_tokens": 2, "n_predict": 2, "options": {"num_predict": 2}}
    for _ in range(chance.randrange(4)):
        asked[chance.choice(FIELDS)] = value(chance)
    found = json.dumps(asked).encode()
    if chance.random() < 0.1:  # damaged
        place = chance.randrange(len(found))
        found = found[:place] + bytes([chance.randrange(256)]) + found[place + 1 :]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_answered_with_a_fault(served: Served, seed: int) -> None:
    chance = random.Random(seed)
    asked = [(chance.choice(PATHS), body(chance)) for _ in range(250)]

    def ask(each: tuple[str, bytes]) -> int:
        with httpx.Client(timeout=60) as client:
            reply = client.post(served.url + each[0], content=each[1], headers={"content-type": "application/json"})
        assert reply.status_code in (200, 400, 404, 413, 429, 501), (each, reply.text)
        if reply.status_code != 200:
            assert reply.json()["error"]
        return reply.status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(ask, asked))
    assert statuses.count(200) > 50  # it does get to the model
    assert statuses.count(400) > 20
    assert served.get("/health").status_code == 200
