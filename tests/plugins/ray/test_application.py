"""The application answers as the server does, whichever engine it is."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import sc2onnx
from tests.plugins.ray.conftest import SLOTS, Cluster, engines, kill

CODE = (Path(sc2onnx.__file__).parent / "serve" / "service.py").read_text(encoding="utf-8")
ENDLESS = "import os\n"


def file(number: int) -> str:
    """Code of which no other file has a line."""
    return "\n".join(f"{line}  # {number}" for line in CODE.splitlines()[:30]) + "\n"


def body(prompt: str, tokens: int = 2, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}


def reused(reply: httpx.Response) -> float:
    """The part of the prompt that was computed before."""
    used = reply.json()["usage"]
    return float(used["prompt_tokens_details"]["cached_tokens"] / used["prompt_tokens"])


def test_completions_are_those_of_the_model(cluster: Cluster, model: sc2onnx.Model) -> None:
    found = cluster.post("/v1/completions", body("def add(a, b):\n", 16)).json()
    assert (
        found["choices"][0]["text"]
        == model.generate("def add(a, b):\n", max_new_tokens=16, temperature=0).text
    )


def test_pieces_come_as_they_are_computed(cluster: Cluster) -> None:
    whole = cluster.post("/v1/completions", body(ENDLESS, 40)).json()["choices"][0]["text"]
    times, pieces = list[float](), list[str]()
    with cluster.client.stream(
        "POST", f"{cluster.url}/v1/completions", json=body(ENDLESS, 40, stream=True)
    ) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
                pieces.append(json.loads(line[6:])["choices"][0]["text"])
    assert "".join(pieces) == whole
    assert len(times) > 10
    assert reply.headers.get_list("x-request-id") == [reply.headers["x-request-id"]]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_ends_its_request(cluster: Cluster, stream: bool) -> None:
    asking = threading.Thread(target=_ask_and_go, args=(cluster.url, stream))
    asking.start()
    cluster.until(lambda: cluster.processing() == 1, 5)
    asking.join()
    cluster.until(lambda: cluster.processing() == 0, 1)


def _ask_and_go(url: str, stream: bool) -> None:
    """Ask, and hang up a second later."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body(ENDLESS, 1900, stream=stream)).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + content)
        time.sleep(1)


def test_errors_come_in_the_clients_words(cluster: Cluster) -> None:
    wrong = cluster.client.post(
        f"{cluster.url}/v1/completions", content=b"{", headers={"content-type": "application/json"}
    )
    assert wrong.status_code == 400
    assert "not what this path takes" in wrong.json()["error"]["message"]
    assert isinstance(cluster.post("/api/generate", {"prompt": 1}).json()["error"], str)
    nobody = cluster.client.get(f"{cluster.url}/health", headers={"host": "evil.example"})
    assert nobody.status_code == 403
    page = cluster.post("/v1/completions", body("x"), headers={"origin": "http://evil.example"})
    assert page.status_code == 403


def test_a_files_keys_meet_its_cache(cluster: Cluster) -> None:
    files = [file(number) for number in range(12)]
    for text in files:
        cluster.post("/v1/completions", body(text))
    for typed in ("x", "xy", "xyz"):
        found = [reused(cluster.post("/v1/completions", body(text + typed))) for text in files]
        assert sum(part >= 0.9 for part in found) == len(files), found


def test_a_busy_engines_requests_go_elsewhere(cluster: Cluster) -> None:
    streams = SLOTS + 1
    with ThreadPoolExecutor(streams) as pool, httpx.Client(timeout=60) as client:
        asked = [
            pool.submit(client.post, f"{cluster.url}/v1/completions", json=body(ENDLESS, 1800))
            for _ in range(streams)
        ]
        cluster.until(lambda: cluster.processing() == streams, 10)
        page = client.get(f"{cluster.url}/metrics").text
        each = [
            line for line in page.splitlines() if line.startswith("llamacpp:requests_processing")
        ]
        assert min(float(line.rsplit(" ", 1)[1]) for line in each) > 0, each
        assert [reply.result().status_code for reply in asked] == [200] * streams


def test_what_is_too_much_is_refused(cluster: Cluster) -> None:
    found = cluster.post("/v1/completions", body(ENDLESS, 4, n=9))
    assert found.status_code == 400


def test_a_killed_engine_loses_nothing_that_was_accepted(cluster: Cluster) -> None:
    cluster.deploy(2)
    count = 6
    with ThreadPoolExecutor(2 * count) as pool:
        whole = [
            pool.submit(cluster.post, "/v1/completions", body(file(number), 300))
            for number in range(count)
        ]
        streams = [
            pool.submit(_streamed, cluster.url, file(10 + number)) for number in range(count)
        ]
        cluster.until(lambda: cluster.processing() >= 2 * SLOTS, 20)
        kill(engines()[0])
        began = time.monotonic()
        cut = [found for found in (each.result() for each in streams) if "error" in found[-1]]
        assert [reply.result().status_code for reply in whole] == [200] * count
    assert 0 < len(cut) < count
    assert {found[-1]["error"]["code"] for found in cut} == {502}
    assert time.monotonic() - began < 60
    cluster.until(lambda: cluster.members() == 2, 60)


def _streamed(url: str, prompt: str) -> list[dict[str, dict[str, object]]]:
    with httpx.stream(
        "POST", f"{url}/v1/completions", json=body(prompt, 1500, stream=True), timeout=60
    ) as reply:
        assert reply.status_code == 200
        return [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]


def test_after_a_kill_the_next_request_is_answered_within_a_second(cluster: Cluster) -> None:
    cluster.until(lambda: cluster.members() == 2, 60)
    for number in range(8):
        cluster.post("/v1/completions", body(file(number)))
    kill(engines()[0])
    for number in range(8):
        began = time.monotonic()
        assert cluster.post("/v1/completions", body(file(number))).status_code == 200
        assert time.monotonic() - began < 1
    cluster.until(lambda: cluster.members() == 2, 60)


def test_scaling_moves_the_files_of_who_goes_only(cluster: Cluster) -> None:
    files = [file(100 + number) for number in range(24)]
    cluster.deploy(2)
    assert _at_home(cluster, files, asked=0) == 0
    assert _at_home(cluster, files, asked=1) == len(files)
    cluster.deploy(4)
    assert _at_home(cluster, files, asked=2) == len(files)
    fresh = [file(200 + number) for number in range(24)]
    _at_home(cluster, fresh, asked=0)
    cluster.deploy(2)
    stayed = _at_home(cluster, fresh, asked=1)
    assert stayed >= 0.25 * len(fresh)  # half of them by arithmetic
    assert _at_home(cluster, fresh, asked=2) == len(fresh)


def _at_home(cluster: Cluster, files: list[str], asked: int) -> int:
    found = [reused(cluster.post("/v1/completions", body(text + "x" * asked))) for text in files]
    return sum(part >= 0.9 for part in found)


def test_streams_end_before_an_engine_does(cluster: Cluster) -> None:
    cluster.deploy(2)
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(_streamed, cluster.url, file(number)) for number in range(4)]
        cluster.until(lambda: cluster.processing() == 4, 20)
        cluster.deploy(1)
        assert not any("error" in found.result()[-1] for found in streams)
