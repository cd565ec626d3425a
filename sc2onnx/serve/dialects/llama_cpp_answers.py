"""What llama.cpp's server answers, and what it says of itself: ``/props``, ``/slots``,
``/lora-adapters``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sc2onnx.runtime.results import Completion, FinishReason, Piece, Usage
from sc2onnx.serve.ask import Answer
from sc2onnx.serve.dialects.llama_cpp import USUAL, Sampling


def answer(
    body: Sampling, done: Completion, model: str, index: int = 0, more: Answer | None = None
) -> Answer:
    """A completion as a client has it, or the fields of it that it asked for. ``more``: fields that
    are no part of llama.cpp's own answers.
    """
    cut = done.used is not None and done.used.cut
    end = _End(done.finish_reason, done.stop_string, truncated=cut)
    whole = _ended(done.text, done.tokens, end, done.usage, model, index)
    return _chosen(body, {**whole, **(more or {})})


def warmed(body: Sampling, used: Usage, model: str) -> Answer:
    """The answer to a request that was to leave its prompt computed."""
    return _chosen(body, _ended("", (), _End("length"), used, model, 0))


def event(piece: Piece, used: Usage, model: str, index: int, *, cut: bool = False) -> Answer:
    """An event of a stream; the last one says how it ended.
    ``cut``: the code around the cursor was.
    """
    if piece.finish_reason is not None:
        end = _End(piece.finish_reason, piece.stop_string, truncated=cut)
        return _ended(piece.text, piece.tokens, end, used, model, index)
    return {
        "index": index,
        "content": piece.text,
        "tokens": piece.tokens,
        "stop": False,
        "id_slot": 0,
    }


@dataclass(frozen=True, slots=True)
class _End:
    """How a completion ended, and whether its prompt was cut."""

    reason: FinishReason
    stop_string: str | None = None
    truncated: bool = False

    @property
    def kind(self) -> str:
        """In the server's words."""
        if self.reason in ("length", "timeout"):
            return "limit"
        return "word" if self.stop_string else "eos"


def _ended(
    text: str, tokens: Sequence[int], end: _End, used: Usage, model: str, index: int
) -> dict[str, object]:
    return {
        "index": index,
        "content": text,
        "tokens": tokens,
        "id_slot": 0,
        "stop": True,
        "model": model,
        "tokens_predicted": used.generated,
        "tokens_evaluated": used.prompt,
        "tokens_cached": used.prompt + used.generated,
        "truncated": end.truncated,
        "stop_type": end.kind,
        "stopping_word": end.stop_string or "",
        "timings": timings(used),
    }


def timings(used: Usage) -> dict[str, float]:
    """What a request took, in the words of the server that this speaks like."""
    read, write = used.prompt - used.reused, used.generated
    return {
        "cache_n": used.reused,
        "prompt_n": read,
        "prompt_ms": 1e3 * used.prefill,
        "prompt_per_token_ms": 1e3 * used.prefill / max(1, read),
        "prompt_per_second": read / max(1e-9, used.prefill),
        "predicted_n": write,
        "predicted_ms": 1e3 * used.decode,
        "predicted_per_token_ms": 1e3 * used.decode / max(1, write),
        "predicted_per_second": write / max(1e-9, used.decode),
        **({"draft_n": used.drafted, "draft_n_accepted": used.accepted} if used.drafted else {}),
    }


def _chosen(body: Sampling, whole: Mapping[str, object]) -> Answer:
    """The fields that were asked for, those inside others under their path; what
    is not there is left out.
    """
    if not body.response_fields:
        return whole
    found = dict[str, object]()
    for path in body.response_fields:
        part: object = whole
        for name in path.split("/"):
            part = part[name] if isinstance(part, Mapping) and name in part else None
        if part is not None:
            found[path] = part
    return found


def props(model: str, context: int, rows: int, template: str) -> Answer:
    """What there is to know of the server. ``template``: of chats, empty for a base model."""
    return {
        "default_generation_settings": {"n_ctx": context, "params": {"n_predict": USUAL}},
        "total_slots": rows,
        "model_alias": model,
        "model_path": model,
        "chat_template": template,
        "build_info": "sc2onnx",
    }


def slots(rows: int, busy: int, context: int) -> list[Answer]:
    """Of how many rows can be computed together, which are. Nothing of what they compute."""
    return [
        {"id": number, "n_ctx": context, "is_processing": number < busy} for number in range(rows)
    ]


def lora_adapters(names: Sequence[str]) -> list[Answer]:
    """The adapters of a model in the order of their numbers. None is used unless a request says so;
    where they lie is nobody's business.
    """
    return [{"id": number, "path": name, "scale": 0.0} for number, name in enumerate(names)]
