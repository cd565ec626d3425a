"""Options, examples, cores and scaling, without a cluster."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is installed in an environment of its own: make ray")

import yaml
from ray.serve.schema import ServeDeploySchema

from sc2onnx.errors import RequestError
from sc2onnx.fleet.member import Call
from sc2onnx_ray.app import build
from sc2onnx_ray.cores import pinned
from sc2onnx_ray.driving import answered
from sc2onnx_ray.options import Options
from sc2onnx_ray.scaling import EVICTED, MANY, STAYS, engines
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "plugins" / "ray" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_examples_are_what_ray_and_the_application_take(path: Path, tmp_path: Path) -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    (application,) = config.applications
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-somebody\n")
    args = dict(application.args)
    if "key_files" in args:
        args["key_files"] = [str(keys)]
    build(args)
    assert {each.name for each in application.deployments} <= {"Engine", "Front"}
    assert application.import_path == "sc2onnx_ray.app:build"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({}, "models is empty"),
        ({"models": {"a": "b"}, "port": 1}, "http_options"),
        ({"models": {"a": "b"}, "replica": 1}, "did you mean"),
        ({"models": {"a": "b"}, "replicas": "two"}, "replicas is 'two', expected `int`"),
        ({"models": {"a": "b"}, "replicas": 0}, "expected 1 or more"),
        ({"models": {"a": "b"}, "replicas": 3, "most_replicas": 2}, "expected 3 or more"),
        ({"models": {"a": "b"}, "max_batch": "x"}, "max_batch is 'x'"),
    ],
)
def test_what_is_wrong_is_told(args: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        build(args)


def test_how_many_there_are_starts_no_engine_anew() -> None:
    few, many = ({"models": {"a": "b"}, "replicas": count, "fronts": count} for count in (1, 4))
    assert Options.of(few).engine == Options.of(many).engine


def test_each_engine_has_cores_of_its_own(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("there is one processor")
    try:
        held = pinned(1, tmp_path)
        assert held is not None
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, before)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            other = pool.apply(_pinned, (tmp_path,))
        assert mine
        assert other
        assert not mine & other
        held.close()
    finally:
        os.sched_setaffinity(0, before)


def _pinned(folder: Path) -> set[int]:
    held = pinned(1, folder)
    assert held is not None
    return os.sched_getaffinity(0)


def test_an_application_is_called_and_given_up_in_process() -> None:
    ended = list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (scope["path"], scope["query_string"]) == ("/a b", b"c=d")
        assert (await receive())["body"] == b"body"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        try:
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await receive()
        finally:
            ended.append("app")

    async def run() -> None:
        call = Call(b"POST", b"/a%20b?c=d", [(b"host", b"localhost")], b"body")
        parts = answered(app, call)
        assert await anext(parts) == (200, [(b"x", b"y")], b"one")
        await parts.aclose()
        assert ended == ["app"]

    asyncio.run(run())


def test_an_application_that_fails_is_told_of() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("it fails")

    async def run() -> None:
        async for _ in answered(app, Call(b"GET", b"/", [], b"")):
            pass

    with pytest.raises(ValueError, match="it fails"):
        asyncio.run(run())


def _context(requests: float, evicted: float, count: int, now: float, state: dict[str, Any]) -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(get_target_ongoing_requests=lambda: 4.0),
        total_num_requests=requests,
        aggregated_metrics={EVICTED: {f"r{number}": evicted for number in range(count)}},
        current_num_replicas=count,
        target_num_replicas=count,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=5,
        current_time=now,
        policy_state=state,
    )


def test_engines_are_as_many_as_requests_and_caches_call_for() -> None:
    assert engines(_context(9, 0, 1, 0, {}))[0] == 3
    assert engines(_context(90, 0, 1, 0, {}))[0] == 5
    assert engines(_context(0, 0, 2, 0, {}))[0] == 1
    wanted, state = engines(_context(0, MANY, 2, 100, {}))
    assert wanted == 3
    assert engines(_context(0, 0, 3, 100 + STAYS / 2, state))[0] == 3
    assert engines(_context(0, 0, 3, 101 + STAYS, state))[0] == 1
