"""Editors, fronts and nodes, and what happens between them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import ceil, inf

from fleet_model.clock import Clock
from fleet_model.costs import OVERHEAD
from fleet_model.editors import Editor, Habits, Kind
from fleet_model.front import Front
from fleet_model.node import Node, Server
from fleet_model.policies import POLICIES, Member
from fleet_model.row import Ask, End, Row
from fleet_model.seen import Figures, Saw


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated. ``hop``: seconds that a front takes of a request; ``per_front``: nodes for
    each front; ``seconds`` that count, after ``settles``.
    """

    nodes: int
    editors: int
    policy: str
    seed: int = 0
    habits: Habits = field(default_factory=Habits)
    server: Server = field(default_factory=Server)
    hop: float = 0.002
    per_front: int = 25
    settles: float = 60.0
    seconds: float = 60.0


class Fleet:
    """A fleet with its editors, of whose files nothing is computed yet."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.clock, self.saw = plan, Clock(), list[Saw]()
        self.asked = 0
        chance = random.Random(f"fronts {plan.seed}")
        self._chance, make = chance, POLICIES[plan.policy]
        self.nodes = [self._node(number) for number in range(plan.nodes)]
        fronts = ceil(plan.nodes / plan.per_front)
        self.fronts = [Front(make(plan.server.slots, chance), []) for _ in range(fronts)]
        for front in self.fronts:
            front.members += [Member(_name(at), node) for at, node in enumerate(self.nodes)]
        self._sessions = self._people()

    def _node(self, number: int) -> Node:
        chance = random.Random(f"node {self.plan.seed} {number}")
        return Node(self.clock, self.plan.server, chance)

    def _people(self) -> list[Session]:
        numbers, plan = count(), self.plan
        found = list[Session]()
        for number in range(plan.editors):
            editor = Editor(plan.habits, random.Random(f"{plan.seed} {number}"), numbers)
            found.append(Session(self, editor))
        return found

    @property
    def under_way(self) -> int:
        """Requests whose end is to come."""
        return sum(session.asks for session in self._sessions)

    def submit(self, ask: Ask, over: Callable[[Row, End], None]) -> tuple[Member, Row] | None:
        """A request at any front."""
        self.asked += 1
        return self._chance.choice(self.fronts).submit(ask, over)

    def restart(self, number: int, drains: float, loads: float) -> None:
        """A node takes no more, ends what runs for some seconds, and comes back with nothing kept
        when it has loaded.
        """
        members = [front.members[number] for front in self.fronts]

        def ready(now: bool) -> None:
            for member in members:
                member.ready = now

        ready(False)
        self.clock.after(drains, self.nodes[number].restart)
        self.clock.after(drains + loads, partial(ready, True))

    def join(self) -> None:
        """One node more, with nothing kept."""
        node = self._node(len(self.nodes))
        self.nodes.append(node)
        for front in self.fronts:
            front.members.append(Member(_name(len(self.nodes) - 1), node))

    def run(self) -> Figures:
        """Go on to the end of the time that counts."""
        plan = self.plan
        self.clock.run(plan.settles)
        before = [(node.busy, node.behind) for node in self.nodes]
        self.clock.run(plan.settles + plan.seconds)
        shares = [
            (sum(each) - sum(was)) / (len(self.nodes) * plan.seconds)
            for each, was in (
                ([node.busy for node in self.nodes], [busy for busy, _ in before]),
                ([node.behind for node in self.nodes], [behind for _, behind in before]),
            )
        ]
        return Figures.of([each for each in self.saw if each.sent >= plan.settles], *shares)


def _name(number: int) -> str:
    return f"http://node-{number}:8012"


class Session:
    """An editor at work: each key ends the request before it, unless the editor waits."""

    def __init__(self, fleet: Fleet, editor: Editor) -> None:
        self._fleet, self.editor = fleet, editor
        self._habits = fleet.plan.habits
        self._going: tuple[Member, Row] | None = None
        self.asks = 0
        self._kind: Kind = "type"
        self._sent = self._next = 0.0
        self._count = 0
        fleet.clock.after(editor.begins(), self._press)

    def _press(self) -> None:
        self._count += 1
        if self._going is not None:
            member, row = self._going
            member.node.cancel(row)
        ask = self.editor.pressed(self._kind)
        kind = self._kind
        self._next, self._kind = self.editor.next()
        debounce, clock = self._habits.debounce, self._fleet.clock
        if self._next > debounce:
            self._count += 1
            way = debounce + self._fleet.plan.hop + OVERHEAD
            send = partial(self._ask, ask, kind, self._next - debounce, self._count)
            clock.after(way, send)
        if not self._habits.waits:
            clock.after(self._next, self._press)

    def _ask(self, ask: Ask, kind: Kind, following: float, number: int) -> None:
        if number != self._count:  # the next key was quicker than the way to the node
            return
        plan = self._fleet.plan
        self._sent, self.asks = self._fleet.clock.now - plan.hop - OVERHEAD, 1
        self._going = self._fleet.submit(ask, partial(self._over, kind, following))
        if self._going is None:
            self.asks = 0
            self._fleet.saw.append(Saw(self._sent, following, kind, "refused", inf, False))

    def _over(self, kind: Kind, following: float, row: Row, how: End) -> None:
        sent = self._sent
        first = row.first - sent if row.first else inf
        cut = bool(row.text.cut)
        self._fleet.saw.append(Saw(sent, following, kind, how, first, cut))
        self._going, self.asks = None, 0
        if self._habits.waits:
            self._fleet.clock.after(self._next, self._press)
