"""Infilling prompts of a size: what is near the cursor stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sc2onnx
from sc2onnx.errors import ContextLengthError, RequestError
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.fim import fim_prompt
from sc2onnx.runtime.text.fitting import LEAST, Surroundings, fitted

LINES = "".join(f"value_{i} = {i}\n" for i in range(1000))
TEXTS = st.text(alphabet="ab 日\n", max_size=200)


@pytest.fixture(scope="module")
def codec(model: sc2onnx.Model) -> Codec:
    return model.codec


def test_infilling_fits_a_long_file_around_the_cursor(model: sc2onnx.Model) -> None:
    done = model.infill(LINES, LINES, max_new_tokens=8)
    assert done.used is not None
    assert done.used.cut
    assert LINES.endswith(done.used.prefix)
    assert LINES.startswith(done.used.suffix)
    assert 0.8 * 2040 < done.prompt_tokens <= 2040
    assert 2 < len(done.used.prefix) / len(done.used.suffix) < 4
    stream = model.stream_infill(LINES, LINES, max_new_tokens=8)
    assert "".join(piece.text for piece in stream) == done.text
    assert stream.used == done.used
    assert stream.prompt_tokens == done.prompt_tokens
    assert model.infill(done.used.prefix, done.used.suffix, max_new_tokens=8) == done


def test_what_fits_goes_in_whole(model: sc2onnx.Model) -> None:
    place: dict[str, Any] = {"path": "a.py", "repo": "me/it", "files": {"b.py": "b = 1\n"}}
    done = model.infill("x = ", "\n", max_new_tokens=2, **place)
    assert done.used == Surroundings("x = ", "\n", **place)
    assert done.prompt_tokens == len(
        fim_prompt(model.codec, "x = ", "\n", "a.py", "me/it", {"b.py": "b = 1\n"})
    )
    assert model.infill("x = ", "\n", max_new_tokens=2, fit=False, **place) == done
    assert model.generate("x", max_new_tokens=1).used is None


def test_the_answer_has_a_quarter_of_the_context_at_most(model: sc2onnx.Model) -> None:
    stream = model.stream_infill(LINES, "", max_new_tokens=100_000)
    assert 0.7 * 1536 < stream.prompt_tokens <= 1536


def test_without_fitting_a_long_file_is_an_error(model: sc2onnx.Model) -> None:
    with pytest.raises(
        ContextLengthError, match=r"the prompt is \d+ tokens, the model's context holds 2048"
    ):
        model.infill(LINES, LINES, fit=False)


@pytest.mark.parametrize("order", ["psm", "spm"])
@pytest.mark.parametrize("budget", [24, 60, 300, 1000])
def test_prompt_tokens_is_the_most_of_all_of_it(
    model: sc2onnx.Model, budget: int, order: Any
) -> None:
    files = {"one.py": LINES, "two.py": LINES}
    stream = model.stream_infill(
        LINES, LINES, path="a.py", files=files, prompt_tokens=budget + 8, order=order
    )
    assert stream.prompt_tokens <= budget + 8
    assert stream.used is not None
    assert stream.used.prefix or stream.used.suffix


def test_a_budget_that_takes_nothing_is_named(model: sc2onnx.Model) -> None:
    with pytest.raises(
        RequestError, match=r"the prompt may have 10 tokens \(prompt_tokens\), expected at least 20"
    ):
        model.infill(LINES, LINES, prompt_tokens=10)
    with pytest.raises(RequestError, match=r"expected at least .*the path and the repository"):
        model.infill("a", "b", path="x/" * 3000)
    # it fits: no matter how little that is
    assert model.infill("a", "b", prompt_tokens=6, max_new_tokens=1).prompt_tokens == 6


def test_files_farthest_from_the_cursor_go_first(codec: Codec) -> None:
    files = {"far.py": LINES, "near.py": "near = 1\n" * 20}
    prompt, used = fitted(codec, Surroundings("x = ", "\n", files=files), 600)
    assert len(prompt) <= 600
    assert used.files["near.py"] == files["near.py"]
    assert 0 < len(used.files["far.py"]) < len(LINES)
    assert LINES.endswith("\n" + used.files["far.py"])  # the end, from the start of a line
    assert list(used.files) == ["far.py", "near.py"]
    _, used = fitted(
        codec, Surroundings("x = ", "\n", files=files), len(codec.encode(files["near.py"])) + 20
    )
    assert list(used.files) == ["near.py"]


def test_the_edited_file_has_half_of_the_room_and_leaves_what_it_does_not_need(
    codec: Codec,
) -> None:
    both = Surroundings(LINES, LINES, files={"other.py": LINES})
    _, used = fitted(codec, both, 1000)
    own = sum(len(codec.encode(text, special=False)) for text in (used.prefix, used.suffix))
    other = len(codec.encode(used.files["other.py"], special=False))
    assert 400 < own <= 520
    assert 400 < other <= 520
    _, used = fitted(codec, Surroundings("x = ", "\n", files={"other.py": LINES}), 1000)
    assert len(codec.encode(used.files["other.py"], special=False)) > 850
    _, used = fitted(codec, Surroundings(LINES, LINES, files={"other.py": "a = 1\n"}), 1000)
    assert used.files == {"other.py": "a = 1\n"}
    assert sum(len(codec.encode(text, special=False)) for text in (used.prefix, used.suffix)) > 750


def test_cuts_stay_where_they_are_while_somebody_types(codec: Codec) -> None:
    """Else the start of the prompt changes, and all of it is computed again."""
    starts = set()
    for typed in range(1, 30, 3):
        code = Surroundings(LINES + "a = [" + "1, " * typed, LINES, files={"other.py": LINES})
        prompt, used = fitted(codec, code, 1500)
        assert len(prompt) <= 1500
        starts.add((used.files["other.py"], used.prefix[:20]))
    assert len(starts) <= 3


def test_a_file_of_many_megabytes_is_not_read_whole(codec: Codec) -> None:
    code = Surroundings(LINES * 2000, LINES * 2000, files={"big.py": LINES * 2000})  # 90 MB
    prompt, used = fitted(codec, code, 500)
    assert 300 < len(prompt) <= 500
    assert used.cut


def test_a_long_prefix_heals_as_its_end_does(model: sc2onnx.Model) -> None:
    prefix = LINES * 20 + "def f(self):\n    retur"
    done = model.infill(prefix, "", heal=True, max_new_tokens=8)
    assert done.used is not None
    assert done.used.prefix.endswith("def f(self):\n   ")  # " retur" was taken back
    assert model.infill(done.used.prefix + " retur", "", heal=True, max_new_tokens=8) == done


@settings(deadline=None, max_examples=150)
@given(
    prefix=TEXTS,
    suffix=TEXTS,
    files=st.dictionaries(st.text("abc/.", min_size=1, max_size=6), TEXTS, max_size=3),
    budget=st.integers(1, 300),
)
def test_it_fits_or_says_why_not(
    codec: Codec, prefix: str, suffix: str, files: dict[str, str], budget: int
) -> None:
    code = Surroundings(prefix or "a", suffix, files=files)
    whole = code.prompt(codec, "psm")
    if len(whole) > budget and budget < LEAST + 4:
        with pytest.raises(RequestError, match="expected at least"):
            fitted(codec, code, budget)
        return
    prompt, used = fitted(codec, code, budget)
    assert len(prompt) <= budget
    assert code.prefix.endswith(used.prefix)
    assert suffix.startswith(used.suffix)
    assert all(files[path].endswith(kept) for path, kept in used.files.items())
    assert used.cut == (len(whole) > budget)
    assert prompt == used.prompt(codec, "psm")
