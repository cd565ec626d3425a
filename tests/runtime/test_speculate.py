from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sc2onnx
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.quantization import Quantization
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.engine.costs import StepCosts
from sc2onnx.runtime.engine.lookup import MOST_TEXTS, Guess, Lookup, Memory, Text
from sc2onnx.runtime.engine.speculate import MOST, RISK, STAKE, Acceptance, Drafter
from sc2onnx.runtime.loading import open_model
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.options import GenerationRules
from sc2onnx.runtime.ort.binding import Step
from sc2onnx.runtime.ort.steps import steps_agree
from sc2onnx.runtime.request import Drafting

RULES = GenerationRules(8, SamplingParameters(), (), frozenset(), False)
REPEATING = "def area(width, height):\n    return width * height\n\n\n" * 12 + "def area("


@pytest.fixture(scope="module")
def plain(bundle: Path) -> sc2onnx.Model:
    return sc2onnx.load(bundle, speculate=False)


@pytest.fixture
def eager(bundle: Path) -> sc2onnx.Model:
    """A model that drafts whenever there is a match: further tokens cost nothing, and
    being wrong is always borne.
    """
    model = sc2onnx.load(bundle, speculate=True)
    _costless(model)
    return model


def _costless(model: sc2onnx.Model) -> None:
    model.engine.steps.costs.steps = free = _Free()
    model.requests.drafting = Drafting(Memory(), free)


class _Free(StepCosts):
    @property
    def known(self) -> bool:
        """Always."""
        return True

    def add(self, size: int, seconds: float) -> None:
        """Nothing is learnt."""

    def seconds(self, size: int) -> float:
        return 1.0


def _longest_earlier(tokens: list[int]) -> int:
    """Length of the longest end of the text that stood before as well and
    was followed by something.
    """
    return max((n for place in range(1, len(tokens)) for n in [_common(tokens, place)]), default=0)


def _common(tokens: list[int], place: int) -> int:
    n = 0
    while n < place and tokens[place - 1 - n] == tokens[len(tokens) - 1 - n]:
        n += 1
    return n


def _guessed(lookup: Lookup, count: int) -> list[int]:
    return [guess.token for guess in islice(lookup.guesses(), count)]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 40))
def test_a_guess_follows_the_longest_match(tokens: list[int], cut: int) -> None:
    text = Text(tokens[:cut])
    for token in tokens[cut:]:
        text.append(token)
    guess = next(Lookup(text).guesses(), None)
    longest = _longest_earlier(tokens)
    if longest == 0:
        assert guess is None
        return
    assert guess is not None
    assert 0 < guess.share <= 1
    places = [place for place in range(1, len(tokens)) if _common(tokens, place) >= 1]
    if len(places) <= 8:  # of more, the latest are looked at
        followed = [_common(tokens, place) for place in places if tokens[place] == guess.token]
        assert max(followed) == guess.length or guess.length < 2
        if longest >= 2 and sum(_common(tokens, place) == longest for place in places) == 1:
            rest = sum(
                8.0 ** _common(tokens, place)
                for place in places
                if _common(tokens, place) < longest
            )
            assert guess.length == longest or rest >= 8.0**longest


def test_a_text_that_grows_is_one_that_was_given_whole() -> None:
    tokens = [random.Random(4).randrange(6) for _ in range(200)]
    grown = Text()
    for token in tokens:
        grown.append(token)
    for end in range(2, 40):
        assert grown.places(tokens[:end]) == Text(tokens).places(tokens[:end])


def test_what_came_more_often_is_guessed_and_then_goes_on() -> None:
    lookup = Lookup(Text([1, 2, 7, 9, 1, 2, 8, 5, 1, 2, 8, 6, 1, 2]))
    first = next(lookup.guesses())
    assert (first.token, first.length) == (8, 2)
    assert first.share == pytest.approx(2 / 3)
    assert _guessed(Lookup(Text([3, 4, 3, 4, 3])), 4) == [4, 3, 4, 3]


def test_a_copy_goes_on_after_a_replaced_name() -> None:
    old = [10, 11, 12, 13, 14, 15, 16, 17]
    lookup = Lookup(Text([*old, 99, 10, 11, 12]))
    assert _guessed(lookup, 2) == [13, 14]
    lookup.extend([50])  # instead of 13
    assert _guessed(lookup, 2) == []
    lookup.extend([14])
    assert _guessed(lookup, 3) == [15, 16, 17]


def test_earlier_texts_are_looked_into_until_they_are_too_many() -> None:
    memory = Memory(limit=40)
    Lookup.of([1, 2, 3, 4, 5], memory)
    assert _guessed(Lookup.of([30, 1, 2], memory), 2) == [3, 4]
    assert _guessed(Lookup.of([30, 1, 2]), 2) == []
    Lookup.of(range(100, 138), memory)
    assert _guessed(Lookup.of([31, 1, 2], memory), 2) == []
    memory.clear()
    assert _guessed(Lookup.of([110, 111], memory), 2) == []


def test_however_many_short_texts_there_were_only_the_latest_are_looked_into() -> None:
    memory = Memory()
    texts = [memory.begin([number, number + 1]) for number in range(3 * MOST_TEXTS)]
    assert memory.others(texts[-1]) == texts[-MOST_TEXTS:-1]


def test_a_text_takes_the_place_of_its_earlier_state() -> None:
    memory = Memory()
    before = Lookup.of(range(50), memory)
    before.extend([7, 7])
    after = Lookup.of([*range(50), 60], memory)
    assert memory.others(after.text) == []


def test_a_text_without_repetition_has_no_drafts() -> None:
    assert _guessed(Lookup(Text(range(200))), 1) == []
    assert _guessed(Lookup(Text()), 1) == []


def test_costs_are_medians_and_straight_lines_between() -> None:
    costs, known = StepCosts(), list[bool]()
    for seconds in (9.0, 1.0, 1.0):
        costs.add(1, seconds)
        known.append(costs.known)
    assert known == [False, False, True]
    assert costs.seconds(1) == 1.0
    assert costs.seconds(3) == pytest.approx(1.8)  # as assumed
    costs.add(5, 3.0)
    assert costs.seconds(3) == pytest.approx(2.0)
    assert costs.seconds(9) == pytest.approx(5.0)
    costs.add(9, 2.0)  # not plausible, but noise can do it
    assert costs.seconds(20) >= costs.seconds(9)


def test_what_was_measured_on_a_busy_machine_is_forgotten() -> None:
    costs = StepCosts()
    for size in (1, 1, 1, 4, 4):
        costs.add(size, 1.0 if size == 1 else 50.0)
    seen = []
    for _ in range(200):
        costs.add(1, 1.0)
        seen.append(costs.seconds(4))
    assert seen[0] == 50.0
    assert seen[-1] == pytest.approx(2.2)  # as assumed, so that it is tried again
    assert costs.sizes() == [1]


def test_acceptance_starts_as_code_has_it_and_follows_the_text() -> None:
    rates = Acceptance()
    sure, split = (
        [rates.rate(Guess(0, length, share)) for length in (1, 2, 3, 8, 9, 40)]
        for share in (1.0, 0.6)
    )
    assert sure == sorted(sure)
    assert all(0 < low < high < 1 for low, high in zip(split, sure, strict=True))
    for _ in range(50):
        rates.add(Guess(0, 3, 1.0), True)
        rates.add(Guess(0, 40, 1.0), False)
    assert rates.rate(Guess(0, 4, 1.0)) > 0.9
    assert rates.rate(Guess(0, 17, 1.0)) < 0.2


def _simulate(text: list[int], prompt: int, seconds: Any) -> tuple[float, Drafter]:
    """Seconds of decoding ``text`` after its first ``prompt`` tokens, and the drafter."""
    drafter, done, total = Drafter(Lookup(Text(text[:prompt])), StepCosts()), prompt + 1, 0.0
    drafter.outcome([], text[prompt:done], None)
    while done < len(text):
        draft = drafter.draft(min(MOST, len(text) - done - 1))
        right = 0
        while right < len(draft) and text[done + right] == draft[right]:
            right += 1
        cost = seconds(len(draft) + 1)
        drafter.costs.add(len(draft) + 1, cost)
        drafter.outcome(draft, text[done : done + right + 1], cost)
        done, total = done + right + 1, total + cost
    return total, drafter


@pytest.mark.parametrize("slope", [0.05, 0.35, 1.0])
def test_wrong_drafts_never_cost_more_than_a_few_per_cent(slope: float) -> None:
    noise = random.Random(0)
    pairs = [noise.randrange(40) for _ in range(600)]
    # pairs come again, what follows does not
    text = [token for i, pair in enumerate(pairs) for token in (1000 + pair, 2000 + pair, 5000 + i)]
    total, drafter = _simulate(text, 300, lambda size: 1 + slope * (size - 1))
    plain = len(text) - 301
    assert total <= plain * (1 + RISK) + STAKE + 1e-6
    assert drafter.accepted <= drafter.drafted


def test_right_drafts_are_worth_their_cost() -> None:
    noise = random.Random(1)
    code = [noise.randrange(5000) for _ in range(300)]
    total, drafter = _simulate([*code, *code[:280]], 310, lambda size: 1 + 0.35 * (size - 1))
    assert 269 / total > 2
    assert drafter.accepted / drafter.drafted > 0.9


def test_steps_that_cost_in_proportion_are_not_speculated_on() -> None:
    code = [random.Random(2).randrange(5000) for _ in range(100)] * 3
    costs = StepCosts()
    for size in (1, 1, 1, 2, 4, 8, 16):
        costs.add(size, float(size))
    drafter = Drafter(Lookup(Text(code)), costs)
    assert drafter.draft(31) == []


@pytest.mark.parametrize(
    "prompt",
    [REPEATING, "import os\n" * 300, "x = 1\n"],
    ids=["repeating", "past the window", "short"],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.9, "top_p": 0.95, "seed": 3}, {"repetition_penalty": 1.2}],
    ids=["greedy", "sampled", "penalised"],
)
def test_tokens_are_those_without_drafts(
    plain: sc2onnx.Model, eager: sc2onnx.Model, prompt: str, options: dict[str, Any]
) -> None:
    expected = plain.generate(prompt, max_new_tokens=96, stop_tokens=(), **options)
    done = eager.generate(prompt, max_new_tokens=96, stop_tokens=(), **options)
    assert done == expected
    assert expected.drafted_tokens == 0
    assert done.accepted_tokens <= done.drafted_tokens
    if prompt == REPEATING and not options:
        assert done.accepted_tokens > 48


def test_stops_inside_a_draft_end_it(plain: sc2onnx.Model, eager: sc2onnx.Model) -> None:
    cases: list[dict[str, Any]] = [
        {"stop": ["\n\n"]},
        {"stop_tokens": plain.codec.encode(" return")},
        {"max_new_tokens": 7},
    ]
    for options in cases:
        expected, done = (
            model.generate(REPEATING, **{"max_new_tokens": 64, **options})
            for model in (plain, eager)
        )
        assert done == expected
    eager.forget()
    assert eager.memory_footprint().cache == 0


def test_the_stream_keeps_text_and_tokens_together(eager: sc2onnx.Model) -> None:
    done = eager.generate(REPEATING, max_new_tokens=40)
    pieces = list(eager.stream(REPEATING, max_new_tokens=40))
    assert tuple(token for piece in pieces for token in piece.tokens) == done.tokens
    for piece in pieces[:-1]:
        assert piece.text == b"".join(map(eager.codec.token_bytes, piece.tokens)).decode()


def test_the_smallest_cache_and_the_end_of_the_context(bundle: Path, plain: sc2onnx.Model) -> None:
    facts = plain.manifest.model
    tight = sc2onnx.load(bundle, cache_capacity=facts.window)
    _costless(tight)
    assert tight.generate("import os\n" * 200, max_new_tokens=20) == plain.generate(
        "import os\n" * 200, max_new_tokens=20
    )

    prompt = plain.codec.encode(REPEATING)
    prompt = (prompt * (facts.context_length // len(prompt) + 1))[: facts.context_length - 30]

    def to_the_end(model: sc2onnx.Model) -> Iterator[int]:
        return (
            token.id for token in model.generate_tokens(prompt, max_new_tokens=100, stop_tokens=())
        )

    eager = sc2onnx.load(bundle)
    _costless(eager)
    tokens = list(to_the_end(eager))
    assert len(tokens) == 31  # the last one needs no room
    assert tokens == list(to_the_end(plain))


def test_sampling_with_drafts_keeps_the_distribution(
    eager: sc2onnx.Model, plain: sc2onnx.Model
) -> None:
    prompt = plain.codec.encode(REPEATING)
    for seed in range(20):  # the same random numbers make the same choices, whatever was drafted
        sampling = SamplingParameters(temperature=1.3, seed=seed)
        drawn = [
            [
                token.id
                for token in model.generate_tokens(prompt, max_new_tokens=24, sampling=sampling)
            ]
            for model in (plain, eager)
        ]
        assert drawn[0] == drawn[1]


def test_a_waiting_prompt_joins_where_another_ended(bundle: Path, plain: sc2onnx.Model) -> None:
    prompts = ["x = [1, 2", REPEATING, "import sys\n" * 100, "class A:\n    def", "for i in range("]
    options: dict[str, Any] = {"max_new_tokens": 24, "stop": ["\n"]}
    narrow = sc2onnx.load(bundle, max_batch=2, prefix_memory=0)
    assert narrow.generate(prompts, **options) == [
        plain.generate(prompt, **options) for prompt in prompts
    ]
    options |= {"temperature": 0.8, "seed": 5}
    assert narrow.generate(prompts, **options) == plain.generate(prompts, **options)
    assert narrow.memory_footprint().cache == 0
    with pytest.raises(sc2onnx.Sc2onnxError, match="max_batch"):
        sc2onnx.load(bundle, max_batch=0)


def test_a_batch_holds_no_more_rows_than_asked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()
    real = Step.run

    def watched(self: Step, tokens: np.ndarray[Any, Any], *args: Any, **options: Any) -> Any:
        seen.append(tokens.shape[0])
        return real(self, tokens, *args, **options)

    monkeypatch.setattr(Step, "run", watched)
    sc2onnx.load(bundle, max_batch=3).generate(
        ["a = ", "b = ", "c = ", "d = ", "e = "], max_new_tokens=6, stop_tokens=()
    )
    assert max(seen) == 4  # three, in rows of an even number


def test_drafts_are_made_where_they_cannot_change_a_token(bundle: Path) -> None:
    """Of the schemes that are said to agree, every one does; blocks of 128 do not, which
    is why the rule is there.
    """

    manifest = Manifest.read(bundle)
    assert steps_agree(manifest)
    for schemes, expected in (
        ({"a": Scheme(8, 64), "b": Scheme(8, 32)}, True),
        ({"a": Scheme(4, 32)}, True),
        ({"a": Scheme(4, 128), "b": Scheme(8, 32)}, False),
        ({"a": Scheme(8, 128)}, False),
    ):
        integers = replace(manifest, quantization=Quantization("r", schemes, 5.0, "nearest", None))
        # of an earlier version, whose attention is not made for it
        assert not steps_agree(integers)
        assert (
            steps_agree(replace(integers, agreeing_steps="any" if expected else "even")) is expected
        )
    assert (
        sc2onnx.load(bundle).generate(REPEATING, max_new_tokens=64, stop_tokens=()).drafted_tokens
        > 0
    )
    assert (
        sc2onnx.load(bundle, speculate=False)
        .generate(REPEATING, max_new_tokens=64, stop_tokens=())
        .drafted_tokens
        == 0
    )


def test_the_verifier_drafts_where_a_loaded_model_does(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    coarse = replace(
        opened.manifest,
        quantization=Quantization("r", {"a": Scheme(4, 128)}, 4.25, "nearest", None),
    )
    assert open_model(opened).requests.row([1, 2, 3], RULES, "tokens").drafter is not None
    assert (
        open_model(replace(opened, manifest=coarse))
        .requests.row([1, 2, 3], RULES, "tokens")
        .drafter
        is None
    )
