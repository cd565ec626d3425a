"""Who answers, as the request router decides it, without a cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is installed in an environment of its own: make ray")

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID

from sc2onnx_ray.board import posted
from sc2onnx_ray.route import Route
from sc2onnx_ray.routing import FileRouter

ENGINES = DeploymentID("Engine", "test")
SLOTS = 2


@dataclass
class Replica:
    """What a router knows of one."""

    replica_id: ReplicaID
    max_ongoing_requests: int = 100

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return 0


def replica(name: str) -> Any:
    return Replica(ReplicaID(name, ENGINES))


def router() -> FileRouter:
    made = FileRouter(ENGINES, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
    made.initialize_state(slots=SLOTS)
    return made


def call(*keys: int, **more: Any) -> Any:
    return SimpleNamespace(kwargs={"route": Route(keys, keeps=True, **more)})


async def chosen(made: FileRouter, asked: Any) -> str:
    ranks = await made.choose_replicas(list(made.curr_replicas.values()), asked)
    assert [len(rank) for rank in ranks] == [1] * len(made.curr_replicas)
    return str(ranks[0][0].replica_id.unique_id)


async def first(made: FileRouter, asked: Any) -> str:
    """Who answers a call that is over when the next one comes."""
    name = await chosen(made, asked)
    made.on_send_request(ReplicaID(name, ENGINES))
    over(made, name)
    return name


def over(made: FileRouter, name: str) -> None:
    made.on_request_completed(ReplicaID(name, ENGINES), "")
    made.decrement_queue_len_cache(ReplicaID(name, ENGINES))


def test_a_file_stays_where_its_cache_is() -> None:
    async def run() -> None:
        made = router()
        made.update_replicas([replica("a"), replica("b")])
        homes = [await first(made, call(key)) for key in range(40)]
        assert set(homes) == {"a", "b"}
        for key, home in enumerate(homes):
            made.on_request_routed(call(key), ReplicaID(home, ENGINES), None)
        made.update_replicas([replica(name) for name in "abcd"])
        assert [await first(made, call(key)) for key in range(40)] == homes
        fresh = [await first(made, call(100 + key)) for key in range(80)]
        assert {"a", "b", "c", "d"} == set(fresh)
        made.update_replicas([replica(name) for name in "acd"])
        after = [await first(made, call(key)) for key in range(40)]
        assert all(new == old for new, old in zip(after, homes, strict=True) if old == "a")
        assert "b" not in after

    asyncio.run(run())


def test_a_busy_one_is_relieved_and_a_call_that_was_refused_goes_elsewhere() -> None:
    async def run() -> None:
        made = router()
        made.update_replicas([replica("a"), replica("b")])
        home = await first(made, call(1))
        other = "b" if home == "a" else "a"
        assert await first(made, call(1, avoid=(home,))) == other
        for _ in range(SLOTS):
            made.on_send_request(ReplicaID(home, ENGINES))
        assert await first(made, call(1)) == other
        assert await first(made, SimpleNamespace(kwargs={})) == other
        assert dict(posted(ENGINES)) == {home: SLOTS, other: 0}
        over(made, home)
        assert await first(made, call(1)) == home

    asyncio.run(run())


def test_calls_that_come_together_count_before_they_are_sent() -> None:
    async def run() -> None:
        made = router()
        made.update_replicas([replica("a"), replica("b")])
        together = [await chosen(made, call(1)) for _ in range(SLOTS + 1)]
        assert together[:SLOTS] == together[:1] * SLOTS
        assert together[SLOTS] != together[0]
        await asyncio.sleep(0.06)
        assert await first(made, call(1)) == together[0]

    asyncio.run(run())


def test_what_a_replica_says_of_others_requests_counts() -> None:
    async def run() -> None:
        made = router()
        made.update_replicas([replica("a"), replica("b")])
        home = await first(made, call(1))
        made.on_new_queue_len_info(ReplicaID(home, ENGINES), SLOTS)
        assert await first(made, call(1)) != home

    asyncio.run(run())


def test_one_may_be_meant() -> None:
    async def run() -> None:
        made = router()
        made.update_replicas([replica("a"), replica("b")])
        for name in "ab":
            ranks = await made.choose_replicas(list(made.curr_replicas.values()), call(1, to=name))
            assert [each.replica_id.unique_id for rank in ranks for each in rank] == [name]
        made.on_replica_actor_died(ReplicaID("a", ENGINES))
        assert dict(posted(ENGINES)) == {"b": 0}

    asyncio.run(run())
