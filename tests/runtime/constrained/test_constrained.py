"""Texts that have to be something: in every way to ask, with drafts, healing, samples, batches."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sc2onnx
from sc2onnx.errors import ConstraintError, MissingDependencyError
from sc2onnx.runtime.choose.constraint import Constraint
from sc2onnx.runtime.choose.grammar import KEPT, Grammars
from sc2onnx.runtime.choose.parameters import SamplingParameters

pytest.importorskip("llguidance")

PROMPT = "def f(x):\n    return "
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["function", "class", "method"]},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}
CHOICES = ["yes", "no", 'maybe "later"\n', "größer"]
CONSTRAINTS: list[dict[str, Any]] = [
    {"json_schema": SCHEMA},
    {"regex": "[a-z]{3}-[0-9]{2}"},
    {"choices": CHOICES},
    {"grammar": 'start: "(" start ")" | /[a-c]+/\n'},
    {"grammar": 'root ::= "(" root ")" | [a-c] [a-c]?\n'},
]


def whole(constraint: dict[str, Any], text: str) -> bool:
    """Whether a text is what a constraint wants, checked by other means."""
    if "json_schema" in constraint:
        found = json.loads(text)
        fits = found["kind"] in SCHEMA["properties"]["kind"]["enum"]  # type: ignore[index]
        return found.keys() == {"name", "kind"} and fits and len(found["name"]) <= 8
    if "regex" in constraint:
        return re.fullmatch(constraint["regex"], text) is not None
    if "choices" in constraint:
        return text in CHOICES
    inner = text.strip("()")
    depth = len(text) - len(text.lstrip("("))
    return text == "(" * depth + inner + ")" * depth and set(inner) <= set("abc") and inner != ""


@pytest.fixture(scope="module")
def plain(bundle: Path) -> Iterator[sc2onnx.Model]:
    """A model without drafts."""
    model = sc2onnx.load(bundle, speculate=False, prefix_memory=0)
    yield model
    model.stop()


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_text_in_every_way(
    model: sc2onnx.Model, constraint: dict[str, Any], temperature: float
) -> None:
    how: dict[str, Any] = {
        **constraint,
        "temperature": temperature,
        "seed": 3,
        "max_new_tokens": 90,
    }
    done = model.generate(PROMPT, **how)
    if done.finish_reason == "stop":
        assert whole(constraint, done.text)
    assert model.generate([PROMPT, PROMPT], **how)[0] == done
    assert model.generate(PROMPT, n=2, **how)[0] == done
    with model.stream(PROMPT, **how) as stream:
        assert "".join(piece.text for piece in stream) == done.text
        assert stream.finish_reason == done.finish_reason
    sampling = SamplingParameters(temperature=temperature, seed=3, **constraint)
    ids = model.codec.encode(PROMPT)
    tokens = model.generate_tokens(ids, max_new_tokens=90, sampling=sampling)
    assert tuple(token.id for token in tokens) == done.tokens


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_drafts_change_no_token(
    model: sc2onnx.Model, plain: sc2onnx.Model, constraint: dict[str, Any]
) -> None:
    """Nor do log probabilities, with which nothing is computed ahead."""
    for temperature in (0.0, 1.5):
        how: dict[str, Any] = {**constraint, "temperature": temperature, "seed": 11}
        done = model.generate(PROMPT, max_new_tokens=60, **how)
        assert plain.generate(PROMPT, max_new_tokens=60, **how).tokens == done.tokens
        slow = model.generate(PROMPT, max_new_tokens=60, logprobs=True, **how)
        assert slow.tokens == done.tokens


def test_a_schema_may_be_json(model: sc2onnx.Model) -> None:
    as_dict = model.generate(PROMPT, json_schema=SCHEMA)
    assert model.generate(PROMPT, json_schema=json.dumps(SCHEMA)) == as_dict


def test_what_a_constraint_forces_is_computed_ahead_and_is_right(forgetful: sc2onnx.Model) -> None:
    names = [f"a_long_name_of_a_property_{letter}" for letter in "abc"]
    schema = {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    done = forgetful.generate(PROMPT, json_schema=schema, max_new_tokens=200)
    assert json.loads(done.text).keys() == set(names)
    assert done.drafted_tokens >= 15
    assert done.accepted_tokens >= 0.9 * done.drafted_tokens


def test_choices_at_random_are_all_drawn(model: sc2onnx.Model) -> None:
    drawn = model.generate(PROMPT, n=40, choices=["a", "b", "c"], temperature=3.0, seed=1)
    assert {done.text for done in drawn} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("prefix", "constraint", "expected"),
    [
        ("for item in ite", {"regex": r"ms\[[0-9]\]"}, r"ms\[[0-9]\]"),
        ("for item in ite", {"choices": ["r(a)", "m_list:"]}, r"r\(a\)|m_list:"),
        ("x = pri", {"regex": "[a-z]{2,4}[(]"}, "[a-z]{2,4}[(]"),
    ],
)
def test_a_word_that_is_healed_goes_on_as_the_constraint_wants(
    model: sc2onnx.Model, prefix: str, constraint: dict[str, Any], expected: str
) -> None:
    for done in (
        model.infill(prefix, "\n", heal=True, **constraint),
        model.generate(prefix, heal=True, temperature=1.0, seed=5, **constraint),
    ):
        assert done.finish_reason == "stop"
        assert re.fullmatch(expected, done.text)


def test_a_text_that_is_cut_is_not_whole(model: sc2onnx.Model) -> None:
    done = model.generate(PROMPT, json_schema=SCHEMA, max_new_tokens=3)
    assert done.finish_reason == "length"
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(done.text)


def test_the_last_token_of_a_whole_text_is_its_end(model: sc2onnx.Model) -> None:
    done = model.generate(PROMPT, choices=["x"], max_new_tokens=1)
    assert (done.text, done.finish_reason) == ("x", "stop")


def test_without_stop_tokens_it_ends_where_nothing_can_follow(model: sc2onnx.Model) -> None:
    done = model.generate(PROMPT, regex="a{1,30}", stop_tokens=(), max_new_tokens=40)
    assert (done.text, done.finish_reason) == ("a" * 30, "stop")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"regex": "a", "choices": ["b"]}, "regex and choices are given, expected one of them"),
        ({"json_schema": 5}, "json_schema is 5, expected a JSON schema"),
        ({"json_schema": "{"}, r"json_schema is '\{' \(Expecting .*\), expected a JSON schema"),
        ({"json_schema": {"a": {1}}}, "json_schema is .*not JSON serializable"),
        ({"json_schema": {"not": {}}}, r'Unimplemented keys: \["not"\]'),
        ({"json_schema": {"x-guidance": {"lenient": True}, "not": {}}}, "Unimplemented keys"),
        ({"json_schema": {"oneOf": [{}, {}]}}, "oneOf constraints are not supported"),
        ({"json_schema": {"type": "x"}}, "cannot be kept"),
        ({"json_schema": {"pattern": "a" * 2049}}, "patterns of 2049 characters"),
        ({"json_schema": {"properties": {str(n): {} for n in range(1001)}}}, "1001 prop"),
        ({"regex": ""}, "regex is '', expected a regular expression"),
        ({"regex": "("}, "unclosed group"),
        ({"regex": "\ud800"}, "lone surrogates"),
        ({"choices": "abc"}, "choices is 'abc', expected texts that are not empty"),
        ({"choices": []}, "choices is"),
        ({"choices": ["a", ""]}, "choices is"),
        ({"grammar": "start: absent"}, 'unknown name: "absent"'),
        ({"grammar": "root ::= ((("}, "grammar cannot be read"),
        ({"grammar": 'start: "a"' + "*" * 301}, "301 signs that repeat"),
        ({"grammar": 'start: start "a"'}, "no text satisfies it"),
    ],
)
def test_what_is_wrong_is_said(model: sc2onnx.Model, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConstraintError, match=said):
        model.generate(PROMPT, **wrong)


def test_a_constraint_that_becomes_too_much_ends_its_request_alone(model: sc2onnx.Model) -> None:
    ambiguous = 'start: start start | "a" | ""\n'
    slow = model.submit(PROMPT, grammar=ambiguous, max_new_tokens=1500, stop_tokens=())
    other = model.submit(PROMPT, choices=["yes"])
    assert other.result().text == "yes"
    with pytest.raises(ConstraintError, match=r"takes too long|max is"):
        slow.result()


def test_a_lexer_that_is_full_is_made_anew(model: sc2onnx.Model) -> None:
    """Copies of a compiled constraint share it."""
    full: dict[str, Any] = {"regex": "((a{0,1000}){0,1000}){0,1000}", "stop_tokens": ()}
    for _ in range(2):
        with pytest.raises(ConstraintError, match="too many"):
            model.generate(PROMPT, **full)


def test_compiled_constraints_are_kept_up_to_a_number(model: sc2onnx.Model) -> None:
    codec = model.codec
    grammars = Grammars(codec, lambda text: codec.encode(text, special=False), 4096, [0])
    for number in range(KEPT + 5):
        grammars.steering(Constraint("regex", f"a{{{number + 1}}}"), [0])
    assert len(grammars._compiled) == KEPT


def test_several_threads_compile_and_draw_together(model: sc2onnx.Model) -> None:
    found = dict[int, str]()

    def ask(number: int) -> None:
        done = model.generate(
            PROMPT, regex=f"n{number % 3}[a-c]{{2}}", seed=number, temperature=1.0
        )
        found[number] = done.text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(re.fullmatch(f"n{n % 3}[a-c]{{2}}", text) for n, text in found.items())
    assert len(found) == 9


_TWO_THREADS = """
import sys, threading
from pathlib import Path
from sc2onnx.runtime.choose.constraint import Constraint
from sc2onnx.runtime.choose.grammar import Grammars
from sc2onnx.runtime.text.codec import Codec
codec = Codec(Path(sys.argv[1]))
grammars = Grammars(codec, lambda text: codec.encode(text, special=False), 4096, [0])
constraint = Constraint("regex", "(an_identifier_[01], ){40}")
def draw():
    for _ in range(40):
        steering = grammars.steering(constraint, [0])
        while not steering.complete:
            steering.forced(31)
            steering.take(int(steering.allowed()[-1]))
threads = [threading.Thread(target=draw) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_threads_that_draw_do_not_wait_for_each_other_for_ever(bundle: Path) -> None:
    """They did: one for the library's lock, the other for the interpreter's."""
    tokenizer = str(bundle / "tokenizer.json")
    subprocess.run([sys.executable, "-c", _TWO_THREADS, tokenizer], check=True, timeout=120)


def test_masks_are_exact(model: sc2onnx.Model) -> None:
    """Every token is tried: those that are allowed are the ones whose bytes may come."""
    codec = model.codec
    grammars = Grammars(codec, lambda text: codec.encode(text, special=False), 4096, [0])
    steering = grammars.steering(Constraint("regex", "[a-c]{2,5}"), [0, 7])
    allowed = {token for token in range(4096) if _fits(codec.token_bytes(token), 5)}
    assert set(steering.allowed().tolist()) == allowed
    steering.take(codec.encode("ab")[0])
    left = 5 - len(codec.token_bytes(codec.encode("ab")[0]))
    after = {token for token in range(4096) if _fits(codec.token_bytes(token), left)}
    ends = {0, 7} if left <= 3 else set()
    assert set(steering.allowed().tolist()) == after | ends
    assert np.all(np.diff(steering.allowed()) > 0)


def _fits(spelling: bytes, most: int) -> bool:
    return 0 < len(spelling) <= most and set(spelling) <= set(b"abc")


def test_without_the_library_it_says_what_to_install(
    model: sc2onnx.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match='pip install "llguidance'):
        model.generate(PROMPT, regex="never compiled before")


def test_nothing_is_imported_without_a_constraint(bundle: Path) -> None:
    code = f"import sc2onnx, sys; sc2onnx.load({str(bundle)!r}).generate('x', max_new_tokens=1)"
    told = "assert 'llguidance' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{code}; {told}"], check=True, timeout=60)
