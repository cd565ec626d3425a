"""Completions that end by their lines: the beginning of what they are without that."""

from __future__ import annotations

import pytest

import sc2onnx
from sc2onnx.errors import RequestError
from sc2onnx.runtime.text.lines import Lines

PREFIX = "def total(items):\n    result = 0\n    for item in items:\n"
SUFFIX = "\n    return result\n"


def test_a_line_is_the_first_one_of_the_whole(model: sc2onnx.Model) -> None:
    whole = model.generate(PREFIX, max_new_tokens=48)
    assert "\n" in whole.text
    line = model.generate(PREFIX, max_new_tokens=48, ends="line")
    assert line.text == whole.text.split("\n")[0]
    assert line.finish_reason == "stop"
    assert len(line.tokens) < len(whole.tokens)


def test_a_stream_gives_the_same_and_nothing_behind_it(model: sc2onnx.Model) -> None:
    with model.stream_infill(
        PREFIX + "        result", SUFFIX, max_new_tokens=48, ends="block"
    ) as stream:
        text = "".join(piece.text for piece in stream)
    done = model.infill(PREFIX + "        result", SUFFIX, max_new_tokens=48, ends="block")
    free = model.infill(PREFIX + "        result", SUFFIX, max_new_tokens=48)
    assert text == done.text
    assert free.text.startswith(text)
    assert all(line.startswith("        ") for line in text.split("\n")[1:] if line.strip())


def test_lines_of_ones_own(model: sc2onnx.Model) -> None:
    whole = model.generate(PREFIX, max_new_tokens=48)
    two = model.generate(PREFIX, max_new_tokens=48, ends=Lines(most=2))
    assert two.text == "\n".join(whole.text.split("\n")[:2])


def test_after_its_time_it_ends_with_more_than_a_line(model: sc2onnx.Model) -> None:
    late = model.generate(PREFIX, max_new_tokens=200, line_seconds=1e-9)
    whole = model.generate(PREFIX, max_new_tokens=200)
    assert late.finish_reason == "timeout"
    assert whole.text.startswith(late.text)
    assert "\n" in late.text
    assert "\n" not in late.text[:-8]  # as soon as the break has come


@pytest.mark.parametrize(
    ("option", "value"),
    [("ends", "paragraph"), ("ends", 1), ("line_seconds", 0), ("line_seconds", "1")],
)
def test_anything_else_is_refused(model: sc2onnx.Model, option: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"{option} is"):
        model.generate(PREFIX, **{option: value})  # type: ignore[call-overload]
