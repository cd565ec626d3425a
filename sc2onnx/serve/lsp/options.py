"""What a person may set of completions, on the command line or in an editor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from sc2onnx.errors import RequestError
from sc2onnx.runtime.arguments import one_of, shown, whole_number

Mode = Literal["auto", "line", "block", "free"]
"""Where completions end: see :class:`Options`."""

_MOST_TOKENS: Final = 4096
_MOST_SECONDS: Final = 600.0
_MOST_NEIGHBOURS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person may set of completions.

    ``max_tokens``: the most of a completion, 1 to 4096. ``mode``: where a completion ends, with the
    cursor's ``"line"``, with its ``"block"``, anywhere (``"free"``), or ``"auto"``: with the block
    where nothing follows the cursor on its line, else with the line. ``timeout``: seconds after
    which what there is by then is taken, more than 0, at most 600. ``neighbours``: the most other
    open documents that go into a prompt, 0 to 64.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    max_tokens: int = 128
    mode: Mode = "auto"
    timeout: float = 10.0
    neighbours: int = 8

    def __post_init__(self) -> None:
        whole_number("maxTokens", self.max_tokens, 1, _MOST_TOKENS)
        one_of("mode", self.mode, get_args(Mode))
        whole_number("neighbours", self.neighbours, 0, _MOST_NEIGHBOURS)
        number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if not (number and 0 < self.timeout <= _MOST_SECONDS):
            expected = f"seconds, more than 0, at most {_MOST_SECONDS:.0f}"
            raise RequestError(f"timeout is {shown(self.timeout)}, expected {expected}")

    def merged(self, given: object) -> tuple[Options, list[str]]:
        """These options with those that an editor gives (``initializationOptions``), and what is
        wrong with any of them, in words. A wrong one leaves this one's value.
        """
        if given is None:
            return self, []
        if not isinstance(given, Mapping):
            return self, [f"initializationOptions are {shown(given)}, expected an object"]
        options, wrong = self, list[str]()
        for name, value in given.items():
            if name not in _FIELDS:
                expected = ", ".join(_FIELDS)
                wrong.append(f"there is no option {shown(name)}, expected {expected}")
                continue
            try:
                options = replace(options, **{_FIELDS[name]: value})
            except RequestError as error:
                wrong.append(str(error))
        return options, wrong


_FIELDS: Final[Mapping[str, str]] = {
    "maxTokens": "max_tokens",
    "mode": "mode",
    "timeout": "timeout",
    "neighbours": "neighbours",
}
"""The names of options as editors give them -> ours."""
