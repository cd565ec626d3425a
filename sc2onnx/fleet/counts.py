"""What a front has done, for Prometheus, and what its members have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.responses import Response

from sc2onnx.fleet.asked import Asked, Fleet
from sc2onnx.fleet.member import Call, Headers, LostError


class Counts:
    """Counts of a front.

    ``gathers``: whether its page has its members' figures as well, each with the label ``member``;
    where Prometheus reaches the members, it asks them.
    """

    def __init__(self, members: Fleet, *, gathers: bool) -> None:
        self._members, self._gathers = members, gathers
        self._registry = registry = CollectorRegistry()
        told = "Answers of the front by their status; 499: the client was gone before."
        self._answers = Counter("sc2onnx:front_answers", told, ["status"], registry=registry)
        told = "Requests whose member was lost while it answered."
        self._lost = Counter("sc2onnx:front_lost", told, registry=registry)
        told = "Members that are ready."
        ready = Gauge("sc2onnx:front_members_ready", told, registry=registry)
        ready.set_function(lambda: len(members.ready()))
        told = "Requests that members compute for this front."
        going = Gauge("sc2onnx:front_requests_processing", told, registry=registry)
        going.set_function(lambda: sum(member.going for member in members.all))

    def answered(self, status: int) -> None:
        """A request was answered, or refused."""
        self._answers.labels(status).inc()

    def lost(self) -> None:
        """A member was lost."""
        self._lost.inc()

    async def page(self, headers: Headers) -> Response:
        """The figures, as Prometheus reads them. ``headers``: the request's, for the members."""
        registries = [self._registry]
        if self._gathers:
            asked = [_figures(member, headers) for member in self._members.ready()]
            gathered = CollectorRegistry()
            gathered.register(_Gathered(await asyncio.gather(*asked)))
            registries.append(gathered)
        text = b"".join(map(generate_latest, registries))
        return Response(text, media_type="text/plain; version=0.0.4")


class _Gathered(Collector):
    """Figures of several members, each family once."""

    def __init__(self, found: Iterable[tuple[str, str]]) -> None:
        self._families = dict[str, Metric]()
        for name, text in found:
            for family in text_string_to_metric_families(text):
                merged = self._families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for each in family.samples:
                    merged.add_sample(each.name, {**each.labels, "member": name}, each.value)

    def collect(self) -> Iterator[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        yield from self._families.values()


async def _figures(member: Asked, headers: Headers) -> tuple[str, str]:
    try:
        async with member.ask(Call(b"GET", b"/metrics", headers, b"")) as reply:
            body = b"".join([part async for part in reply.parts])
            return member.name, body.decode() if reply.status == 200 else ""
    except LostError:
        return member.name, ""
