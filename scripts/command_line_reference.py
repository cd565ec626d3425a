"""Write the reference of the command line into docs/command-line.md, from the parser.

    python scripts/command_line_reference.py [--check]

With ``--check`` nothing is written; the exit status is 1 where the page is not current.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

from sc2onnx.cli.options import parser
from sc2onnx.cli.parsing import CommandParser, commands
from sc2onnx.cli.usage import COMMANDS

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
BEGIN, END = "<!-- begin of the commands -->\n", "<!-- end of the commands -->\n"


def main() -> int:
    """Write the page, or compare it with what would be written."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = options.parse_args().check
    found = PAGE.read_text(encoding="utf-8")
    before, rest = found.split(BEGIN)
    made = before + BEGIN + "\n".join(reference()) + "\n" + END + rest.split(END)[1]
    if check and made != found:
        ways = "run python scripts/command_line_reference.py"
        print(f"{PAGE.name} is not what the parser says: {ways}", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(made, encoding="utf-8")
    return 0


def reference() -> Iterator[str]:
    """Lines of Markdown about every command."""
    parsers = commands(parser())
    yield from ("", "| command | what it does |", "|---|---|")
    for name, command in COMMANDS.items():
        yield f"| [`{name}`](#sc2onnx-{name}) | {command.summary} |"
    yield ""
    for name in COMMANDS:
        found = parsers[name]
        assert isinstance(found, CommandParser)
        yield from _section(name, found)


def _section(name: str, found: CommandParser) -> Iterator[str]:
    command = COMMANDS[name]
    yield from (f"### sc2onnx {name}", "", *wrap(command.description, 100), "")
    yield from ("```text", found.short_usage(), "```", "", "For example:", "")
    yield from ("```text", *command.examples, "```", "")
    for group in found._action_groups:
        listed = [action for action in group._group_actions if action.dest != "help"]
        if listed:
            yield from (f"| {group.title} | |", "|---|---|")
            yield from (f"| {_name(action)} | {_cell(str(action.help))} |" for action in listed)
            yield ""


def _name(action: argparse.Action) -> str:
    """How an argument is written: ``--seed N``."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest.upper()}`"
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return ", ".join(f"`{_cell(option + value)}`" for option in action.option_strings)


def _value(action: argparse.Action) -> str:
    one = "|".join(map(str, action.choices)) if action.choices else str(action.metavar)
    return {"+": f"{one} ...", "*": f"[{one} ...]"}.get(str(action.nargs), one)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text


if __name__ == "__main__":
    raise SystemExit(main())
