"""What llama.cpp's server is asked: ``/infill``, ``/completion``, ``/tokenize``, ``/detokenize``,
``/apply-template``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, field

from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.runtime.text.endings import Ending
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.runtime.text.lines import Lines
from sc2onnx.serve.ask import Ask, Tokens
from sc2onnx.serve.dialects.common import MOST, MOST_BIASED, PATH, check_most, check_stops
from sc2onnx.serve.dialects.messages import Messages
from sc2onnx.serve.dialects.spelt import taken_apart
from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings

_MOST_BIAS: Final = 100.0

_MOST_LORA: Final = 100.0
"""What an adapter's part may be multiplied by, either way."""

_MOST_LORAS: Final = 256
"""Adapters that a request may list."""

_MOST_FIELDS: Final = 64
"""Parts of an answer that may be asked for."""

_MOST_FILES: Final = 256
"""Other files, or pieces of them, that may come with a request."""

USUAL: Final = 128
"""Tokens where a request says nothing; the server that this speaks like would go on for ever."""


class Extra(Struct):
    """Another file."""

    text: str = ""
    filename: Annotated[str, Meta(max_length=PATH)] = ""


class Lora(Struct):
    """An adapter by its number in ``/lora-adapters``, and what its part is multiplied by."""

    id: Annotated[int, Meta(ge=0, le=MOST)]
    scale: Annotated[float, Meta(ge=-_MOST_LORA, le=_MOST_LORA)] = 0.0


class Sampling(Struct, kw_only=True):
    """What all requests that generate have in common. What is not listed is ignored."""

    model: str = ""
    n_predict: Annotated[int, Meta(ge=-1, le=MOST)] = -1
    n_indent: Annotated[int, Meta(ge=0, le=10_000)] = 0
    t_max_predict_ms: Annotated[int, Meta(ge=-1, le=MOST)] = 0
    t_max_prompt_ms: Annotated[int, Meta(ge=-1, le=MOST)] = 0
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MOST)] = 40
    top_p: Annotated[float, Meta(ge=0, le=1)] = 0.95
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.05
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    seed: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1
    stop: list[str] = field(default_factory=list)
    stream: bool = False
    n_cmpl: Annotated[int, Meta(ge=1, le=MOST)] = 1
    samplers: list[str] | None = None
    response_fields: Annotated[
        list[Annotated[str, Meta(max_length=256)]], Meta(max_length=_MOST_FIELDS)
    ] = field(default_factory=list)
    return_tokens: bool = False
    ignore_eos: bool = False
    grammar: str = ""
    json_schema: dict[str, Any] | None = None
    logit_bias: (
        Annotated[list[tuple[int | str, float | bool]], Meta(max_length=MOST_BIASED)]
        | Annotated[dict[str, float | bool], Meta(max_length=MOST_BIASED)]
        | None
    ) = None
    lora: Annotated[list[Lora], Meta(max_length=_MOST_LORAS)] | None = None


class Infill(Sampling, kw_only=True):
    """``/infill``: the parts are data, special tokens in them stay text. ``filename`` and ``ends``
    are ours: the path of the cursor's file, and where the completion ends.
    """

    filename: Annotated[str, Meta(max_length=PATH)] = ""
    ends: Ending | None = None
    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Annotated[list[Extra], Meta(max_length=_MOST_FILES)] = field(default_factory=list)
    prompt: str = ""


class Complete(Sampling, kw_only=True):
    """``/completion``: special tokens spelt out in the prompt are such."""

    prompt: str | list[int | str]


class Tokenize(Struct):
    """``/tokenize``."""

    content: str = ""
    parse_special: bool = True


class ApplyTemplate(Struct):
    """``/apply-template``."""

    model: str = ""
    messages: Messages = field(default_factory=list)
    chat_template_kwargs: dict[str, Any] | None = None


class Detokenize(Struct):
    """``/detokenize``."""

    tokens: Annotated[list[int], Meta(max_length=1 << 16)] = field(default_factory=list)


def ask_infill(body: Infill, settings: Settings) -> Ask:
    """What a body asks for: the line up to the cursor, ``prompt``, goes on
    from the lines before it.

    Other files come under their names, without words that stand for none; pieces of one file, such
    as llama.vim's, together.
    """
    prefix = body.input_prefix + body.prompt
    code = Surroundings(
        prefix, body.input_suffix, body.filename or None, files=_files(body.input_extra)
    )
    greedy = body.samplers is not None and "infill" in body.samplers
    ask = _ask(body, settings, (code,), 0.0 if greedy else 0.8)
    if body.ends is not None:
        ask.options["ends"] = body.ends
    return ask


def _files(extras: Sequence[Extra]) -> dict[str, str]:
    """Files by name, in the order of their last pieces, which are nearest to the cursor."""
    found = dict[str, str]()
    for number, extra in enumerate(extras):
        name = extra.filename or f"file{number}"
        before = found.pop(name, "")
        found[name] = f"{before}\n{extra.text}" if before else extra.text
    return found


def ask_completion(body: Complete, settings: Settings) -> Ask:
    """What a body asks for. A list is ids; texts among them are not taken."""
    prompt: str | Tokens
    if isinstance(body.prompt, str):
        prompt = body.prompt
    else:
        prompt = tuple(each for each in body.prompt if isinstance(each, int))
        if len(prompt) < len(body.prompt):
            raise RefusedError(
                400, "prompt is a list with texts, expected a text or token ids", param="prompt"
            )
    asked = taken_apart(prompt, settings) if isinstance(prompt, str) else prompt
    return _ask(body, settings, (asked,), 0.8)


def _ask(
    body: Sampling,
    settings: Settings,
    prompts: tuple[str | Tokens | Surroundings, ...],
    usual: float,
) -> Ask:
    """The rest of a body. Completions at a cursor are greedy unless it says otherwise: they stay
    the same while somebody types what they say.
    """
    check_most("n_cmpl", body.n_cmpl, settings.most_samples)
    check_stops(body.stop, settings)
    warms = body.n_predict == 0
    asked = USUAL if body.n_predict < 0 else body.n_predict
    options = GenerationKeywords(
        max_new_tokens=max(1, min(asked, settings.most_tokens)),
        temperature=usual if body.temperature is None else body.temperature,
        top_k=max(0, body.top_k),
        top_p=body.top_p or 1.0,
        min_p=body.min_p,
        repetition_penalty=body.repeat_penalty,
        seed=None if body.seed < 0 else body.seed,
        stop=[each for each in body.stop if each] or None,
    )
    if body.ignore_eos:
        options["stop_tokens"] = ()
    if body.logit_bias:
        options["logit_bias"] = _bias(body.logit_bias)
    if body.grammar:
        options["grammar"] = body.grammar
    if body.json_schema is not None:
        options["json_schema"] = body.json_schema
    if body.n_indent:
        options["ends"] = Lines(indent=body.n_indent)
    if body.t_max_predict_ms > 0:
        options["line_seconds"] = body.t_max_predict_ms / 1000
    seconds = body.t_max_prompt_ms / 1000 if body.t_max_prompt_ms > 0 and not warms else None
    return Ask(
        prompts,
        options,
        body.n_cmpl,
        body.model,
        body.stream,
        warms,
        prompt_seconds=seconds,
        lora=_lora(body.lora),
    )


def _lora(given: Sequence[Lora] | None) -> tuple[int, float] | None:
    """The adapter that is to be used; those that are not listed are not, as in llama.cpp."""
    used = [each for each in given or () if each.scale]
    if len(used) > 1:
        told = f"lora has {len(used)} adapters with a scale, expected one: others are to have 0"
        raise RefusedError(400, told, param="lora")
    if used:
        return used[0].id, used[0].scale
    return (given[0].id, 0.0) if given else None


def _bias(
    given: list[tuple[int | str, float | bool]] | dict[str, float | bool],
) -> dict[int, float]:
    """Numbers by token id, as far as they tell tokens apart; ``false`` rules a token out."""
    pairs = given.items() if isinstance(given, dict) else given
    found = dict[int, float]()
    for token, bias in pairs:
        if isinstance(token, str) and not (token.isdecimal() and len(token) < 10):
            told = "logit_bias has a text, expected token ids (/tokenize gives them)"
            raise RefusedError(400, told, param="logit_bias")
        number = bias if not isinstance(bias, bool) else (0.0 if bias else -_MOST_BIAS)
        found[int(token)] = max(-_MOST_BIAS, min(_MOST_BIAS, number))
    return found
