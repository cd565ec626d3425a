"""A prompt that ends inside a word goes on as one that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sc2onnx
from sc2onnx.runtime.choose.healing import MOST, Healing, taken_back
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.choose.vocabulary import Vocabulary
from sc2onnx.runtime.text.codec import Codec

SIZE = 4096
CODE = Path(sc2onnx.__file__).with_name("errors.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def codec(model: sc2onnx.Model) -> Codec:
    return model.codec


@pytest.fixture(scope="module")
def vocabulary(codec: Codec) -> Vocabulary:
    return Vocabulary(codec, SIZE)


@settings(deadline=None)
@given(start=st.binary(min_size=1, max_size=4) | st.text(min_size=1, max_size=4).map(str.encode))
def test_tokens_are_found_by_their_beginnings(
    codec: Codec, vocabulary: Vocabulary, start: bytes
) -> None:
    spelt = {token: codec.token_bytes(token) for token in range(SIZE)}
    begins = {token for token, spelling in spelt.items() if spelling.startswith(start)}
    inside = {token for token, spelling in spelt.items() if spelling and start.startswith(spelling)}
    assert set(vocabulary.beginning_with(start)) == begins
    assert set(vocabulary.compatible(start).tolist()) == begins | inside
    assert len(vocabulary.compatible(start)) == len(begins | inside)
    assert vocabulary.go_beyond(start) == any(len(spelt[token]) > len(start) for token in begins)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(self):\n    retur", "retur"),
        ("x = self.na", "na"),
        ("", ""),
        ("a", ""),  # the first token stays, or there would be no prompt
    ],
)
def test_what_is_taken_back(codec: Codec, vocabulary: Vocabulary, text: str, expected: str) -> None:
    found = taken_back(codec, vocabulary, codec.encode(text))
    assert found.strip(" .").endswith(expected)
    assert bool(found) == bool(expected)
    assert text.endswith(found)


def test_special_tokens_are_never_taken_back(codec: Codec, vocabulary: Vocabulary) -> None:
    assert taken_back(codec, vocabulary, codec.encode("x = 1<|endoftext|>")) == ""
    assert taken_back(codec, vocabulary, codec.encode("<|endoftext|><|endoftext|>re")) == "re"


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(1, len(CODE)))
def test_a_few_tokens_and_whole_characters_are_taken_back(
    codec: Codec, vocabulary: Vocabulary, cut: int
) -> None:
    text = CODE[:cut]
    tokens = codec.encode(text)
    found = taken_back(codec, vocabulary, tokens)
    assert text.endswith(found)
    if found:
        assert vocabulary.go_beyond(found.encode())
        assert sum(len(codec.token_bytes(token)) for token in tokens[-MOST:]) >= len(found.encode())


def test_half_a_character_is_not_taken_back(codec: Codec, vocabulary: Vocabulary) -> None:
    tokens = codec.encode("s = 'naïve 日本🙂")
    for end in range(2, len(tokens) + 1):
        assert "\ufffd" not in taken_back(codec, vocabulary, tokens[:end])


@pytest.mark.parametrize(
    "parameters",
    [
        SamplingParameters(),
        SamplingParameters(temperature=1.5, top_k=3, top_p=0.9, min_p=0.01, seed=1),
    ],
    ids=str,
)
def test_the_text_is_repeated_whatever_the_logits_are(
    codec: Codec, vocabulary: Vocabulary, parameters: SamplingParameters
) -> None:
    random = np.random.default_rng(3)
    for text in ("retur", " self.na", "日本", "ß", "zzqx"):
        logits = random.standard_normal(SIZE).astype(np.float32)
        before = logits.copy()
        healing = Healing(Sampler(parameters, np.zeros(0, np.int64), SIZE), codec, vocabulary, text)
        written = b""
        while len(written) < len(text.encode()):
            written += codec.token_bytes(healing.draw(logits))
        assert written.startswith(text.encode())
        assert np.array_equal(logits, before)
        free = healing.draw(logits)
        assert free == logits.argmax() or parameters.temperature > 0


def middles(model: sc2onnx.Model) -> list[tuple[str, str]]:
    """Prompts that end inside a word, and how they go on when the prompt ends before it: where the
    model writes the word itself.
    """
    found = []
    lines = [line for line in CODE.splitlines(keepends=True) if "class" in line or "Error" in line]
    for end in range(1, min(len(lines), 13)):
        prompt = "".join(lines[:end])
        text = model.generate(prompt, max_new_tokens=12).text
        word = next((word for word in text.split() if len(word) > 5), None)
        if word is not None:
            inside = text.index(word) + len(word) // 2
            found.append((prompt + text[:inside], text[inside:]))
    return found


def test_a_cut_word_goes_on_as_the_model_had_written_it(model: sc2onnx.Model) -> None:
    cases = middles(model)
    assert len(cases) >= 8
    scores = dict.fromkeys((True, False), 0)
    for prompt, rest in cases:
        for heal in scores:
            text = model.generate(prompt, max_new_tokens=16, heal=heal).text
            scores[heal] += text.split()[:1] == rest.split()[:1]
    assert scores[True] >= 0.9 * len(cases)
    assert scores[False] < scores[True]


def test_every_way_to_ask_heals(model: sc2onnx.Model) -> None:
    prompt, _ = middles(model)[0]
    whole = model.generate(prompt, max_new_tokens=16, heal=True)
    assert whole.prompt_tokens < len(model.codec.encode(prompt))
    assert (
        b"".join(map(model.codec.token_bytes, whole.tokens))
        .decode(errors="replace")
        .endswith(whole.text)
    )
    streamed = "".join(piece.text for piece in model.stream(prompt, max_new_tokens=16, heal=True))
    assert streamed == whole.text
    assert [
        completion.text
        for completion in model.generate([prompt, prompt], max_new_tokens=16, heal=True)
    ] == [whole.text] * 2
    for order in ("psm", "spm"):
        filled = model.infill(prompt, "\n", max_new_tokens=16, heal=True, order=order)
        assert (
            "".join(
                piece.text
                for piece in model.stream_infill(
                    prompt, "\n", max_new_tokens=16, heal=True, order=order
                )
            )
            == filled.text
        )


def test_nothing_changes_where_nothing_is_taken_back(model: sc2onnx.Model) -> None:
    prompt = "x = 1<|endoftext|>"
    assert model.generate(prompt, max_new_tokens=8, heal=True) == model.generate(
        prompt, max_new_tokens=8
    )


def test_a_text_that_ends_while_it_heals_is_empty(model: sc2onnx.Model) -> None:
    completion = model.generate(
        "def f(self):\n    retur", max_new_tokens=1, heal=True, stop=["retu"]
    )
    assert completion.finish_reason == "length"
    assert len(completion.tokens) == 1
