"""Parsers of the command line: messages are printable, and options stand where they like."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from sc2onnx.messages import printable

_DASHES: Final = "\0--"
"""Stands for a value that is ``--`` while argparse is at work, which drops those; no argument of a
process can be this."""


class Parser(argparse.ArgumentParser):
    """A parser whose messages are printable."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, and exit with status 2."""
        super().error(printable(message))


class CommandParser(Parser):
    """A parser of one command, which takes options before, between and after other arguments.

    ``--`` ends the options. argparse gives an optional argument the first place that it can have:
    in ``BUNDLE --seed 1 PROMPT`` it takes the prompt for missing, and then for unknown.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command's arguments, in any order."""
        found, rest = super().parse_known_args(self._options_first(list(args or ())), namespace)
        for name, value in vars(found).items():
            many = isinstance(value, list)
            setattr(found, name, list(map(_restored, value)) if many else _restored(value))
        return found, rest

    def _options_first(self, given: Sequence[str]) -> list[str]:
        """Reorder ``BUNDLE --seed 1 PROMPT`` to ``--seed 1 -- BUNDLE PROMPT``."""
        end = given.index("--") if "--" in given else len(given)
        options, words, expected = list[str](), list[str](), 0.0
        for argument in given[:end]:
            if _is_option(argument):
                expected = 0 if "=" in argument else self._values_of(argument)
                dashes = argument.endswith("=--")
                options.append(f"{argument[:-2]}{_DASHES}" if dashes else argument)
            elif expected:
                expected -= 1
                options.append(argument)
            else:
                words.append(argument)
        words += [_DASHES if argument == "--" else argument for argument in given[end + 1 :]]
        return [*options, "--", *words] if words else options

    def _values_of(self, option: str) -> float:
        """Return how many values follow an option, which may be abbreviated, at most."""

        def begins(action: argparse.Action) -> bool:
            return any(name.startswith(option) for name in action.option_strings)

        found = [action for action in self._actions if begins(action)]
        exact = [action for action in found if option in action.option_strings]
        counts = {"?": 1.0, "*": float("inf"), "+": float("inf")}
        nargs = next((action.nargs for action in (*exact, *found)), 0)
        return 1 if nargs is None else counts.get(str(nargs)) or int(nargs)


def _restored(value: Any) -> Any:
    dashes = isinstance(value, (str, Path)) and str(value) == _DASHES
    return type(value)("--") if dashes else value


def _is_option(argument: str) -> bool:
    """As argparse sees it: a dash alone, a negative number and text with spaces are arguments."""
    number = re.fullmatch(r"-\d+|-\d*\.\d+", argument)
    return bool(re.match(r"-[^\s]", argument)) and " " not in argument and not number
