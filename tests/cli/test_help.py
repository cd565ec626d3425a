"""What the command line says of itself, looked at through its parser."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import sc2onnx
from sc2onnx import errors
from sc2onnx.cli import main as entry
from sc2onnx.cli.main import main
from sc2onnx.cli.options import SHELLS, parser
from sc2onnx.cli.parsing import commands
from sc2onnx.cli.usage import COMMANDS
from tests.conftest import ROOT

PARSERS = commands(parser())

NO_RESULT = {"serve", "route", "lsp", "completion"}
"""Commands whose output is not a result that a program reads."""


def actions() -> Iterator[tuple[str, argparse.Action]]:
    """Every argument of every command."""
    for name, found in PARSERS.items():
        yield from ((name, action) for action in found._actions)


def test_every_argument_has_help_and_says_what_it_takes() -> None:
    silent = [(name, action.dest) for name, action in actions() if not action.help]
    assert silent == []
    values = [(n, a) for n, a in actions() if a.option_strings and a.nargs != 0 and not a.choices]
    assert [(n, a.dest) for n, a in values if not a.metavar] == []


def test_every_command_has_a_description_and_examples_that_can_be_parsed() -> None:
    assert list(COMMANDS) == list(PARSERS)
    assert set(COMMANDS) == set(entry.COMMANDS)
    for name, command in COMMANDS.items():
        assert command.summary
        assert re.search(r"[A-Z].+\.$", command.description), name
        assert command.examples, name
        for example in command.examples:
            program, *words = shlex.split(example.partition(" > ")[0])
            assert program == "sc2onnx"
            assert parser().parse_args(words).command == name


def test_an_option_means_the_same_in_every_command() -> None:
    meanings = defaultdict[str, set[tuple[object, ...]]](set)
    for _, action in actions():
        for option in action.option_strings:
            clause = re.split(r"[;(]", str(action.help))[0].strip()
            named = str(action.metavar).removeprefix("NAME=")  # a server names what it is given
            meanings[option].add((action.dest, action.type, named, clause))
    assert {option: found for option, found in meanings.items() if len(found) > 1} == {}
    assert {"--json", "--context", "--length", "--max-tokens"} <= set(meanings)


def test_json_is_a_flag_of_every_command_that_has_a_result() -> None:
    found = {name: action for name, action in actions() if "--json" in action.option_strings}
    assert set(PARSERS) - set(found) == NO_RESULT
    assert {action.nargs for action in found.values()} == {0}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_ends_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: sc2onnx {name} ")
    assert told.endswith("".join(f"  {example}\n" for example in COMMANDS[name].examples))


def test_the_bare_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert all(re.search(rf"(?m)^    {name}\b", told.out) for name in COMMANDS)
    assert "exit status" in told.out


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["expot", "a", "b"], "export"),
        (["generate", "b", "p", "--temprature", "1"], "--temperature"),
        (["generate", "b", "p", "--max-token=3"], ""),  # an abbreviation
        (["generate", "b", "p", "--maximum-tokens=3"], "--max-tokens"),
        (["bench", "b", "--contexts", "64"], "--context"),
        (["bench", "b", "--json", "s.json"], "--save FILE"),
        (["verify", "b", "c", "--max-length", "9"], "--length"),
        (["generate", "b", "p", "--kernels", "onn"], "on"),
        (["plan", "--shape", "3"], "3b"),
        (["completion", "fsh"], "fish"),
    ],
)
def test_a_word_that_is_nearly_right_is_guessed(
    arguments: list[str],
    meant: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not meant:
        assert parser().parse_args(arguments).max_new_tokens == 3
        return
    assert main(arguments) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err.splitlines()[-1]


def test_a_word_that_is_far_off_is_answered_with_what_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["qqq"]) == 2
    told = capsys.readouterr().err
    assert "expected one of export, plan, verify" in told
    assert main(["info", "b", "--qqqq"]) == 2
    assert "unrecognized arguments: --qqqq (" in capsys.readouterr().err


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_completion_for_each_shell(
    shell: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    told = capsys.readouterr().out
    assert "repetition-penalty" in told
    assert "doctor" in told


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    script = f"""
        source <('{sys.executable}' -m sc2onnx completion bash)
        function=$(complete -p sc2onnx | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        tried() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            $function sc2onnx "${{!#}}" "${{COMP_WORDS[-2]}}"; echo "${{COMPREPLY[@]}}"; }}
        tried sc2onnx in
        tried sc2onnx generate --temp
        tried sc2onnx plan --shape 1
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["infill info", "--temperature", "15b"], done.stderr


def test_without_shtab_completion_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert 'needs the package shtab: pip install "rich' in capsys.readouterr().err


def test_every_error_is_a_name_of_the_package() -> None:
    kinds = {name: found for name, found in vars(errors).items() if isinstance(found, type)}
    ours = {name: kind for name, kind in kinds.items() if issubclass(kind, errors.Sc2onnxError)}
    assert len(ours) > 20
    assert {name: getattr(sc2onnx, name) for name in ours} == ours
    assert set(ours) <= set(sc2onnx.__all__)


def test_the_reference_is_current() -> None:
    script = ROOT / "scripts" / "command_line_reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
