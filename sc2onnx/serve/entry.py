"""What the log says of one request, noted while it is answered."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Scope

from sc2onnx.runtime.chat.conversation import Conversation
from sc2onnx.runtime.engine.handle import Handle
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.ask import Ask

_HARMLESS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Request ids that are taken from a client."""

_LONGEST_PATH: Final = 200
_PLACE: Final = "sc2onnx.entry"


@dataclass(slots=True)
class Entry:
    """One request: its ``id``, when it ``began`` (seconds of :func:`time.perf_counter`), the number
    of its ``key``, the ``model`` that it asks, whether it ``chats``, the ``member`` of a fleet that
    answered it, what it goes on from (``prompts``, only where they are to be logged), the engine's
    requests (``handles``) and when they were ``submitted``, and whether its client was seen to be
    ``gone``.
    ``told_of``: another process writes its line.
    """

    id: str
    began: float = field(default_factory=time.perf_counter)
    key: int | None = None
    model: str = ""
    chats: bool = False
    member: str = ""
    prompts: list[Any] | None = None
    handles: Sequence[Handle[Any]] = ()
    submitted: float = 0.0
    gone: bool = False
    told_of: bool = False

    @classmethod
    def begun(cls, scope: Scope) -> Entry:
        """An entry of a request that has just come in, which :func:`entry_of` finds from now on."""
        given = Headers(scope=scope).get("x-request-id", "")
        entry = cls(given if _HARMLESS.fullmatch(given) else uuid.uuid4().hex)
        scope.setdefault("state", {})[_PLACE] = entry
        return entry

    def asks(self, model: str, ask: Ask, *, prompts: bool) -> None:
        """Note which model is asked, and with ``prompts`` what it is to go on from."""
        self.model = model
        self.chats = any(isinstance(prompt, Conversation) for prompt in ask.prompts)
        if prompts:
            self.prompts = [_shown(prompt) for prompt in ask.prompts]

    def submits(self, handles: Sequence[Handle[Any]]) -> None:
        """Note the engine's requests, which have just begun."""
        self.handles, self.submitted = handles, time.perf_counter()

    def ended(self, status: int | None, *, whole: bool, draining: bool) -> str | None:
        """Why it ended: ``stop``, ``length`` or ``timeout`` as completions do, several with a plus;
        ``superseded`` by a newer one; ``gone`` is the client, ``drained`` the server; ``refused``,
        ``failed``. None where nothing was to be generated. ``whole``: all of the answer was sent.
        """
        if self.gone or status == 499 or not whole:
            return "drained" if draining else "gone"
        if status is not None and status >= 400:
            return "failed" if status == 500 else "refused"
        reasons = {handle.finish_reason for handle in self.handles}
        if None in reasons:
            return "failed"
        if "cancelled" in reasons:
            return "drained" if draining else "superseded"
        return "+".join(sorted(map(str, reasons))) or None

    def told(self, scope: Scope, status: int | None, ended: str | None) -> dict[str, Any]:
        """The fields of its line, without those that say nothing; times in milliseconds."""
        found = {
            "request_id": self.id,
            "method": scope["method"][:16],
            "path": scope["path"][:_LONGEST_PATH],
            "status": status,
            "model": self.model or None,
            "member": self.member or None,
            "key": self.key,
            "ms": _milliseconds(time.perf_counter() - self.began),
            **dict(self._counted()),
            "ended": ended,
            "prompts": self.prompts,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _counted(self) -> Iterator[tuple[str, Any]]:
        used = [handle.usage for handle in self.handles]
        if not used:
            return
        first = [each.waited + each.prefill for each in used if each.generated]
        if first:
            yield "first_token_ms", _milliseconds(self.submitted - self.began + min(first))
        yield "prompt_tokens", sum(each.prompt for each in used)
        yield "reused_tokens", sum(each.reused for each in used)
        yield "generated_tokens", sum(each.generated for each in used)


def entry_of(scope: Scope) -> Entry:
    """The entry of a request that is being answered."""
    found: Entry = scope["state"][_PLACE]
    return found


def entry_or_none(scope: Scope) -> Entry | None:
    """The entry of a request, where whoever answers it has one."""
    found: Entry | None = scope.get("state", {}).get(_PLACE)
    return found


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 1)


def _shown(prompt: Any) -> Any:
    if isinstance(prompt, Conversation):
        return {"messages": prompt.messages}
    if not isinstance(prompt, Surroundings):
        return prompt
    parts = {name: getattr(prompt, name) for name in ("prefix", "suffix", "path", "repo")}
    return {**parts, "files": dict(prompt.files or {})}
