"""Prompts that spell special tokens out: which are taken apart, and which stay as they are."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.dialects.spelt import taken_apart
from sc2onnx.serve.settings import Settings

P, S, M, F, R = "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<repo_name>"
SETTINGS = Settings()

code = st.text(alphabet=st.characters(codec="utf-8"), max_size=20).filter(
    lambda text: "<" not in text
)
path = code.filter(lambda text: text and "\n" not in text)


@given(
    code, code, st.one_of(st.just(""), path), st.dictionaries(path, code, max_size=3), st.booleans()
)
def test_what_is_put_together_is_taken_apart(
    prefix: str, suffix: str, repo: str, files: dict[str, str], separated: bool
) -> None:
    head = (R + repo if repo else "") + "".join(
        f"{F}{path}\n{text}" for path, text in files.items()
    )
    separator = F if separated or files else ""
    spelt = f"{head}{separator}{P}{prefix}{S}{suffix}{M}"
    expected = Surroundings(prefix, suffix, repo=repo or None, files=files)
    assert taken_apart(spelt, SETTINGS) == expected
    assert taken_apart(spelt, Settings(rewrite_fim=False)) == spelt


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "def f():\n",
        M,
        f"{P}a{S}b",
        f"{P}a{S}b{M}c",  # it goes on in the middle
        f"{P}{S}b{M}a",  # suffix first
        f"{S}b{P}a{M}",
        f"{P}a{S}b{S}c{M}",
        f"{P}a{P}b{S}c{M}",
        f"{P}a{M}b{S}c{M}",
        f"x{P}a{S}b{M}",
        f"{F}a.py\nx{F}a.py\ny{F}{P}a{S}b{M}",  # two of a name
        f"{F}{F}{P}a{S}b{M}",
        f"{P}a<|endoftext|>{S}b{M}",
        f"{P}a{S}b{F}c{M}",
        f"{R}r{R}s{F}{P}a{S}b{M}",
    ],
)
def test_any_other_prompt_stays_as_it_is(prompt: str) -> None:
    assert taken_apart(prompt, SETTINGS) == prompt


def test_it_takes_no_time_whatever_is_sent() -> None:
    began = time.process_time()  # whatever else the machine does
    for hostile in (
        F * 300_000 + M,
        P * 300_000 + M,
        (F + P + S) * 100_000 + M,
        "\n" * 4_000_000 + M,
    ):
        assert taken_apart(hostile, SETTINGS) == hostile
    assert time.process_time() - began < 5
