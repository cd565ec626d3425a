"""What a step computes, without any model: bounds, order, rhythm, and that nobody starves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc2onnx.runtime.engine.scheduler import (
    AGING,
    LEAST,
    RHYTHM,
    Limits,
    Standing,
    Wish,
    admitted,
    drafting,
    planned,
)


@dataclass(frozen=True)
class Linear:
    """A step of one token costs 1, each further one ``slope``."""

    slope: float
    together: bool = True

    def seconds(self, decoding: int, entering: int) -> float:
        """In one pass, or in one for the rows and one for the prompt."""
        if self.together or not decoding or not entering:
            return 1 + self.slope * (decoding + entering - 1)
        return self.seconds(decoding, 0) + self.seconds(0, entering)


@st.composite
def wishes(draw: st.DrawFn) -> list[Wish]:
    found = []
    for arrival in range(draw(st.integers(0, 12))):
        standing = Standing(draw(st.integers(-2, 2)), arrival, draw(st.floats(0, 100)))
        prompt = draw(st.one_of(st.just(0), st.integers(1, 5000)))
        found.append(Wish(standing, prompt, draw(st.integers(1, 512))))
    return found


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    together, even = draw(st.sampled_from([(True, False), (False, False), (False, True)]))
    return Limits(draw(st.integers(1, 10)), draw(st.integers(1, 512)), together, even)


@given(wishes(), limits(), st.floats(0, 1))
@settings(max_examples=500)
def test_a_step_keeps_its_bounds(asked: list[Wish], bounds: Limits, slope: float) -> None:
    plan = planned(asked, bounds, Linear(slope))
    decoding = [place for place in plan if not asked[place].prompt]
    entering = [place for place in plan if asked[place].prompt]
    assert all(plan[place] == 1 for place in decoding)
    assert len(decoding) <= bounds.rows
    assert all(
        1 <= plan[place] <= min(asked[place].prompt, asked[place].most) for place in entering
    )
    assert sum(plan[place] for place in entering) <= bounds.chunk
    assert len(plan) <= bounds.rows + (not bounds.together)
    if not bounds.together:
        assert len(entering) <= 1
    if bounds.even:
        for place in entering:
            last = plan[place] == asked[place].prompt
            assert last or plan[place] == 1 or plan[place] % 2 == 0


@given(wishes(), limits(), st.floats(0, 1))
def test_a_step_gets_something_done(asked: list[Wish], bounds: Limits, slope: float) -> None:
    assert bool(planned(asked, bounds, Linear(slope))) == bool(asked)


@given(wishes(), limits(), st.floats(0, 1))
def test_prompts_keep_the_rhythm_of_those_that_decode(
    asked: list[Wish], bounds: Limits, slope: float
) -> None:
    costs = Linear(slope, bounds.together)
    plan = planned(asked, bounds, costs)
    decoding = sum(not asked[place].prompt for place in plan)
    entering = sum(count for place, count in plan.items() if asked[place].prompt)
    if decoding and entering > LEAST:
        assert costs.seconds(decoding, entering) <= RHYTHM * costs.seconds(decoding, 0) * (1 + 1e-9)


def test_where_steps_are_short_prompts_may_take_what_nobody_sees() -> None:
    """3 ms a step, and 10 ms for a pass of 512 tokens, as on a GPU."""

    class Costs:
        def seconds(self, decoding: int, entering: int) -> float:
            return 0.003 * bool(decoding) + (0.003 + 0.007 * entering / 512) * bool(entering)

    plan = planned(
        [Wish(Standing(0, 0), 0, 512), Wish(Standing(0, 1), 2000, 512)],
        Limits(8, 512, together=False),
        Costs(),
    )
    assert plan == {0: 1, 1: 512}


def test_the_example_of_the_docstring() -> None:
    rows = [Wish(Standing(0, i), 0, 256) for i in range(4)]
    prompt = Wish(Standing(0, 4), 2000, 256)

    class Costs:
        def seconds(self, decoding: int, entering: int) -> float:
            return 35 + 3.5 * (decoding + entering - 1)

    plan = planned([*rows, prompt], Limits(8, 256, together=True), Costs())
    assert plan == {0: 1, 1: 1, 2: 1, 3: 1, 4: 13}


def test_with_nobody_decoding_prompts_get_the_whole_chunk() -> None:
    asked = [Wish(Standing(0, 0), 100, 256), Wish(Standing(0, 1), 400, 256)]
    assert planned(asked, Limits(8, 256, together=True), Linear(0.1)) == {0: 100, 1: 156}
    assert planned(asked, Limits(8, 256, together=False), Linear(0.1)) == {0: 100}


def test_a_higher_priority_goes_first_and_then_who_came_first() -> None:
    asked = [
        Wish(Standing(0, 0), 500, 256),
        Wish(Standing(1, 2), 500, 256),
        Wish(Standing(1, 1), 500, 256),
    ]
    assert planned(asked, Limits(8, 256, together=True), Linear(0.1)) == {2: 256}
    assert admitted([wish.standing for wish in asked], 2) == [2, 1]
    assert admitted([wish.standing for wish in asked], 0) == []
    assert admitted([], 3) == []


def test_a_keystroke_does_not_wait_for_a_new_file() -> None:
    asked = [
        Wish(Standing(0, 0), 2000, 256),
        Wish(Standing(0, 1), 5, 256),
        Wish(Standing(0, 2), 2000, 256),
    ]
    assert planned(asked, Limits(8, 64, together=True), Linear(0.1)) == {1: 5, 0: 59}
    assert planned(asked, Limits(8, 64, together=False), Linear(0.1)) == {1: 5}


def test_a_prompt_of_a_lower_level_waits_while_others_run() -> None:
    rows = [
        Wish(Standing(0, 0), 0, 256),
        Wish(Standing(-10, 1), 500, 256),
        Wish(Standing(-10, 2), 0, 256),
    ]
    assert planned(rows, Limits(8, 64, together=True), Linear(0.1)) == {0: 1, 2: 1}
    assert planned(rows[1:], Limits(8, 64, together=True), Linear(0.1)) == {0: 10, 1: 1}
    old = replace(rows[1], standing=Standing(-10, 1, waited=10 * AGING))
    assert planned([rows[0], old], Limits(8, 64, together=True), Linear(0.1))[1] > 0


@pytest.mark.parametrize(
    ("unit", "slope", "expected"),
    [
        (0.035, 0.1, 33),  # 35 ms and 3.5 ms for each further token: 0.15 s
        (0.4, 0.03, 101),  # a step that is slow in any case: four times as long
        (0.003, 0.002, 256),  # a GPU
    ],
)
def test_where_others_may_come_a_step_of_prompts_is_short(
    unit: float, slope: float, expected: int
) -> None:
    class Costs:
        def seconds(self, decoding: int, entering: int) -> float:
            return unit * (1 + slope * (decoding + entering - 1))

    prompt = Wish(Standing(0, 0), 2000, 256)
    assert planned([prompt], Limits(8, 256, together=True, shared=True), Costs()) == {0: expected}
    assert planned([prompt], Limits(8, 256, together=True), Costs()) == {0: 256}


@given(st.integers(1, 5), st.integers(0, 5))
def test_nobody_starves(above: int, arrivals: int) -> None:
    """Newer requests of any higher priority overtake one only until it has waited long enough."""
    patient = Standing(0, 0, waited=AGING * (above + 1))
    newer = [Standing(above, 1 + i) for i in range(arrivals)]
    assert admitted([*newer, patient], 1) == [arrivals]
    impatient = replace(patient, waited=0.0)
    expected = [0] if newer else [arrivals]
    assert admitted([*newer, impatient], 1) == expected


@pytest.mark.parametrize(
    ("asked", "together", "expected"),
    [
        ([0, 0], True, [0, 1]),
        ([0, 0], False, []),
        ([0], False, [0]),
        ([0, 7], True, []),
        ([7], True, []),
    ],
)
def test_guesses_are_for_steps_in_which_no_prompt_enters(
    asked: Sequence[int], together: bool, expected: list[int]
) -> None:
    rows = [Wish(Standing(0, i), prompt, 256) for i, prompt in enumerate(asked)]
    plan = planned(rows, Limits(8, 256, together=True), Linear(0.1))
    assert drafting(plan, rows, together) == expected
