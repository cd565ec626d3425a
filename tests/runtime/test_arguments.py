"""Whatever is passed to the public API: an error of ours that names the argument, or a
TypeError of the signature.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sc2onnx
from sc2onnx.errors import (
    BundleNotFoundError,
    ContextLengthError,
    DeviceError,
    EmptyPromptError,
    RequestError,
    RewindError,
    SamplingError,
    TokenIdError,
)

HUGE = 10**5000  # which has no repr
SURROGATE = "a\udc80"


class Nameless:
    def __repr__(self) -> str:
        raise ValueError("no name")


class Pathless:
    def __fspath__(self) -> Any:
        return 5


WRONG_TEXTS = [
    (None, "is None"),
    (5, "is 5"),
    (b"abc", r"is b'abc', expected a str.*decode it first"),
    (bytearray(b"a"), "decode it first"),
    (Path("a"), "expected a str"),
    (SURROGATE, r"U\+DC80 at character 1"),
    (Nameless(), "is a Nameless"),
]
"""What is not text, and what an error says of it."""

WRONG_COUNTS = [0, -1, 1.0, 2.5, "2", True, None, np.float32(3), np.array([1]), HUGE * -1, [1]]
"""What is not a whole number from 1."""

WRONG_TOKENS: list[tuple[Any, str]] = [
    (None, "None"),
    (5, "5"),
    ("ab", "'ab'"),
    (b"ab", "b'ab'"),
    ({1: 2}, "{1: 2}"),
    ([1.0], "expected whole numbers"),
    ([True], "a bool"),
    ([None], "expected whole numbers"),
    (["1"], "expected whole numbers"),
    ([[1, 2]], "expected whole numbers"),
    ([-1], "token id -1 is outside the vocabulary"),
    ([4096], "token id 4096 is outside the vocabulary, expected 0 to 4095"),
    ([2**70], "too large"),
    (np.array([1.0, 2.0]), r"shape \(2,\) of float64"),
    (np.array([True, False]), "of bool"),
    (np.array([[1, 2]]), r"shape \(1, 2\)"),
    (np.array(3), r"shape \(\)"),
    (np.array([2**63], dtype=np.uint64), "too large"),
]
"""What are not token ids, and what an error says of it."""


def some(*values: Any) -> tuple[Any, ...]:
    return values


def refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}") as caught:
        call()
    assert isinstance(caught.value, sc2onnx.Sc2onnxError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("value", "message"), WRONG_TEXTS)
@pytest.mark.parametrize(
    "name", ["prompt", "prompt[1]", "stream", "prefix", "suffix", "path", "repo", "files"]
)
def test_what_is_not_text(model: sc2onnx.Model, name: str, value: Any, message: str) -> None:
    if value is None and name in ("path", "repo", "files"):
        pytest.skip("none is given")
    calls: dict[str, Callable[[], Any]] = {
        "prompt": lambda: model.generate(value, max_new_tokens=1),
        "prompt[1]": lambda: model.generate(["a", value], max_new_tokens=1),
        "stream": lambda: model.stream(value, max_new_tokens=1),
        "prefix": lambda: model.infill(value, "b", max_new_tokens=1),
        "suffix": lambda: model.stream_infill("a", value, max_new_tokens=1),
        "path": lambda: model.infill("a", "b", path=value, max_new_tokens=1),
        "repo": lambda: model.infill("a", "b", repo=value, max_new_tokens=1),
        "files": lambda: model.infill("a", "b", files={"x.py": value}, max_new_tokens=1),
    }
    named = {"stream": "prompt", "prompt[1]": r"prompt\[1\]", "files": r"files\['x.py'\]"}.get(
        name, name
    )
    if name == "prompt" and isinstance(value, Path | Nameless):
        message = "expected a str or a list of str"
    refused(calls[name], RequestError, f"{named} is.*{message.removeprefix('is ')}")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(({"max_new_tokens": value}, RequestError, "max_new_tokens is") for value in WRONG_COUNTS),
        *(({"n": value}, RequestError, "n is .*expected a whole number from 1 to")
          for value in (*WRONG_COUNTS[:6], HUGE)),
        *(({"temperature": value}, SamplingError, "temperature is")
          for value in (None, "1", True, HUGE, [1], 1j, np.nan, np.complex64(1))),
        *(({"top_k": value}, SamplingError, "top_k is") for value in (None, 1.5, True, -1, np.inf)),
        *(({name: value}, SamplingError, f"{name} is") for name in ("top_p", "min_p")
          for value in (None, "1", True, 2, np.nan, HUGE)),
        *(({"repetition_penalty": value}, SamplingError, "repetition_penalty is")
          for value in (None, 0, True, HUGE)),
        *(({"seed": value}, SamplingError, "seed is")
          for value in (-1, 1.0, "1", True, [1], np.float64(3))),
        *(({"stop": value}, RequestError, "stop is")
          for value in (5, b"a", "", [""], ["a", None], [b"a"], {"a": 1}, True)),
        *(({"stop": value}, RequestError, "stop is") for value in some(np.array(3), np.array("a"))),
        *(({"stop_tokens": value}, TokenIdError, "token")
          for value, _ in WRONG_TOKENS if value is not None),
        *(({name: value}, RequestError, f"{name} is") for name in ("heal", "logprobs")
          for value in (None, 1, "no")),
        *(({"special_tokens": value}, RequestError, "special_tokens is.*'parse' or 'text'")
          for value in (None, True, "both", [1])),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_options_of_generate(
    model: sc2onnx.Model, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    refused(lambda: model.generate("a", **{"max_new_tokens": 1, **options}), error, message)
    if "n" not in options:
        refused(lambda: model.stream("a", **{"max_new_tokens": 1, **options}), error, message)


@pytest.mark.parametrize(
    "options",
    [
        {"stop": None},
        {"stop": ()},
        {"stop": {"never"}},
        {"stop_tokens": None},
        {"stop_tokens": []},
        {"stop_tokens": np.array([3], dtype=np.uint8)},
        {"n": None},
        {"seed": HUGE, "temperature": 1},
        {"seed": np.int64(3), "temperature": np.float32(1)},
        {"top_k": HUGE, "temperature": 1.0},
        {"max_new_tokens": np.int64(2)},
        {"logprobs": np.True_},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_odd_and_right(model: sc2onnx.Model, options: dict[str, Any]) -> None:
    done = model.generate("a", **{"max_new_tokens": 2, **options})
    assert isinstance(done, sc2onnx.Completion)


SMALL = [np.uint8, np.int8, np.uint64]
"""Types of numpy's whose arithmetic with lengths and their negatives overflows or wraps."""


@pytest.mark.parametrize("kind", SMALL)
def test_numbers_of_numpy_are_the_numbers_that_they_say(
    model: sc2onnx.Model, kind: type[np.integer[Any]]
) -> None:
    """Of -np.uint8(5) numpy makes 251, which as top_k is another distribution."""
    sampled: dict[str, Any] = {"temperature": 2.0, "top_k": 5, "seed": 3, "max_new_tokens": 24}
    odd: dict[str, Any] = {
        "temperature": np.float16(2.0),
        "top_k": kind(5),
        "seed": kind(3),
        "max_new_tokens": kind(24),
    }
    assert model.generate("def f(", **odd).tokens == model.generate("def f(", **sampled).tokens
    numbers: dict[str, Any] = {"top_k": kind(5), "seed": kind(3)}
    assert sc2onnx.SamplingParameters(**numbers) == sc2onnx.SamplingParameters(top_k=5, seed=3)
    options: dict[str, Any] = {"prompt_tokens": kind(100), "max_new_tokens": kind(2)}
    assert model.infill("x = 1\n" * 400, "y = 2\n" * 400, **options).prompt_tokens <= 100
    with model.sequence() as sequence:
        sequence.append(range(300), logits=None)
        sequence.rewind(kind(3))  # type: ignore[arg-type]
        assert sequence.length == 297


@pytest.mark.parametrize("kind", SMALL)
def test_numbers_of_numpy_at_loading(bundle: Path, kind: type[np.integer[Any]]) -> None:
    sizes: dict[str, Any] = {
        name: kind(2) for name in ("threads", "prefill_chunk", "max_batch", "prefix_memory")
    }
    prompts = ["def f(x):\n" * 9, "a", "b"]
    assert sc2onnx.load(bundle, **sizes).generate(prompts, max_new_tokens=4) == sc2onnx.load(
        bundle, prefill_chunk=2, max_batch=2
    ).generate(prompts, max_new_tokens=4)


def test_a_huge_number_of_tokens_is_as_many_as_the_context_takes(model: sc2onnx.Model) -> None:
    prompt = np.full(2040, 7)
    assert len(list(model.generate_tokens(prompt, max_new_tokens=HUGE, stop_tokens=()))) == 9


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (5, "prompt is 5, expected a str or a list of str"),
        ((text for text in "ab"), "prompt is <generator"),
        ({"a": 1}, "prompt is {'a': 1}"),
        ({"a"}, "prompt is {'a'}"),
        (np.array("a"), "prompt is array"),
        (np.array([[1, 2], [3, 4]]), r"prompt\[0\] is array\(\[1, 2\]\)"),
        ([["a"]], r"prompt\[0\] is \['a'\], expected a str"),
        ([1], r"prompt\[0\] is 1"),
    ],
)
def test_prompts(model: sc2onnx.Model, prompt: Any, message: str) -> None:
    refused(lambda: model.generate(prompt, max_new_tokens=1), RequestError, message)


def test_collections_of_prompts(model: sc2onnx.Model) -> None:
    two = model.generate(["a", "b"], max_new_tokens=2)
    assert model.generate(("a", "b"), max_new_tokens=2) == two
    assert (
        model.generate(  # type: ignore[call-overload]
            np.array(["a", "b"]),
            max_new_tokens=2,
        )
        == two
    )
    assert model.generate((), n=2) == []
    refused(
        lambda: model.stream(["a"]),  # type: ignore[arg-type]
        RequestError,
        r"prompt is \['a'\], expected a str",
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"files": ["x.py"]}, RequestError, "files is .*expected a mapping"),
        ({"files": {1: "x"}}, RequestError, "a path of files is 1"),
        ({"files": {SURROGATE: "x"}}, RequestError, "a path of files is .*surrogates"),
        ({"order": "mps"}, RequestError, "order is 'mps', expected 'psm' or 'spm'"),
        ({"order": ["psm"]}, RequestError, "order is"),
        ({"fit": 1}, RequestError, "fit is 1"),
        ({"prompt_tokens": 0}, RequestError, "prompt_tokens is 0"),
        ({"prompt_tokens": 19}, RequestError, r"prompt_tokens.*expected at least 20"),
        ({"prompt_tokens": 5000}, ContextLengthError,
          "prompt_tokens is 5000, the model's context holds 2048"),
        ({"prompt_tokens": HUGE}, ContextLengthError,
          "prompt_tokens is .*the model's context holds 2048"),
        ({"prompt_tokens": HUGE, "fit": False}, RequestError, "fit is False and prompt_tokens is"),
        ({"prompt_tokens": 100, "fit": False}, RequestError,
          "fit is False and prompt_tokens is 100"),
    ],
)  # fmt: skip
def test_options_of_infill(
    model: sc2onnx.Model, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    code = "x = 1\n" * 50
    for call in (model.infill, model.stream_infill, model.submit_infill):
        refused(
            lambda call=call: call(  # type: ignore[misc]
                code,
                code,
                **{"max_new_tokens": 1, **options},
            ),
            error,
            message,
        )


@pytest.mark.parametrize(("tokens", "message"), WRONG_TOKENS)
def test_what_are_not_tokens(model: sc2onnx.Model, tokens: Any, message: str) -> None:
    refused(lambda: model.generate_tokens(tokens), TokenIdError, message)
    with model.sequence() as sequence:
        refused(lambda: sequence.append(tokens), TokenIdError, message)
        assert sequence.length == 0


def test_tokens_that_never_end(model: sc2onnx.Model) -> None:
    for endless in (lambda: itertools.repeat(1), lambda: range(1, 10**15)):
        with pytest.raises(
            (ContextLengthError, TokenIdError),
            match=r"the model's context holds 2048|expected 0 to 4095",
        ):
            model.generate_tokens(endless())
        refused(
            lambda endless=endless: model.generate(
                "a",
                stop_tokens=endless(),
            ),  # type: ignore[misc]
            TokenIdError,
            "more than the 4096|expected 0 to 4095",
        )
    refused(
        lambda: model.generate("a", stop=range(10**15)),  # type: ignore[arg-type]
        RequestError,
        r"stop is range\(0",
    )
    with model.sequence() as sequence:
        refused(
            lambda: sequence.append(itertools.repeat(1)),
            ContextLengthError,
            "the model's context holds 2048",
        )
        refused(lambda: sequence.append(iter(())), EmptyPromptError, "expected at least one")


def test_a_value_with_a_repr_of_several_lines_is_shown_on_one(model: sc2onnx.Model) -> None:
    odd: Any = np.ma.masked_array([1, 2], [False, True])
    refused(
        lambda: model.generate("a", stop=odd),
        RequestError,
        r"stop is masked_array\(data=\[1, --\], mask=",
    )


@pytest.mark.parametrize("sampling", [5, {"temperature": 1}, "greedy"])
def test_what_is_no_sampling(model: sc2onnx.Model, sampling: Any) -> None:
    refused(
        lambda: model.generate_tokens([1], sampling=sampling),
        RequestError,
        "sampling is .*expected SamplingParameters",
    )


def test_sampling_parameters_are_passed_by_keyword() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        sc2onnx.SamplingParameters(0.8, 40)  # type: ignore[call-arg]


@pytest.mark.parametrize("logits", ["first", 1, True, [], np.array(["all", "last"])])
def test_which_logits(model: sc2onnx.Model, logits: Any) -> None:
    with model.sequence() as sequence:
        refused(lambda: sequence.append([1], logits), RequestError, "logits is")


@pytest.mark.parametrize(
    "count", [None, "1", 1.0, True, -1, HUGE, np.array([1])], ids=lambda count: type(count).__name__
)
def test_how_much_to_rewind(model: sc2onnx.Model, count: Any) -> None:
    with model.sequence() as sequence:
        sequence.append([1, 2, 3])
        refused(lambda: sequence.rewind(count), RewindError, "cannot rewind")
        assert sequence.length == 3


@pytest.mark.parametrize(
    "bundle",
    [123, None, b"x", 1.5, [], "", "a\0b", "\ud800", Path("\ud800"), Nameless(), Pathless()],
)
def test_what_is_no_bundle(bundle: Any) -> None:
    refused(
        lambda: sc2onnx.load(bundle), RequestError, "bundle is .*(expected a path|correct the path)"
    )
    refused(
        lambda: sc2onnx.push(bundle, "owner/name"),
        RequestError,
        "bundle is .*(expected a path|correct the path)",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo": 5}, "repo is 5, expected a str"),
        ({"repo": "nobody"}, "the repository is 'nobody', expected OWNER/NAME"),
        ({"private": "yes"}, "private is 'yes'"),
        ({"revision": b"main"}, "revision is b'main'"),
        ({"message": 5}, "message is 5"),
    ],
)
def test_options_of_push(bundle: Path, options: dict[str, Any], message: str) -> None:
    refused(
        lambda: sc2onnx.push(bundle, **{"repo": "owner/name", **options}), RequestError, message
    )


@pytest.mark.parametrize(
    "bundle", ["/nowhere/at/all", Path("/nowhere"), "a" * 5000, "/" + "a" * 300]
)
def test_a_bundle_that_is_not_there(bundle: Any) -> None:
    refused(lambda: sc2onnx.load(bundle), BundleNotFoundError, "")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(({name: value}, RequestError, f"{name} is") for name in ("prefill_chunk", "max_batch")
          for value in WRONG_COUNTS),
        *(({name: value}, RequestError, f"{name} is") for name in ("threads", "cache_capacity")
          for value in WRONG_COUNTS if value is not None),
        *(({"threads": value}, RequestError, "threads is .*to 1024") for value in (1025, HUGE)),
        *(({"prefix_memory": value}, RequestError, "prefix_memory is")
          for value in (-1, "1", 1.0, True)),
        *(({"spin": value}, RequestError, "spin is")
          for value in (None, "0", True, -1, 2, np.nan, HUGE)),
        *(({"check": value}, RequestError, "check is")
          for value in some(None, True, "some", [], np.array(["auto", "full"]))),
        *(({"packed": value}, RequestError, "packed is") for value in some(None, True, "yes", {})),
        *(({"device": value}, DeviceError, "device is")
          for value in (None, 1, b"cpu", "gpu", ["cpu"], "cuda:-1")),
        *(({"device": value}, DeviceError, "device is")
          for value in some(HUGE, "x" * 9999, Nameless(), np.array(["cpu", "auto"]))),
        *(({"device_map": value}, RequestError, "device_map is")
          for value in (1, "cpu", {"cpu": 1}, {"cpu"})),
        *(({"device_map": value}, DeviceError, "device")
          for value in ([1], [None], [], ["cpu", "cpu"], [["cpu"]], [HUGE], [Nameless()] * 2)),
        *(({"revision": value}, RequestError, "revision") for value in (1, b"main", ["main"])),
        *(({name: value}, RequestError, f"{name} is") for name in ("speculate", "cuda_graphs")
          for value in some("yes", 1, [])),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_options_of_load(
    bundle: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    refused(lambda: sc2onnx.load(bundle, **options), error, message)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_capacity": HUGE},
        {"prefill_chunk": HUGE},
        {"max_batch": HUGE},
        {"prefix_memory": HUGE},
        {"spin": 0},
    ],
)
def test_what_is_more_than_there_can_be_is_all_there_is(
    bundle: Path, options: dict[str, Any]
) -> None:
    model = sc2onnx.load(bundle, **options)
    assert len(model.generate(["def f(", "a"], max_new_tokens=4)) == 2


def test_what_belongs_to_its_process_is_not_copied(model: sc2onnx.Model) -> None:
    """As arguments of multiprocessing are; a copy would share locks and caches."""
    with model.stream("a") as stream, model.sequence() as sequence:
        for thing, call in itertools.product(
            (model, stream, sequence), (pickle.dumps, copy.copy, copy.deepcopy)
        ):
            with pytest.raises(
                TypeError,
                match=(
                    f"a {type(thing).__name__} belongs to its process .* load "
                    "the model in each process"
                ),
            ):
                call(thing)
    done = model.infill("a = ", "", max_new_tokens=2)
    assert pickle.loads(pickle.dumps(done)) == done
    assert pickle.loads(pickle.dumps(done)).used == done.used


def test_unknown_names_are_the_signatures(model: sc2onnx.Model) -> None:
    options: dict[str, Any] = {"temprature": 1.0}
    for call in (model.generate, model.stream, partial(model.infill, suffix="")):
        with pytest.raises(TypeError, match="temprature"):
            call("a", **options)


def test_what_is_far_too_long_is_refused_before_it_is_tokenized(model: sc2onnx.Model) -> None:
    assert model.codec.longest_token is not None
    assert (
        max(len(model.codec.token_bytes(token)) for token in range(4096))
        <= model.codec.longest_token
    )
    text = "a = 1\n" * 10_000_000
    for call in (
        lambda: model.generate(text),
        lambda: model.stream(text, heal=True),
        lambda: model.infill(text, "", fit=False),
    ):
        refused(
            call,
            ContextLengthError,
            "the prompt is 60000000 characters, the model's context holds 2048 tokens",
        )


@pytest.mark.parametrize(
    "token", [None, "1", 1.5, -1, HUGE, []], ids=lambda token: type(token).__name__
)
def test_the_codec_names_what_is_no_token(model: sc2onnx.Model, token: Any) -> None:
    refused(
        lambda: model.codec.token_bytes(token),
        TokenIdError,
        "the token id is .*expected a whole number",
    )
    if not isinstance(token, str):
        refused(lambda: model.codec.special_id(token), RequestError, "token is .*expected a str")
