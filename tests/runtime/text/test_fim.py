from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sc2onnx
from sc2onnx.errors import EmptyPromptError, RequestError
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.fim import around_cursor, fim_prompt


@pytest.fixture(scope="module")
def codec(model: sc2onnx.Model) -> Codec:
    return model.codec


def test_fim_prompts_follow_the_training_format(codec: Codec) -> None:
    sep, prefix, suffix, middle, repo = (
        codec.special_id(f"<{name}>")
        for name in ("file_sep", "fim_prefix", "fim_suffix", "fim_middle", "repo_name")
    )

    def ids(text: str) -> list[int]:
        return codec.encode(text, special=False)

    assert fim_prompt(codec, "a = ", "\nb") == [
        sep,
        prefix,
        *ids("a = "),
        suffix,
        *ids("\nb"),
        middle,
    ]
    assert fim_prompt(codec, "a", "b", path="x.py") == [
        sep,
        prefix,
        *ids("x.py\na"),
        suffix,
        *ids("b"),
        middle,
    ]
    assert fim_prompt(codec, "a", "b", "x.py", "me/repo", {"y.py": "c = 1\n"}) == [
        *(repo, *ids("me/repo"), sep, *ids("y.py\nc = 1\n")),
        *(sep, prefix, *ids("x.py\na"), suffix, *ids("b"), middle),
    ]


def test_fim_prompts_with_the_suffix_first(codec: Codec) -> None:
    def ids(text: str) -> list[int]:
        return codec.encode(text, special=True)

    assert fim_prompt(codec, "a = ", "\nb", order="spm") == [
        *ids("<file_sep><fim_prefix><fim_suffix>"),
        *ids("\nb"),
        *ids("<fim_middle>"),
        *ids("a = "),
    ]
    assert fim_prompt(codec, "a", "b", "x.py", "me/repo", {"y.py": "c\n"}, order="spm") == [
        *(*ids("<repo_name>"), *ids("me/repo"), *ids("<file_sep>"), *ids("y.py\nc\n")),
        *(
            *ids("<file_sep><fim_prefix><fim_suffix>"),
            *ids("b"),
            *ids("<fim_middle>"),
            *ids("x.py\na"),
        ),
    ]
    with pytest.raises(RequestError, match="order is 'mps', expected 'psm' or 'spm'"):
        fim_prompt(codec, "a", "b", order="mps")  # type: ignore[arg-type]


def test_special_tokens_in_code_to_be_infilled_stay_text(codec: Codec) -> None:
    ids = fim_prompt(codec, 'END = "<|endoftext|>"', "<fim_middle>")
    assert ids.count(codec.special_id("<fim_middle>")) == 1
    assert codec.special_id("<|endoftext|>") not in ids


def test_an_empty_cursor_position_is_refused_but_context_is_enough(codec: Codec) -> None:
    with pytest.raises(
        EmptyPromptError, match="what is before the cursor and after it are both empty"
    ):
        fim_prompt(codec, "", "")
    assert fim_prompt(codec, "", "", files={"a.py": "x"})


@settings(deadline=None)
@given(
    prefix=st.text(alphabet="ab 日\n"),
    suffix=st.text(alphabet="ab 日\n"),
    budget=st.integers(1, 60),
)
def test_what_is_kept_around_a_cursor_is_nearest_to_it_and_fits(
    codec: Codec, prefix: str, suffix: str, budget: int
) -> None:
    before, after = around_cursor(codec, prefix, suffix, budget)
    assert prefix.endswith(before)
    assert suffix.startswith(after)
    if (
        len(codec.encode(prefix, special=False)) + len(codec.encode(suffix, special=False))
        <= budget
    ):
        assert (before, after) == (prefix, suffix)
    # Cutting inside a word may tokenize what is left into a few tokens more.
    assert (
        len(codec.encode(before, special=False)) + len(codec.encode(after, special=False))
        <= budget + 4
    )


def test_a_cut_around_a_cursor_falls_on_lines_and_shares_the_budget(codec: Codec) -> None:
    lines = "".join(f"x{i} = {i}\n" for i in range(100))
    before, after = around_cursor(codec, lines, lines, 200)
    assert before.startswith("x")
    assert after.endswith("\n")
    assert 2 < len(before) / len(after) < 4
    assert around_cursor(codec, "a\n", lines, 100)[0] == "a\n"
    assert len(around_cursor(codec, "a\n", lines, 100)[1]) > len(after)
