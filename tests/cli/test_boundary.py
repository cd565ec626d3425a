"""Whatever a command raises is a line and an exit status; arguments may come in any order."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sc2onnx.cli.main import main
from sc2onnx.cli.options import parser
from sc2onnx.errors import RequestError


class _Panic(BaseException):
    """As pyo3's PanicException: no Exception."""


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RequestError("top_p is 2"), 2, "sc2onnx doctor: top_p is 2\n"),
        (UserWarning("slow"), 2, "sc2onnx doctor: slow\n"),
        (
            OSError(28, "No space left on device", "f\x1b"),
            2,
            "sc2onnx doctor: f\\x1b: No space left on device\n",
        ),
        (
            ValueError("two\nlines"),
            3,
            "sc2onnx doctor: this is a bug in sc2onnx (ValueError: two): ",
        ),
        (RecursionError("deep"), 3, "bug in sc2onnx (RecursionError: deep)"),
        (AssertionError(), 3, "bug in sc2onnx (AssertionError)"),
        (
            MemoryError("Unable to allocate 9 PiB"),
            3,
            "out of memory (MemoryError: Unable to allocate 9 PiB)",
        ),
        (_Panic("index out of bounds"), 3, "bug in sc2onnx (_Panic: index out of bounds)"),
        (ModuleNotFoundError("no", name="sc2onnx.export"), 2, "this is the runtime alone"),
        (
            ModuleNotFoundError("No module named 'x'", name="x"),
            3,
            "bug in sc2onnx (ModuleNotFoundError",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_what_a_command_raises_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    def failing(args: object) -> int:
        raise error

    monkeypatch.setattr("sc2onnx.cli.inspecting.doctor", failing)
    assert main(["doctor"]) == status
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == (1 if message else 0)
    if status == 3:
        assert "SC2ONNX_TRACEBACK=1" in told
        monkeypatch.setenv("SC2ONNX_TRACEBACK", "1")
        assert main(["doctor"]) == 3
        assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("B", "P", "--seed", "3", "--stop", "x"),
        ("B", "--seed", "3", "P", "--stop", "x"),
        ("B", "--seed", "3", "--stop=x", "P"),
        ("--seed", "3", "B", "--stop", "x", "P"),
        ("--seed=3", "--stop", "x", "B", "P"),
        ("--see", "3", "B", "--sto", "x", "P"),
        ("B", "--seed", "3", "--stop", "x", "--", "P"),
        ("--seed", "3", "--stop", "x", "--", "B", "P"),
    ],
)
def test_options_stand_where_they_like(arguments: Sequence[str]) -> None:
    args = parser().parse_args(["generate", *arguments])
    assert (args.bundle, args.prompt, args.seed, args.stop) == ("B", "P", 3, ["x"])


@pytest.mark.parametrize("prompt", ["-x", "--seed", "-", "-- or so", "-1", "--max-new-tokens=3"])
def test_a_prompt_may_begin_with_a_dash_after_two(prompt: str) -> None:
    assert parser().parse_args(["generate", "B", "--seed", "3", "--", prompt]).prompt == prompt


def test_a_dash_alone_a_number_and_words_are_no_options() -> None:
    for prompt in ("-", "-1", "-- comment"):
        assert parser().parse_args(["generate", "--seed", "-1", "B", prompt]).prompt == prompt


def test_options_that_take_several_values_take_those_that_follow() -> None:
    args = parser().parse_args(["bench", "--context", "1", "2", "--repeat", "3", "B", "--prefill"])
    assert (args.bundle, args.context, args.repeat, args.prefill) == ("B", [1, 2], 3, [])
    assert parser().parse_args(["bench", "--context", "1", "2", "--", "B"]).bundle == "B"
    args = parser().parse_args(
        ["evaluate", "--length", "9", "B", "f", "--seed", "1", "g", "--infill", "2"]
    )
    assert (args.bundle, args.files, args.infill) == ("B", [Path("f"), Path("g")], 2)
    args = parser().parse_args(
        ["infill", "--line", "1", "B", "--column", "2", "f", "--no-speculate"]
    )
    assert (args.bundle, args.file, args.speculate) == ("B", Path("f"), False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate",), "arguments are required: bundle"),
        (("generate", "B", "P", "Q"), "unrecognized arguments: Q"),
        (("generate", "B", "--bogus", "P"), "unrecognized arguments: --bogus"),
        (("generate", "B", "P", "--seed"), "argument --seed: expected one argument"),
        (("generate", "B", "P", "--seed", "x\x1b"), r"argument --seed: invalid int value: 'x\x1b'"),
        (("generate", "B", "P\x1b", "Q\x1b"), r"unrecognized arguments: Q\x1b"),
        (("infill", "B"), "arguments are required: file, --line, --column"),
    ],
)
def test_mistakes_of_usage(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("usage: sc2onnx")
    assert message in told.splitlines()[-1]


def _shell(line: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = line.replace("SC2ONNX", f"'{sys.executable}' -m sc2onnx")
    env = {**os.environ, **environment}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        capture_output=True,
        timeout=120,
        check=False,
        env=env,
    )


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("SC2ONNX --help >/dev/full", 0, b""),  # argparse gives that up by itself
        ("SC2ONNX doctor --json >&- 2>&-", 0, b""),
        ("SC2ONNX generate absent x 2>/dev/full", 2, b""),
        ("SC2ONNX generate absent x <&- >&- 2>&-", 2, b""),
        ("SC2ONNX info 'a\x1bb\nc'", 2, b"sc2onnx info: no bundle at a\\x1bb\\nc: "),
        ("SC2ONNX generate $'\\xe9' x", 2, b"sc2onnx generate: no bundle at \\udce9: "),
    ],
)
def test_odd_streams_and_names_are_no_traceback(
    tmp_path: Path, line: str, status: int, told: bytes
) -> None:
    done = _shell(line, tmp_path)
    assert done.returncode == status
    assert done.stderr.startswith(told)
    assert done.stderr.count(b"\n") == (1 if told else 0)


def test_a_bundle_may_lie_where_names_are_not_utf8(bundle: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe9"))
    odd.symlink_to(bundle)
    (tmp_path / "é日").symlink_to(bundle)
    for line, environment in (
        ("SC2ONNX generate b$'\\xe9' 'def f(' --max-new-tokens 2", {}),
        (
            "SC2ONNX generate é日 'def f(' --max-new-tokens 2",
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ),
    ):
        done = _shell(line, tmp_path, **environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.strip()


def test_generated_text_is_harmless_on_a_terminal_and_itself_elsewhere(
    bundle: Path, tmp_path: Path
) -> None:
    prompt = "\x1b[2J# \u202e\r\x07"
    command = [
        sys.executable,
        "-m",
        "sc2onnx",
        "generate",
        str(bundle),
        prompt,
        "--echo",
        "--max-new-tokens",
        "1",
    ]
    plain = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=True)
    assert plain.stdout.decode().startswith(prompt)
    leader, follower = pty.openpty()
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=follower, stdout=follower, stderr=subprocess.DEVNULL
    ) as process:
        os.close(follower)
        text = b""
        while True:
            try:
                text += os.read(leader, 65536)
            except OSError:  # the terminal closed
                break
        assert process.wait() == 0
    os.close(leader)
    assert text.startswith(b"\\x1b[2J# \\u202e\\r\\x07")
    assert b"\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["generate", "b", "--", "--"], "prompt", "--"),
        (["generate", "--", "b", "--"], "prompt", "--"),
        (["generate", "b", "--n", "2", "--", "-- x"], "prompt", "-- x"),
        (["generate", "b", "x", "--stop=--"], "stop", ["--"]),
        (["generate", "b", "--stop=--", "--stop", "a", "x"], "stop", ["--", "a"]),
        (["export", "c", "--", "--"], "out", Path("--")),
        (["evaluate", "--", "b", "--", "a"], "files", [Path("--"), Path("a")]),
    ],
)
def test_two_dashes_may_be_a_value(arguments: list[str], name: str, value: object) -> None:
    assert getattr(parser().parse_args(arguments), name) == value
