"""Parsers of the command line: messages are printable, and options stand where they like."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NoReturn

from sc2onnx.messages import printable

_DASHES: Final = "\0--"
"""Stands for a value that is ``--`` while argparse is at work, which drops those; no argument of a
process can be this."""

Fill = Callable[[argparse.ArgumentParser], None]
"""Adds the arguments of a command to its parser."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Wraps the description, and leaves lines of the examples below it as they are."""

    def __init__(self, prog: str, *args: Any, **options: Any) -> None:
        super().__init__(prog, *args, **{"max_help_position": 30, **options})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser whose messages are printable, and say what was perhaps meant."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, and exit with status 2."""
        super().error(f"{printable(message)} (`{self.prog} --help` explains)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments; what no command knows is told of by the command that was given."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            given = commands(self).get(getattr(found, "command", None) or "", self)
            given.error(f"unrecognized arguments: {' '.join(rest)}{_options_meant(given, rest)}")
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = None if action.choices is None else list(action.choices)
        if choices is None or value in choices:
            return
        if meant := get_close_matches(str(value), map(str, choices), 1):
            raise argparse.ArgumentError(action, f"{value!r} is unknown: did you mean {meant[0]}?")
        expected = ", ".join(map(str, choices))
        raise argparse.ArgumentError(action, f"{value!r} is unknown, expected one of {expected}")


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's commands, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _options_meant(parser: argparse.ArgumentParser, rest: Sequence[str]) -> str:
    """Say which options were perhaps meant; nothing where there is none like what was given."""
    known = [name for action in parser._actions for name in action.option_strings]
    words = [word.partition("=")[0] for word in rest if word.startswith("--")]
    meant = [name for word in words for name in get_close_matches(word, known, 1)]
    if "--save" in known and any(word.endswith(".json") for word in rest):
        meant.append("--save FILE")
    return f": did you mean {' '.join(dict.fromkeys(meant))}?" if meant else ""


class CommandParser(Parser):
    """A parser of one command, which takes options before, between and after other arguments.

    ``--`` ends the options. argparse gives an optional argument the first place that it can have:
    in ``BUNDLE --seed 1 PROMPT`` it takes the prompt for missing, and then for unknown.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._positionals.title = "arguments"
        self._optionals.title = "options"

    def short_usage(self) -> str:
        """The usage in one line: what has to be given; the help lists the rest."""
        return " ".join([self.prog, *self._required(), "[OPTION ...]"])

    def _required(self) -> Iterator[str]:
        for action in self._actions:
            if not action.option_strings:
                name = action.dest.upper() if action.metavar is None else str(action.metavar)
                if action.choices is not None:
                    name = "|".join(map(str, action.choices))
                shown = {"?": f"[{name}]", "+": f"{name} [{name} ...]"}
                yield shown.get(str(action.nargs), name)
            elif action.required:
                yield f"{action.option_strings[0]} {action.metavar}"

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
