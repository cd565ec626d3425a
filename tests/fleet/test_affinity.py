"""Requests for one file have the same keys, whoever sends them and wherever the cursor is."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from sc2onnx.fleet.affinity import Keys, client_of, keys
from tests.instruct import said

CODE = Path(json.__file__).with_name("decoder.py").read_text()
LINES = CODE.split("\n")


def around(at: int, typed: str = "") -> tuple[str, str]:
    """The code around a cursor at the end of a line."""
    return "\n".join(LINES[: at + 1]) + typed, "\n" + "\n".join(LINES[at + 1 :])


def of(body: Any, client: str = "") -> Keys:
    return keys(json.dumps(body).encode(), client)


def completion(at: int, typed: str = "") -> dict[str, str]:
    prefix, suffix = around(at, typed)
    return {"prompt": prefix, "suffix": suffix}


def test_typing_in_a_line_changes_nothing() -> None:
    rng = random.Random(0)
    for at in rng.sample(range(20, len(LINES) - 20), 40):
        before = of(completion(at))
        assert len(before) == 4
        assert {of(completion(at, "x = valu"[:count])) for count in range(9)} == {before}


def test_new_lines_change_few_of_the_keys() -> None:
    at, changes, typed = 100, 0, ""
    last = of(completion(at))
    for number in range(100):
        typed += f"\n    value_{number} = {number}"
        now = of(completion(at, typed))
        assert 2 * len(set(now) & set(last)) >= len(last)  # by which its member is known
        changes += now[0] != last[0]
        last = now
    assert changes < 10


def test_all_dialects_tell_the_same_file() -> None:
    prefix, suffix = around(60, "sel")
    above, line = prefix.rsplit("\n", 1)
    bodies: list[dict[str, Any]] = [
        {"prompt": prefix, "suffix": suffix},
        {"prompt": line, "input_prefix": above + "\n", "input_suffix": suffix, "n_predict": 8},
        {"prompt": f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"},
        {"prompt": [prefix], "suffix": suffix, "stream": True},
        {"text_input": prefix, "parameters": {"suffix": suffix, "max_tokens": 8}},
        {"segments": {"prefix": prefix, "suffix": suffix, "filepath": "json/decoder.py"}},
    ]
    assert len({of(body) for body in bodies}) == 1


def test_turns_of_a_conversation_tell_the_same() -> None:
    first = said("How do I sort?", system="You write code.")
    later = said("How do I sort?", "Call sort().", "And backwards?", system="You write code.")
    parts = [{"role": "user", "content": [{"type": "text", "text": "How do I sort?"}]}]
    found = of({"messages": first})
    assert found == of({"messages": later}) == of({"messages": [first[0], *parts]})
    for other in (said("How do I sort?"), said("How?", system="You write code.")):
        assert of({"messages": other}) != found
    odds: list[object] = [[], [1, None], {}, "x", [{"content": [None, {}]}]]
    for odd in odds:
        assert of({"messages": odd})


def test_clients_models_and_files_are_told_apart() -> None:
    body = completion(60)
    found = {
        of(body),
        of(body, "another"),
        of({**body, "user": "somebody"}),
        of({**body, "model": "other"}),
        of({**body, "lora": [{"id": 0, "scale": 1}]}),
        of({**body, "lora": [{"id": 1, "scale": 1}]}),
    }
    assert len(found) == 6
    other = "\n".join(f"line {number} of another file" for number in range(60))
    assert not set(of({"prompt": other})) & set(of(body))


def test_a_file_that_is_named_is_known_by_its_name() -> None:
    def segments(text: str, path: str) -> dict[str, Any]:
        return {"segments": {"prefix": text, "filepath": path, "git_url": "https://git/x"}}

    assert of(segments("a\n" * 9, "a.py")) == of(segments("b\n" * 9, "a.py"))
    assert of(segments("a\n" * 9, "a.py")) != of(segments("a\n" * 9, "b.py"))


def test_tokens_that_are_appended_keep_the_keys_of_those_before() -> None:
    prompt = list(range(1000, 1400))
    before, after = of({"prompt": prompt}), of({"prompt": [*prompt, 7, 8, 9]})
    assert before == after


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'{"prompt": 5}',
        b'{"suffix": 5, "prompt": "x"}',
        b"\xff",
        b"[" * 5000,
        b'{"prompt": "one line"}',
        b'{"prompt": []}',
    ],
)
def test_what_tells_no_file_has_the_keys_of_its_client(body: bytes) -> None:
    assert len(keys(body)) == 1
    assert keys(body, "one") != keys(body, "two")


def test_a_session_and_a_key_tell_clients_apart() -> None:
    found = {client_of({"x-session-id": name}, key) for name in ("", "a") for key in (None, 0, 1)}
    assert len(found) == 6


def test_a_body_of_megabytes_takes_no_longer_than_its_nearest_lines() -> None:
    body = json.dumps({"prompt": CODE * 200}).encode()  # 2.6 MB
    began = time.process_time()  # whatever else the machine does
    keys(body)
    assert time.process_time() - began < 0.5
