"""The simulation of a fleet: what must hold whatever the figures are."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import mean

import pytest

import simulate_fleet
from fleet_model.assumptions import assumptions
from fleet_model.costs import MEASURED, OVERHEAD, TOKEN_BYTES, StepTable
from fleet_model.fleet import Fleet, Plan
from fleet_model.load import Point, borne, knee
from fleet_model.node import Server
from fleet_model.policies import POLICIES, hashes_kept
from fleet_model.seen import Figures, Saw, tail
from fleet_model.store import Store, Text
from fleet_model.validation import compared_load
from sc2onnx.fleet import choice
from tests.conftest import ROOT

Captured = pytest.CaptureFixture[str]
SMALL = Plan(3, 30, "affinity", settles=10, seconds=40)


def ran(plan: Plan) -> Fleet:
    fleet = Fleet(plan)
    fleet.run()
    return fleet


@pytest.mark.parametrize("policy", POLICIES)
def test_each_request_ends_once(policy: str) -> None:
    fleet = ran(replace(SMALL, policy=policy))
    assert len(fleet.saw) > 100
    assert len(fleet.saw) + fleet.under_way == fleet.asked


def test_each_request_ends_once_where_nodes_restart_and_join() -> None:
    fleet = Fleet(replace(SMALL, editors=240))
    fleet.clock.run(10)
    fleet.restart(0, drains=0, loads=1)
    fleet.join()
    fleet.clock.run(40)
    assert len(fleet.saw) + fleet.under_way == fleet.asked
    ends = {each.end for each in fleet.saw}
    assert {"done", "superseded", "lost"} <= ends
    members = fleet.fronts[0].members
    assert all(member.ready for member in members)
    assert sum(member.going for member in members) == fleet.under_way
    assert fleet.nodes[0].asked
    assert fleet.nodes[3].asked


def test_requests_beyond_the_bound_are_refused_and_end() -> None:
    fleet = ran(replace(SMALL, nodes=1, editors=60, server=Server(waiting=4)))
    assert "refused" in {each.end for each in fleet.saw}
    assert len(fleet.saw) + fleet.under_way == fleet.asked


@pytest.mark.parametrize("policy", ["affinity", "round robin"])
def test_nothing_is_quicker_than_a_step_of_one(policy: str) -> None:
    fleet = ran(replace(SMALL, policy=policy, server=Server(noise=0)))
    least = MEASURED[1] + OVERHEAD + SMALL.hop
    assert least - 1e-9 <= min(each.first for each in fleet.saw) < 1.2 * least
    for node in fleet.nodes:
        assert node.busy + node.behind <= 50 * 1.01


def test_steps_cost_what_was_measured_and_more_tokens_more() -> None:
    table = StepTable()
    assert all(table.seconds(0, size) == pytest.approx(cost) for size, cost in MEASURED.items())
    costs = [table.seconds(1, size) for size in range(3000)]
    assert costs == sorted(costs)
    assert table.seconds(0, 2000) == pytest.approx(2000 / 256, rel=0.01)


@pytest.mark.parametrize("without", ["least loaded", "random", "round robin"])
def test_affinity_is_never_worse_in_the_mean(without: str) -> None:
    def seconds(policy: str) -> float:
        runs = [ran(replace(SMALL, policy=policy, seed=seed)) for seed in range(2)]
        saw = [each for run in runs for each in run.saw]
        return mean(min(each.first, each.next) for each in saw)

    assert seconds("affinity") < seconds(without)


def test_a_seed_gives_the_same_again_and_another_does_not() -> None:
    one, again, other = (ran(replace(SMALL, seed=seed)).saw for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_kept_hashes_change_nothing() -> None:
    weight = choice.weight
    plain = ran(SMALL).saw
    with hashes_kept():
        assert ran(SMALL).saw == plain
    assert choice.weight is weight


def test_keys_are_the_same_whatever_the_policy() -> None:
    runs = [ran(replace(SMALL, policy=policy)).saw for policy in ("affinity", "random")]
    pressed = [sorted((each.sent, each.kind) for each in saw if each.sent < 30) for saw in runs]
    assert pressed[0] == pressed[1]


def test_a_store_keeps_the_latest_and_no_more_than_its_limit() -> None:
    store = Store(limit=100 * TOKEN_BYTES)
    first, second = Text(1, 0), Text(2, 0)
    store.put(first, 60)
    store.put(second, 30)
    store.put(first, 50)  # which it has, and uses again
    store.put(Text(3, 0), 30)
    assert store.reach(second) == 0
    assert store.nbytes == 90 * TOKEN_BYTES
    assert store.take(first) == 60
    assert store.reach(first) == 0


def test_an_answer_that_never_came_counts_as_the_pause() -> None:
    never = Saw(0, 3, "type", "superseded", inf, False)
    assert tail([never]) == 3
    assert tail([never._replace(first=0.5)]) == 0.5


def point(load: int, seconds: float) -> Point:
    return Point(load, 0, Figures(1, 1, {}, (seconds, seconds), seconds, seconds, 1.0))


def test_bounds_are_read_between_the_loads() -> None:
    points = [point(2, 0.1), point(8, 0.4), point(32, 1.6)]
    assert borne(points, 0.2) == pytest.approx(4)
    assert borne(points, 0.05) is None
    assert borne(points, 2) == inf
    assert knee(points) == pytest.approx(4)


def test_a_simulated_server_is_near_the_measured_one() -> None:
    figures = compared_load(range(3))
    assert len(figures) == 5
    for each in figures:
        assert abs(each.off) < 0.3, str(each)


def test_the_script_prints_assumptions_and_writes_figures(tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("matplotlib")
    written, drawn = tmp_path / "load.json", tmp_path / "load.png"
    options = ["--tiny", "--think", "20", "--json", str(written), "--plot", str(drawn)]
    assert simulate_fleet.main(["load", *options]) == 0
    told = capsys.readouterr().out
    assert "thinks for 20 s" in told
    assert "| 4 | least loaded |" in told
    points = json.loads(written.read_text())["points"]
    assert {each["policy"] for each in points} == {"affinity", "least loaded"}
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_the_script_says_what_a_restart_does(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written, drawn = tmp_path / "events.json", tmp_path / "events.png"
    options = ["--tiny", "--per-node", "4", "--json", str(written), "--plot", str(drawn)]
    assert simulate_fleet.main(["events", *options]) == 0
    courses = json.loads(written.read_text())["courses"]
    assert {(each["event"], each["policy"]) for each in courses} >= {("restart", "affinity")}
    assert drawn.exists()


def test_the_documentation_has_every_assumption() -> None:
    text = " ".join((ROOT / "docs" / "sizing.md").read_text(encoding="utf-8").split())
    for each in assumptions(Plan(1, 1, "affinity")):
        assert each in text
