"""The request router: a call about a file goes to the replica that has its cache.

Ray runs one in each process that calls engines. Replicas are ranked by their ids, which every
process knows alike. A replica that comes back has a new id, and no cache either: rendezvous hashing
moves the files of whoever came or went, and of nobody else. (Ray's ranks would be names that stay,
but they are dealt anew when replicas go.)
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Final

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from sc2onnx.fleet.choice import Choice
from sc2onnx_ray.board import post
from sc2onnx_ray.route import Route

ROUTE: Final = "route"
"""The keyword by which calls bring their :class:`~sc2onnx_ray.route.Route`."""

_JUST_NOW: Final = 0.05
"""Seconds between a choice and the call, at most: one that is given up is never made."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A replica as it stands now; see :class:`~sc2onnx.fleet.choice.Candidate`."""

    name: str
    going: int
    replica: RunningReplica


class FileRouter(RequestRouter):  # type: ignore[misc] # Ray is not typed
    """Sends calls by their :class:`~sc2onnx_ray.route.Route`, others to who has the least to do."""

    queue_len_response_deadline_s = 1.0
    """A replica whose processors are busy may take so long to say how much it has to do. Another
    one would have to compute the file first, which takes longer.
    """

    def initialize_state(self, slots: int = 8) -> None:
        """``slots``: requests that a replica computes together; with as many it is busy."""
        self._choice = Choice(slots)
        self._going = Counter[str]()
        self._meant = dict[str, deque[float]]()
        self._post()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """See :class:`ray.serve.request_router.RequestRouter`: ranks of one replica each."""
        given: dict[Any, Any] = {} if pending_request is None else pending_request.kwargs
        route = given.get(ROUTE, Route())
        standing = [self._standing(each) for each in candidate_replicas]
        meant = [each for each in standing if each.name == route.to]
        ranked = meant or self._ranked(route, standing)
        if ranked:
            self._meant.setdefault(ranked[0].name, deque()).append(time.monotonic())
        return [[each.replica] for each in ranked]

    def _ranked(self, route: Route, standing: list[Standing]) -> list[Standing]:
        fresh = [each for each in standing if each.name not in route.avoid]
        known = [each for each in standing if each.name in route.avoid]
        if route.keys:
            return self._choice.order(route.keys, fresh) + known
        return sorted(fresh, key=lambda each: each.going) + known

    def _standing(self, replica: RunningReplica) -> Standing:
        """What a replica has to do: what it said last, for others too, and at least what this
        process knows of; and calls that were to go there just now, of those that come together.
        """
        name, least = replica.replica_id.unique_id, time.monotonic() - _JUST_NOW
        said = self.replica_queue_len_cache.get(replica.replica_id) or 0
        meant = self._meant.get(name, deque())
        while meant and meant[0] < least:
            meant.popleft()
        return Standing(name, max(said, self._going[name]) + len(meant), replica)

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """A replica has taken a call: it has the file's cache from now on."""
        route = pending_request.kwargs.get(ROUTE, Route())
        replica = self.curr_replicas.get(replica_id)
        if route.keys and route.keeps and replica is not None:
            self._choice.chosen(route.keys, self._standing(replica))

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """See :class:`ray.serve.request_router.RequestRouter`."""
        super().on_send_request(replica_id)
        if meant := self._meant.get(replica_id.unique_id):
            meant.popleft()
        self._going[replica_id.unique_id] += 1
        self._post()

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """See :class:`ray.serve.request_router.RequestRouter`."""
        super().on_request_completed(replica_id, internal_request_id)
        self._going[replica_id.unique_id] = max(0, self._going[replica_id.unique_id] - 1)
        self._post()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """See :class:`ray.serve.request_router.RequestRouter`."""
        super().on_replica_actor_died(replica_id)
        self._post()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """See :class:`ray.serve.request_router.RequestRouter`."""
        super().update_replicas(replicas)
        self._post()

    def _post(self) -> None:
        """Let the front of this process know whom there is."""
        names = [each.unique_id for each in self.curr_replicas]
        for gone in set(self._going) - set(names):
            self._meant.pop(gone, None)
            if not self._going[gone]:
                del self._going[gone]
        post(self._deployment_id, {name: self._going[name] for name in names})
