"""The process that renders chat templates: begun when it is first needed, ended when it does not
answer in time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from sc2onnx.errors import (
    BusyError,
    ChatTemplateError,
    MissingDependencyError,
    RequestError,
)
from sc2onnx.hints import install

_PROGRAM: Final = Path(__file__).with_name("renderer.py")
_PACKAGES: Final = ("jinja2", "markupsafe")
_KEPT: Final = ("TZ", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables of the environment that the process gets: templates may ask for the time."""

_STARTS: Final = 30.0
"""Seconds in which the process must have begun."""

Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one text: ``seconds`` that it may take, bytes of ``memory`` of the process,
    ``characters`` that it may have.
    """

    seconds: float = 5.0
    memory: int = 256 << 20
    characters: int = 8 << 20


class Renderer:
    """Renders templates, one at a time. For any number of threads."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._process: Process | None = None
        self._ends: Any = None
        self._lock = threading.Lock()

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """The text of a template.

        Raises :class:`RequestError` where the template refuses or fails on what it is given,
        :class:`ChatTemplateError` where it is none, or does not end within bounds,
        :class:`BusyError` where it waits for others for too long, and
        :class:`MissingDependencyError` without jinja2.
        """
        most = self.bounds.characters
        asked = {"template": template, "variables": variables, "most": most}
        line = json.dumps(asked, ensure_ascii=False).encode() + b"\n"
        if not self._lock.acquire(timeout=self.bounds.seconds):
            raise BusyError("other chats wait for their templates: try again in a second")
        try:
            return self._text(self._exchanged(line))
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the process; another begins when it is needed."""
        with self._lock:
            self._end()

    def _text(self, answer: dict[str, Any]) -> str:
        if "text" in answer:
            return str(answer["text"])
        if "refuses" in answer:
            raise RequestError(
                f"the chat template does not take these messages: {answer['refuses']}"
            )
        if "fails" in answer:
            raise RequestError(
                f"the chat template fails on these messages ({answer['fails']}): pass "
                "messages as the checkpoint's documentation has them"
            )
        if "broken" in answer:
            raise ChatTemplateError(
                f"the chat template is none that jinja2 can read ({answer['broken']}): correct "
                "it in the checkpoint and export again"
            )
        self._end()  # who found no room is not asked again
        raise self._exceeded()

    def _exceeded(self) -> ChatTemplateError:
        bounds = self.bounds
        return ChatTemplateError(
            f"the chat template takes more than {bounds.seconds:g} seconds, {bounds.memory >> 20} "
            f"MiB or {bounds.characters:,} characters: do not trust this bundle, or send less"
        )

    def _exchanged(self, line: bytes) -> dict[str, Any]:
        """The answer to a line. Raises :class:`ChatTemplateError` where there is none in time."""
        try:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._begun()
            answer = _answer(process, line, self.bounds.seconds, 12 * self.bounds.characters)
        except BaseException:  # a signal handler's: the answer would be the next one's
            self._end()
            raise
        if answer is None:
            self._end()
            raise self._exceeded()
        return answer

    def _begun(self) -> Process:
        self._end()
        process = subprocess.Popen(  # noqa: S603 - our own program
            _command(self.bounds),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            cwd=Path(sys.executable).anchor or None,
            start_new_session=True,  # Ctrl-C in a terminal is not for it
        )
        self._process, self._ends = process, weakref.finalize(self, _ended, process)
        told = _answer(process, b"", _STARTS, 1 << 10)
        if told is not None and "ready" in told:
            return process
        self._end()
        if told is not None:
            raise _lacking()
        raise ChatTemplateError(
            "the process that renders chat templates did not begin: look whether "
            f"{_python()} runs here"
        )

    def _end(self) -> None:
        if self._ends is not None:
            self._ends()
        self._process = self._ends = None


def _answer(process: Process, line: bytes, seconds: float, most: int) -> dict[str, Any] | None:
    """What a process answers to a line; None where it gives none in so many seconds, or one of
    more than ``most`` bytes. It is ended then.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Timer(seconds, process.kill)
    late.daemon = True
    late.start()
    data = b""
    try:
        with suppress(OSError):  # it has ended
            process.stdin.write(line)
            process.stdin.flush()
            data = process.stdout.readline(most)
    finally:
        late.cancel()
    if not data.endswith(b"\n"):
        return None
    with suppress(ValueError):
        answer = json.loads(data)
        return answer if isinstance(answer, dict) else None
    return None


def _command(bounds: Bounds) -> list[str]:
    """What begins the process: Python without the user's settings, and without this program's
    directory among its packages.
    """
    found = [find_spec(name) for name in _PACKAGES]
    folders = [str(Path(spec.origin).parent.parent) for spec in found if spec and spec.origin]
    if len(folders) < len(_PACKAGES):
        raise _lacking()
    bounding = [str(bounds.seconds), str(bounds.memory)]
    program = [_python(), "-I", "-S", "-B", "-X", "utf8", str(_PROGRAM)]
    return [*program, *bounding, *dict.fromkeys(folders)]


def _python() -> str:
    """The interpreter. Raises :class:`ChatTemplateError` where there is none."""
    from multiprocessing.spawn import get_executable

    found = os.fsdecode(get_executable() or "")
    if not found or (getattr(sys, "frozen", False) and found == sys.executable):
        raise ChatTemplateError(
            "chat templates are rendered by a Python interpreter in a process of its own, and this "
            "program has none: name one with multiprocessing.set_executable"
        )
    return found


def _lacking() -> MissingDependencyError:
    return MissingDependencyError(f"chat templates need jinja2: {install('chat', upgrade=True)}")


def _ended(process: Process) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError, ValueError):  # what was not sent has nowhere to go
            assert pipe is not None
            pipe.close()
