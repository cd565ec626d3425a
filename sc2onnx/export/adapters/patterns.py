"""Regular expressions that an adapter brings, matched against names of a model's modules.

They come from strangers, and Python's engine may take years for one of a dozen characters. So what
is more than a name is matched in another process, which ends after some seconds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Final

from sc2onnx.errors import UnsupportedModelError
from sc2onnx.export.shown import brief

_SECONDS: Final = 10.0
_LONGEST: Final = 4096
"""Characters of an expression. Trainers' own have a few hundred."""

_PLAIN: Final = re.compile(r"[\w.]*", re.ASCII)
"""Of these, every character matches itself, or any one: there is nothing to try twice."""

_CHILD: Final = """\
import json, re, sys
names, patterns = json.load(sys.stdin)
try:
    print(json.dumps([[n for n in names if re.fullmatch(p, n)] for p in patterns]))
except (re.error, RecursionError, OverflowError) as error:
    print(json.dumps(str(error)))
"""


def matching(
    patterns: Collection[str], names: Collection[str], form: str = "{}"
) -> Mapping[str, frozenset[str]]:
    """Pattern -> the names that ``form``, with the pattern in the place of ``{}``, matches whole.

    Raises :class:`UnsupportedModelError` for what is no regular expression, and for one that takes
    too long.
    """
    for pattern in patterns:
        if len(pattern) > _LONGEST:
            raise UnsupportedModelError(
                f"adapter_config.json has an expression of {len(pattern):,} characters, expected "
                f"at most {_LONGEST:,}: do not trust this adapter"
            )
    plain = [pattern for pattern in patterns if _PLAIN.fullmatch(pattern)]
    found = {
        pattern: frozenset(
            name for name in names if re.fullmatch(form.replace("{}", pattern), name)
        )
        for pattern in plain
    }
    rest = [pattern for pattern in patterns if pattern not in found]
    if not rest:
        return found
    answers = _matched([form.replace("{}", pattern) for pattern in rest], names)
    return found | dict(zip(rest, map(frozenset, answers), strict=True))


def _matched(patterns: list[str], names: Collection[str]) -> list[list[str]]:
    """For each pattern the names that it matches, by another process."""
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            input=json.dumps([list(names), patterns]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise UnsupportedModelError(
            f"adapter_config.json has expressions ({brief(patterns)}) that take more than "
            f"{_SECONDS:g} s to match, expected names of modules: do not trust this adapter"
        ) from error
    except (OSError, ValueError) as error:  # no process, or one that ended early
        raise UnsupportedModelError(
            f"adapter_config.json has expressions ({brief(patterns)}) that cannot be matched here: "
            "list the modules by name in their place"
        ) from error
    if isinstance(answer, str):
        raise UnsupportedModelError(
            f"adapter_config.json: {brief(patterns)} is no regular expression ({brief(answer)}): "
            "correct it, or list the modules by name"
        )
    return list(answer)
