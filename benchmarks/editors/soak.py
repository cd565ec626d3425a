"""An hour of everything: answers that are checked, clients that go, nonsense, and restarts.

One server lives through all of it, and must hold no more in the end; another is ended and started
again all the time. Every answer that arrives is compared with the one that the model gives alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

import sc2onnx
from editors.processes import Holds
from editors.servers import Server, ours

NONSENSE = [
    b"",
    b"{",
    b"null",
    b"[1]",
    b'{"prompt": 1}',
    b'{"prompt": [[-1]]}',
    b'{"n": 1000000, "prompt": "x"}',
    b'{"input_prefix": 3}',
    b'{"prompt": "x", "stop": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"prompt": "x", "max_tokens": 1e99}',
    b"\xff" * 100,
]
PATHS = ["/v1/completions", "/infill", "/completion", "/api/generate", "/v1/fim/completions"]


@dataclass(frozen=True)
class Question:
    """A request, how its text is found in the answer, and the text."""

    path: str
    body: dict[str, Any]
    text: Callable[[Any], str]
    expected: str


@dataclass
class Seen:
    """What happened, and what must not."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def soak(bundle: Path, threads: int, minutes: float) -> int:
    """Print what happened; 0 if nothing must not have."""
    questions = _questions(sc2onnx.load(bundle, threads=threads))
    seen, until = Seen(), time.monotonic() + 60 * minutes
    with ours(bundle, threads, "--queue-seconds", "120") as lasting:
        held = asyncio.run(_soaked(lasting, bundle, threads, questions, seen, until))
        _rested(lasting, seen)
    print(dict(seen.counts))
    quarter = len(held) // 4
    early, late = held[quarter], held[-1]
    most = [
        max(each.memory for each in part) / 1e6
        for part in (held[quarter : 2 * quarter], held[3 * quarter :])
    ]
    print(
        f"private memory at most: {most[0]:.0f} MB in the second quarter, {most[1]:.0f} in the last"
    )
    print(f"threads {early.threads} -> {late.threads}, open files {early.files} -> {late.files}")
    if most[1] > 1.1 * most[0] + 10:
        seen.faults.append("memory grows")
    if late.threads > early.threads + 2:
        seen.faults.append("threads grow")
    for fault in seen.faults[:20]:
        print(f"FAULT: {fault}")
    print(f"{len(seen.faults)} faults")
    return int(bool(seen.faults))


def _questions(model: sc2onnx.Model) -> list[Question]:
    """Requests of several dialects, and what the model gives alone."""
    code = Path(__file__).read_text(encoding="utf-8")
    found = list[Question]()
    for number in range(24):
        prompt, after = (
            code[number * 90 : number * 90 + 400],
            code[number * 90 + 450 : number * 90 + 700],
        )
        count = 4 + 3 * number
        drawn: dict[str, Any] = (
            {"temperature": 0.8, "seed": number} if number % 2 else {"temperature": 0}
        )
        alone = model.generate(prompt, max_new_tokens=count, **drawn).text
        body = {"prompt": prompt, "max_tokens": count, **drawn}
        found.append(
            Question(
                "/v1/completions", body, lambda answer: str(answer["choices"][0]["text"]), alone
            )
        )
        ollama = {
            "prompt": prompt,
            "stream": False,
            "options": {"num_predict": count, "top_k": 0, "top_p": 1, **drawn},
        }
        found.append(
            Question("/api/generate", ollama, lambda answer: str(answer["response"]), alone)
        )
        between = model.infill(prompt, after, order="spm", heal=True, max_new_tokens=count).text
        cursor = {
            "input_prefix": prompt,
            "input_suffix": after,
            "n_predict": count,
            "temperature": 0,
        }
        found.append(Question("/infill", cursor, lambda answer: str(answer["content"]), between))
    return found


async def _soaked(
    lasting: Server,
    bundle: Path,
    threads: int,
    questions: Sequence[Question],
    seen: Seen,
    until: float,
) -> list[Holds]:
    """Clients at both servers; gives what the lasting one holds every ten seconds."""
    held = list[Holds]()
    again = asyncio.create_task(_restarted(bundle, threads, questions, seen, until))
    clients = [
        asyncio.create_task(_client(lambda: lasting.url, n, questions, seen, until))
        for n in range(5)
    ]
    while time.monotonic() < until:
        await asyncio.sleep(10)
        held.append(Holds.of(lasting.process.pid))
        if lasting.process.poll() is not None:
            seen.faults.append(f"the server ended: {lasting.process.returncode}")
            break
    await asyncio.gather(again, *clients)
    return held


async def _restarted(
    bundle: Path, threads: int, questions: Sequence[Question], seen: Seen, until: float
) -> None:
    """A server that is ended by a signal in the middle of requests, and started again."""
    place, chance = {"url": ""}, random.Random(0)
    clients = [
        asyncio.create_task(_client(lambda: place["url"], 100 + n, questions, seen, until))
        for n in range(2)
    ]
    while time.monotonic() < until:
        started: AbstractContextManager[Server] = ours(bundle, threads)
        server = await asyncio.to_thread(started.__enter__)
        place["url"] = server.url
        await asyncio.sleep(chance.uniform(5, 40))
        server.process.terminate()
        status = await asyncio.to_thread(server.process.wait, 60)
        await asyncio.to_thread(started.__exit__, None, None, None)
        seen.counts["restarts"] += 1
        if status != 0:
            seen.faults.append(f"a server ended with status {status}")
    await asyncio.gather(*clients)


async def _client(
    url: Callable[[], str], number: int, questions: Sequence[Question], seen: Seen, until: float
) -> None:
    """One that asks, goes, or sends nonsense, at random."""
    chance, restarts = random.Random(number), number >= 100
    async with httpx.AsyncClient(timeout=150) as client:
        while time.monotonic() < until:
            await asyncio.sleep(chance.expovariate(8))
            if not url():
                continue
            try:
                await _once(client, url(), chance, chance.choice(questions), seen)
            except httpx.TransportError as gone:
                if restarts:
                    seen.counts["cut off by a restart"] += 1
                else:
                    seen.faults.append(f"{type(gone).__name__}: {gone}")


async def _once(
    client: httpx.AsyncClient, url: str, chance: random.Random, question: Question, seen: Seen
) -> None:
    drawn = chance.random()
    if drawn < 0.15:
        headers = {"content-type": "application/json"}
        reply = await client.post(
            url + chance.choice(PATHS), content=chance.choice(NONSENSE), headers=headers
        )
        seen.counts[f"nonsense: {reply.status_code}"] += 1
        if reply.status_code not in (200, 400, 413, 503):
            seen.faults.append(f"nonsense is answered with {reply.status_code}")
    elif drawn < 0.4:
        longer = {
            **question.body,
            "max_tokens": 500,
            "n_predict": 500,
            "options": {"num_predict": 500},
        }
        asking = asyncio.create_task(client.post(url + question.path, json=longer))
        await asyncio.sleep(chance.expovariate(10))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        seen.counts["gone"] += 1
    else:
        reply = await client.post(url + question.path, json=question.body)
        seen.counts[f"answers: {reply.status_code}"] += 1
        if reply.status_code == 200:
            found = question.text(json.loads(reply.content))
            if found != question.expected:
                seen.faults.append(
                    f"{question.path} gave {found!r}, alone it is {question.expected!r}"
                )
        elif reply.status_code not in (429, 503):
            seen.faults.append(
                f"{question.path} is answered with {reply.status_code}: {reply.text[:200]}"
            )


def _rested(server: Server, seen: Seen) -> None:
    """With nobody asking nothing is computed."""
    until = time.monotonic() + 10
    while any(slot["is_processing"] for slot in server.client.get("/slots").json()):
        if time.monotonic() > until:
            seen.faults.append("it computes for nobody")
            return
        time.sleep(0.05)


def asked_and_gone(url: str, body: dict[str, Any], after: float) -> float:
    """Ask, and hang up so many seconds later; gives when, of :func:`time.perf_counter`."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    content = json.dumps(body).encode()
    head = (
        f"POST /infill HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((host, port)) as connection:
        connection.sendall(head.encode() + content)
        time.sleep(after)
    return time.perf_counter()
