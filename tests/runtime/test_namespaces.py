"""Requests of different namespaces share nothing; predictions change the time, not the text."""

from __future__ import annotations

from pathlib import Path

import sc2onnx
from sc2onnx.runtime.engine.lookup import Lookup, Memory
from sc2onnx.runtime.options import GenerationOptions

PROMPT = "import os\n\n\ndef total(items):\n    result = 0\n" * 4


def test_what_one_left_computed_serves_its_own_namespace_only(bundle: Path) -> None:
    model = sc2onnx.load(bundle)
    first = model.generate(PROMPT, max_new_tokens=8, namespace="one")
    assert first.reused_tokens == 0
    assert model.generate(PROMPT, max_new_tokens=8, namespace="two").reused_tokens == 0
    assert model.generate(PROMPT, max_new_tokens=8).reused_tokens == 0
    again = model.generate(PROMPT, max_new_tokens=8, namespace="one")
    assert again.reused_tokens == first.prompt_tokens - 1
    assert again == first


def test_texts_of_others_are_not_looked_into(bundle: Path) -> None:
    model = sc2onnx.load(bundle)
    model.generate(PROMPT, max_new_tokens=8, namespace="one")
    rows = [
        model.requests.continuing(PROMPT, GenerationOptions(namespace=name), "whole")
        for name in ("one", "two")
    ]
    others = [row.drafter.lookup.others for row in rows if row.drafter is not None]
    assert [len(each) for each in others] == [0, 0]  # the same text is an earlier state of it
    other = model.requests.continuing("x = 1\n", GenerationOptions(namespace="one"), "whole")
    assert other.drafter is not None
    assert len(other.drafter.lookup.others) == 1


def test_a_prediction_that_comes_true_saves_steps_and_changes_nothing(bundle: Path) -> None:
    plain = sc2onnx.load(bundle, speculate=False).generate(PROMPT, max_new_tokens=48)
    model = sc2onnx.load(bundle, prefix_memory=0)
    predicted = model.generate(PROMPT, max_new_tokens=48, prediction=plain.text)
    model.forget()
    wrong = model.generate(PROMPT, max_new_tokens=48, prediction="nothing of the kind " * 20)
    assert plain == predicted == wrong


def test_a_prediction_is_guessed_from_its_first_token_on() -> None:
    prompt, coming = list(range(50)), [7, 3, 9, 3]
    lookup = Lookup.of(prompt, Memory(), None, coming)
    guesses = lookup.guesses()
    assert [next(guesses).token for _ in coming] == coming
    lookup.extend([7, 3])
    assert next(lookup.guesses()).token == 9
