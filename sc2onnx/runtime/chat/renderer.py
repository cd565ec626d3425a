"""A program of its own that renders chat templates: a line of JSON in, a line of JSON out.

A template comes with a bundle, from whoever made that, and it is a program: it can loop for ever,
and make any text as long as it likes. So it runs in the sandbox of jinja2, and the sandbox in this
process, which the system bounds: memory, processor time, no files, no children. Whoever starts it
(:mod:`sc2onnx.runtime.chat.process`) bounds the time, by ending it.

What templates find is what transformers' ``apply_chat_template`` gives them. This file imports
nothing of sc2onnx: it is run by its path.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from importlib import metadata
from typing import Any, Final

LEAST: Final = (3, 1, 6)
"""The version of jinja2 from which its sandbox has no holes that are known."""

_SHOWN: Final = 300
"""Characters of a template's or of jinja2's own words."""

Answer = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Answer until standard input ends. ``arguments``: seconds of processor time and bytes of
    memory for one text, and the directories that jinja2 and what it needs are in.
    """
    seconds, memory = float(arguments[0]), int(arguments[1])
    sys.path += arguments[2:]
    try:
        found = tuple(int(part) for part in metadata.version("jinja2").split(".")[:3])
        render = _renderer() if found >= LEAST else None
    except (ImportError, ValueError):
        render = None
    if render is None:
        _say({"lacks": "jinja2"})
        return
    bound = _confined(memory)
    _say({"ready": True})
    for line in sys.stdin.buffer:
        bound(seconds)
        _say(_answer(render, json.loads(line)))


def _say(answer: Answer) -> None:
    try:
        data = json.dumps(answer, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        data = json.dumps({"fails": "it gives halves of surrogate pairs"}).encode()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def _answer(render: Callable[..., str], asked: dict[str, Any]) -> Answer:
    """A text, or why there is none: the template refuses the messages, it fails on them, it is no
    template, or it is too much.
    """
    from jinja2 import TemplateSyntaxError

    try:
        return {"text": render(asked["template"], asked["variables"], asked["most"])}
    except _RefusedError as refusal:
        return {"refuses": str(refusal)[:_SHOWN]}
    except (MemoryError, RecursionError, OverflowError) as error:
        return {"exceeds": type(error).__name__}
    except TemplateSyntaxError as error:
        return {"broken": f"line {error.lineno}: {error.message}"[:_SHOWN]}
    except Exception as error:  # whatever a template makes of what it is given
        return {"fails": (str(error) or type(error).__name__)[:_SHOWN]}


class _RefusedError(Exception):
    """Raised by a template that does not take the messages."""


def _renderer() -> Callable[..., str]:
    """What renders a template, with at most so many characters."""
    # all that is imported when a template needs it: later no file can be opened
    import encodings.unicode_escape  # noqa: F401
    import pprint  # noqa: F401

    import jinja2.constants
    import jinja2.debug
    import jinja2.ext  # noqa: F401

    environment = _environment()

    @lru_cache(maxsize=4)
    def compiled(template: str) -> Any:
        return environment.from_string(template)

    def render(template: str, variables: dict[str, Any], most: int) -> str:
        parts, size = list[str](), 0
        for part in compiled(template).generate(**variables):
            size += len(part)
            if size > most:
                raise OverflowError
            parts.append(part)
        return "".join(parts)

    return render


def _environment() -> Any:
    """The environment that transformers renders chat templates in."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``, around what an assistant says: it marks, and changes nothing."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

        def _same(self, caller: Callable[[], str]) -> str:
            return caller()

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _Dict(),
        "namespace": _namespace(),
    }
    return made


def _refuse(message: object) -> None:
    raise _RefusedError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja2's own, it escapes nothing for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _Dict:
    """``dict``, of which a template gets what it calls, and not the type."""

    def __call__(self, *given: Any, **named: Any) -> dict[Any, Any]:
        return dict(*given, **named)

    def fromkeys(self, *given: Any) -> dict[Any, Any]:
        return dict.fromkeys(*given)


def _namespace() -> type:
    """jinja2's ``namespace``, without names that begin with an underscore."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    def checked(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace takes no name such as {name!r}")

    class Checked(Namespace):
        def __init__(*given: Any, **named: Any) -> None:  # a name may be self
            own, *rest = given
            values = dict(*rest, **named)
            for name in values:
                checked(name)
            Namespace.__init__(own, values)

        def __setitem__(self, name: str, value: Any) -> None:
            checked(name)
            Namespace.__setitem__(self, name, value)

    return Checked


def _confined(memory: int) -> Callable[[float], None]:
    """Give up what no template needs: memory beyond so many bytes, files, children. What bounds
    the processor time of the next text, in seconds.

    Windows bounds nothing of this; there the sandbox stands alone.
    """
    try:
        import resource
    except ImportError:
        return lambda seconds: None
    bounds = {"AS": memory, "DATA": memory, "FSIZE": 0, "NOFILE": 3, "NPROC": 0, "CORE": 0}
    for name, most in bounds.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):  # macOS lacks some
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))

    def bound(seconds: float) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))

    return bound


if __name__ == "__main__":
    main(sys.argv[1:])
