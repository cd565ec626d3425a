"""Prompts that somebody waits for: cut to what there is time for, and whole
for the keys that follow.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sc2onnx.runtime.engine.costs import MixedCosts, StepCosts
from tests.serve.conftest import Served

CODE = Path(__file__).read_text(encoding="utf-8")
HALF = CODE.find("\n", len(CODE) // 2) + 1
BODY: dict[str, Any] = {
    "input_prefix": CODE[:HALF],
    "input_suffix": CODE[HALF:],
    "n_predict": 4,
    "temperature": 0,
    "t_max_prompt_ms": 1000,
}


@pytest.fixture(autouse=True)
def slow(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which each token of a prompt takes 10 ms, as far as was measured."""
    served.model.forget()
    costs(monkeypatch, 0.01)
    monkeypatch.setattr(StepCosts, "known", True)


def costs(monkeypatch: pytest.MonkeyPatch, token: float) -> None:
    """Have each token of a prompt take so many seconds."""
    monkeypatch.setattr(MixedCosts, "seconds", lambda self, decoding, entering: token * entering)


def quiet(served: Served) -> None:
    until = time.monotonic() + 30
    while not served.model.engine.lobby.empty and time.monotonic() < until:
        time.sleep(0.01)


def test_a_cold_prompt_is_cut_and_the_next_one_is_whole(served: Served) -> None:
    whole = served.model.infill(CODE[:HALF], CODE[HALF:], order="spm", heal=True, max_new_tokens=4)
    assert whole.prompt_tokens > 300
    served.model.forget()
    first = served.post("/infill", BODY).json()
    assert 32 <= first["tokens_evaluated"] <= 64
    assert first["truncated"] is True
    near = served.model.infill(
        CODE[:HALF], CODE[HALF:], order="spm", heal=True, max_new_tokens=4, prompt_tokens=64
    )
    assert first["content"] == near.text
    quiet(served)
    second = served.post("/infill", {**BODY, "input_prefix": CODE[:HALF] + "x"}).json()
    assert second["truncated"] is False
    assert second["tokens_evaluated"] > 300
    assert second["timings"]["prompt_n"] < 10


def test_streams_are_cut_as_well(served: Served) -> None:
    reply = served.post("/infill", {**BODY, "stream": True})
    assert '"truncated":true' in reply.text
    quiet(served)


@pytest.mark.parametrize(
    "body",
    [{"t_max_prompt_ms": 0}, {"t_max_prompt_ms": 60_000}, {"t_max_prompt_ms": 1, "n_predict": 0}],
)
def test_there_may_be_time_for_all(served: Served, body: dict[str, int]) -> None:
    answer = served.post("/infill", {**BODY, **body}).json()
    assert answer["truncated"] is False
    assert answer["tokens_evaluated"] > 300


def test_nothing_is_cut_before_anything_was_measured(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepCosts, "known", False)
    assert served.post("/infill", BODY).json()["truncated"] is False


def test_only_the_latest_are_computed_behind(served: Served) -> None:
    for number in range(6):
        served.post("/infill", {**BODY, "input_suffix": f"# {number}\n{CODE[HALF:]}"})
    assert len(served.service._following) == 2
    quiet(served)
    assert (
        served.post("/infill", {**BODY, "input_suffix": f"# 5\n{CODE[HALF:]}"}).json()["truncated"]
        is False
    )


def test_cuts_stay_where_they_are_while_costs_waver(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = set()
    for cost in (0.0051, 0.0056, 0.006, 0.0065, 0.0075):  # of a token: there is time for 133 to 196
        costs(monkeypatch, cost)
        served.model.forget()
        cuts.add(served.post("/infill", BODY).json()["tokens_evaluated"])
        quiet(served)
    assert len(cuts) == 1
    assert 64 < min(cuts) <= 128
