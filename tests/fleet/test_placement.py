"""Processors for workers, on machines that this one is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sc2onnx.errors import RequestError
from sc2onnx.fleet.placement import Place, places


def machine(folder: Path, nodes: int, cores: int, siblings: int) -> list[int]:
    """The files of a machine; processor p + n is the sibling of p, as Linux numbers them."""
    total = nodes * cores
    for processor in range(total * siblings):
        core = processor % total
        place = folder / f"cpu/cpu{processor}"
        (place / "topology").mkdir(parents=True)
        (place / f"node{core // cores}").mkdir()
        listed = ",".join(str(core + total * number) for number in range(siblings))
        (place / "topology/thread_siblings_list").write_text(listed + "\n")
    return list(range(total * siblings))


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(found), raising=False)
    return found


def test_siblings_and_nodes_stay_together(tmp_path: Path, allowed: list[int]) -> None:
    allowed += machine(tmp_path, nodes=2, cores=4, siblings=2)
    assert places(2, system=tmp_path) == [
        Place((0, 1, 2, 3, 8, 9, 10, 11), 4),
        Place((4, 5, 6, 7, 12, 13, 14, 15), 4),
    ]
    assert places(4, system=tmp_path)[1] == Place((2, 3, 10, 11), 2)


def test_what_does_not_divide_is_shared_as_evenly_as_it_can_be(
    tmp_path: Path, allowed: list[int]
) -> None:
    allowed += machine(tmp_path, nodes=1, cores=7, siblings=1)
    found = places(3, system=tmp_path)
    assert sorted(len(each.processors) for each in found) == [2, 2, 3]
    assert sorted(sum((each.processors for each in found), ())) == list(range(7))


def test_only_processors_that_may_be_used_are(tmp_path: Path, allowed: list[int]) -> None:
    machine(tmp_path, nodes=2, cores=4, siblings=2)
    allowed += [5, 6, 13]
    assert places(2, system=tmp_path) == [Place((5, 13), 1), Place((6,), 1)]


def test_more_workers_than_cores_are_refused(tmp_path: Path, allowed: list[int]) -> None:
    allowed += machine(tmp_path, nodes=1, cores=2, siblings=2)
    with pytest.raises(RequestError, match="workers is 3, expected at most 2"):
        places(3, system=tmp_path)


def test_a_machine_that_tells_nothing_has_processors_at_least(
    tmp_path: Path, allowed: list[int]
) -> None:
    allowed += [0, 1, 2, 3]
    assert places(2, system=tmp_path) == [Place((0, 1), 2), Place((2, 3), 2)]


def test_more_workers_than_cores_share_them_where_threads_are_said(
    tmp_path: Path, allowed: list[int]
) -> None:
    allowed += machine(tmp_path, nodes=1, cores=2, siblings=1)
    assert places(4, 1, tmp_path) == [Place((), 1)] * 4
    assert places(2, 3, tmp_path) == [Place((0,), 3), Place((1,), 3)]
