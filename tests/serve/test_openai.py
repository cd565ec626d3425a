"""OpenAI's completions, by OpenAI's own client."""

from __future__ import annotations

import time

import numpy as np
import openai
import pytest

from tests.serve.conftest import Served

PROMPT = "def add(a, b):\n    return"


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_a_completion_is_what_the_model_gives(client: openai.OpenAI, served: Served) -> None:
    found = client.completions.create(model="mini", prompt=PROMPT, max_tokens=12, temperature=0)
    expected = served.model.generate(PROMPT, max_new_tokens=12)
    assert found.choices[0].text == expected.text
    assert found.choices[0].finish_reason == expected.finish_reason
    assert found.usage is not None
    assert found.usage.prompt_tokens == expected.prompt_tokens
    assert found.usage.completion_tokens == len(expected.tokens)


def test_a_suffix_is_filled_in_before(client: openai.OpenAI, served: Served) -> None:
    found = client.completions.create(
        model="mini", prompt=PROMPT, suffix="\n\nprint(add(1, 2))\n", max_tokens=12, temperature=0
    )
    expected = served.model.infill(
        PROMPT, "\n\nprint(add(1, 2))\n", max_new_tokens=12, order="spm", heal=True
    )
    assert found.choices[0].text == expected.text


def test_a_stream_gives_the_same_in_pieces_and_the_usage_at_its_end(
    client: openai.OpenAI, served: Served
) -> None:
    whole = served.model.generate(PROMPT, max_new_tokens=12)
    events = list(
        client.completions.create(
            model="mini",
            prompt=PROMPT,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(event.choices[0].text for event in events if event.choices) == whole.text
    assert len(events) > 3
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == len(whole.tokens)


def test_prompts_and_samples_are_numbered_prompt_by_prompt(
    client: openai.OpenAI, served: Served
) -> None:
    prompts = [PROMPT, "import os\n"]
    found = client.completions.create(
        model="mini", prompt=prompts, n=2, max_tokens=8, temperature=0.8, seed=1
    )
    expected = served.model.generate(prompts, n=2, max_new_tokens=8, temperature=0.8, seed=1)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in found.choices] == [
        done.text for each in expected for done in each
    ]


def test_ids_and_echoes(client: openai.OpenAI, served: Served) -> None:
    ids = served.model.codec.encode(PROMPT)
    found = client.completions.create(model="mini", prompt=ids, max_tokens=8, temperature=0)
    echoed = client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=8, temperature=0, echo=True
    )
    assert echoed.choices[0].text == PROMPT + found.choices[0].text


def test_special_tokens_spelt_out_in_a_prompt_are_such(
    client: openai.OpenAI, served: Served
) -> None:
    spelt = f"<fim_prefix>{PROMPT}<fim_suffix>\n<fim_middle>"
    found = client.completions.create(model="mini", prompt=spelt, max_tokens=8, temperature=0)
    assert (
        found.choices[0].text
        == served.model.infill(PROMPT, "\n", order="spm", heal=True, max_new_tokens=8).text
    )
    spelt = "<file_sep>" + PROMPT
    found = client.completions.create(model="mini", prompt=spelt, max_tokens=8, temperature=0)
    assert found.choices[0].text == served.model.generate(spelt, max_new_tokens=8).text


def test_a_token_that_is_ruled_out_does_not_come(client: openai.OpenAI, served: Served) -> None:
    first = served.model.generate(PROMPT, max_new_tokens=1).tokens[0]
    found = client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=8, temperature=0, logit_bias={str(first): -100}
    )
    expected = served.model.generate(PROMPT, max_new_tokens=8, logit_bias={first: -100})
    assert found.choices[0].text == expected.text
    assert first not in expected.tokens


def test_log_probabilities(client: openai.OpenAI, served: Served) -> None:
    found = client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3
    ).choices[0]
    expected = served.model.generate(PROMPT, max_new_tokens=6, logprobs=True, top_logprobs=3)
    assert found.logprobs is not None
    assert found.logprobs.tokens is not None
    assert found.logprobs.token_logprobs == pytest.approx(expected.logprobs)
    assert "".join(found.logprobs.tokens) == found.text
    assert found.logprobs.text_offset == [len("".join(found.logprobs.tokens[:i])) for i in range(6)]
    assert found.logprobs.top_logprobs is not None
    for token, top in zip(found.logprobs.tokens, found.logprobs.top_logprobs, strict=True):
        assert len(top) == 3
        assert next(iter(top)) == token  # greedy
    streamed = list(
        client.completions.create(
            model="mini", prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3, stream=True
        )
    )
    pieces = [event.choices[0].logprobs for event in streamed]
    assert [
        token for piece in pieces if piece for token in piece.tokens or []
    ] == found.logprobs.tokens
    assert [
        offset for piece in pieces if piece for offset in piece.text_offset or []
    ] == found.logprobs.text_offset


def test_log_probabilities_of_an_echoed_prompt(client: openai.OpenAI, served: Served) -> None:
    """As evaluations ask for them: nothing is to be written."""
    ids = served.model.codec.encode(PROMPT)
    with served.model.sequence() as sequence:
        logits = sequence.append(ids)
    assert logits is not None
    rows = [row - row.max() for row in logits.astype(float)]
    expected = [
        float(row[token] - np.log(np.exp(row).sum()))
        for row, token in zip(rows, ids[1:], strict=False)
    ]
    for prompt in (PROMPT, ids):
        asked = client.completions.create(
            model="mini", prompt=prompt, max_tokens=0, echo=True, logprobs=2
        )
        found = asked.choices[0].logprobs
        assert asked.choices[0].text == PROMPT
        assert found is not None
        assert found.token_logprobs is not None
        assert found.tokens is not None
        assert "".join(found.tokens) == PROMPT
        assert found.token_logprobs[0:1] == [None]
        assert found.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
        assert found.top_logprobs is not None
        assert [None if top is None else len(top) for top in found.top_logprobs] == [
            None,
            *[2] * (len(ids) - 1),
        ]
        assert asked.usage is not None
        assert asked.usage.completion_tokens == 0
    longer = client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=3, n=2, temperature=0, echo=True, logprobs=1
    )
    for choice in longer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert "".join(choice.logprobs.tokens) == choice.text
        assert choice.logprobs.token_logprobs is not None
        assert choice.logprobs.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
        assert choice.logprobs.text_offset == [
            len("".join(choice.logprobs.tokens[:i])) for i in range(len(ids) + 3)
        ]


def test_nothing_to_write_gives_nothing(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="mini", prompt=PROMPT, max_tokens=0)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("", "length")
    events = list(client.completions.create(model="mini", prompt=PROMPT, max_tokens=0, stream=True))
    assert "".join(event.choices[0].text for event in events) == ""
    assert events[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 99},
        {"n": 0},
        {"best_of": 3},
        {"max_tokens": 10**9},
        {"max_tokens": -1},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {"99999999": 1}},
        {"presence_penalty": 1.0},
        {"stop": ["x"] * 99},
        {"temperature": -1},
        {"seed": 2**70},
        {"logprobs": 6},
        {"logprobs": 1, "echo": True, "stream": True},
        {"suffix": "x", "echo": True},
        {"prompt": []},
        {"prompt": ["a", 1]},
        {"prompt": ""},
        {"prompt": [10**9]},
        {"prompt": "x " * 5000},
    ],
)
def test_mistakes_are_told_of(client: openai.OpenAI, wrong: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        client.completions.create(
            **{"model": "mini", "prompt": PROMPT, **wrong},
        )  # type: ignore[call-overload]
    assert isinstance(told.value.body, dict)
    assert len(told.value.body["message"]) > 10


def test_chat_is_not_pretended(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as told:
        client.chat.completions.create(
            model="mini", messages=[{"role": "user", "content": "hello"}]
        )
    assert told.value.status_code == 501


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mini"]


def test_a_client_that_goes_ends_its_request(client: openai.OpenAI, served: Served) -> None:
    before = served.get("/metrics").text
    with client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=2000, temperature=1, seed=3, stream=True
    ) as stream:
        next(iter(stream))
        assert served.service.under_way
    until = time.monotonic() + 10
    while served.service.under_way and time.monotonic() < until:
        time.sleep(0.01)
    assert not served.service.under_way
    until = time.monotonic() + 10
    while served.model.engine.lobby.active and time.monotonic() < until:
        time.sleep(0.01)
    assert not served.model.engine.lobby.active
    assert served.get("/metrics").text != before
