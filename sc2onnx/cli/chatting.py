"""``chat``: a conversation on a terminal, or with messages that are piped in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from sc2onnx.bundle import texts
from sc2onnx.cli.bundles import loaded, loading
from sc2onnx.cli.common_options import DRAWN
from sc2onnx.cli.constraints import constraint
from sc2onnx.cli.dialogue import Dialogue
from sc2onnx.cli.outputs import decode, print_json
from sc2onnx.cli.terminal import TerminalText, say, write_generated
from sc2onnx.errors import RequestError
from sc2onnx.messages import tell

_OPTIONS: Final = (*DRAWN, "template", "special_tokens")
"""Options of the command line that are keywords of ``Model.stream_chat`` as well."""

HELP: Final = """\
Ctrl-C      stop the answer; it stays as far as it came
Ctrl-D      end, as /exit does
\"\"\"         begin a message of several lines, and end it
/reset      forget what was said
/undo       forget the last question and its answer
/system ... set the system message, and forget what was said; without one: none
/help       this"""

_QUOTES: Final = '"""'


def chat(args: argparse.Namespace) -> int:
    """Run ``chat``."""
    person = args.message is None and sys.stdin is not None and sys.stdin.isatty()
    if person and args.json:
        raise RequestError("--json is for messages that are given or piped in, expected either")
    if args.lines and args.message is not None:
        raise RequestError("--lines is for messages that are piped in, expected no other message")
    with loading(args.bundle):
        model = loaded(args)
    model.chats.templates.template(args.template)  # a base model has none: now, not after a message
    options = {**{name: getattr(args, name) for name in _OPTIONS}, **constraint(args)}
    dialogue = Dialogue(model, args.system, options)
    model.start()
    try:
        return _with_person(dialogue) if person else _with_messages(dialogue, args)
    finally:
        model.stop()
        model.chats.renderer.close()


def _with_messages(dialogue: Dialogue, args: argparse.Namespace) -> int:
    """Answer the message that is given, those that are piped in, or the only one."""
    answers = list[dict[str, Any]]()
    for message in _messages(args):
        if args.json:
            answers.append(dialogue.answer(message, lambda text: None))
        else:
            answers.append(_answered(dialogue, message))
        if answers[-1]["finish_reason"] == "cancelled":  # by Ctrl-C, which ends such a command
            raise KeyboardInterrupt
    if args.json:
        print_json(answers)
    return 0


def _messages(args: argparse.Namespace) -> Iterator[str]:
    if args.message not in (None, "-"):
        yield args.message
        return
    if sys.stdin is None:
        raise RequestError("no message: give it as an argument, or on standard input")
    name = "standard input"
    if not args.lines:
        yield decode(texts.bounded(sys.stdin.buffer, name), name)
        return
    while line := sys.stdin.buffer.readline(texts.MOST_BYTES):
        if text := decode(line, name).rstrip("\r\n"):
            yield text


def _answered(dialogue: Dialogue, message: str) -> dict[str, Any]:
    """Print an answer as it comes, and a line break after it."""
    screen = TerminalText() if sys.stdout.isatty() else None
    answer = dialogue.answer(message, partial(write_generated, screen=screen))
    print("" if screen is None else screen.flush(), flush=True)
    return answer


def _with_person(dialogue: Dialogue) -> int:
    """Talk until Ctrl-D."""
    with suppress(ImportError):
        import readline  # noqa: F401 - input() then edits lines and remembers them
    tell("Ctrl-C stops an answer, Ctrl-D ends; /help tells what else there is")
    while True:
        try:
            message = _typed()
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            print()
            return 0
        if not message.strip():
            continue
        word, _, rest = message.strip().partition(" ")
        if word == "/exit":
            return 0
        if word in _DOES:
            _DOES[word](dialogue, rest.strip())
            continue
        try:
            if _answered(dialogue, message)["finish_reason"] == "length":
                tell("the answer was cut at --max-new-tokens, or at the end of the context")
        except RequestError as error:
            tell(str(error))
        except KeyboardInterrupt:  # before there was an answer to stop
            print()


def _typed() -> str:
    """What a person types: a line, or what is between three quotes."""
    prompt = "> " if sys.stdout.isatty() else ""
    line = input(prompt)
    if not line.startswith(_QUOTES):
        return line
    lines = [line.removeprefix(_QUOTES)]
    while not lines[-1].endswith(_QUOTES):
        lines.append(input("... " if prompt else ""))
    lines[-1] = lines[-1].removesuffix(_QUOTES)
    return "\n".join(lines)


def _reset(dialogue: Dialogue, rest: str) -> None:
    dialogue.turns.clear()


def _undo(dialogue: Dialogue, rest: str) -> None:
    if dialogue.turns:
        dialogue.turns.pop()


def _system(dialogue: Dialogue, rest: str) -> None:
    dialogue.system = rest or None
    dialogue.turns.clear()


def _help(dialogue: Dialogue, rest: str) -> None:
    for line in HELP.split("\n"):
        say(line)


_DOES: Final[dict[str, Callable[[Dialogue, str], None]]] = {
    "/reset": _reset,
    "/undo": _undo,
    "/system": _system,
    "/help": _help,
}
