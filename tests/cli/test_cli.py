"""The commands that only need the runtime, run as a user runs them: another
process, from another directory.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from sc2onnx.cli import process
from sc2onnx.cli.generating import cursor_offset
from sc2onnx.errors import CursorError
from sc2onnx.runtime.loading import load


def sc2onnx(
    *arguments: str | Path,
    directory: Path,
    stdin: bytes | None = b"",
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sc2onnx", *map(str, arguments)]
    env = {**os.environ, **(environment or {})}
    return subprocess.run(
        command, cwd=directory, input=stdin, capture_output=True, timeout=120, check=False, env=env
    )


def succeeded(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """Exit status 2, one line on standard error, nothing else."""
    assert done.returncode == 2, done.stderr.decode()
    assert done.stdout == b""
    message = done.stderr.decode()
    assert message.count("\n") == 1, message
    return message


def test_text_that_would_fill_the_memory_is_refused(bundle: Path, tmp_path: Path) -> None:
    commands = (
        ("generate", bundle, "--file", "/dev/zero"),
        ("infill", bundle, "/dev/zero", "--line", "1", "--column", "1"),
        ("evaluate", bundle, "/dev/zero"),
    )
    for command in commands:
        assert "/dev/zero has more than 67,108,864 bytes" in refused(
            sc2onnx(*command, directory=tmp_path)
        )


def test_a_prompt_comes_from_the_argument_a_file_or_standard_input(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.py").write_text("def fib(n):\n")
    options = ("--max-new-tokens", "8")
    outputs = {
        succeeded(sc2onnx("generate", bundle, "def fib(n):\n", *options, directory=tmp_path)),
        succeeded(sc2onnx("generate", bundle, "--file", "p.py", *options, directory=tmp_path)),
        succeeded(
            sc2onnx("generate", bundle, *options, directory=tmp_path, stdin=b"def fib(n):\n")
        ),
        succeeded(
            sc2onnx("generate", bundle, "-", *options, directory=tmp_path, stdin=b"def fib(n):\n")
        ),
    }
    assert len(outputs) == 1
    assert outputs.pop().strip()
    echoed = succeeded(
        sc2onnx("generate", bundle, "def fib(n):\n", *options, "--echo", directory=tmp_path)
    )
    assert echoed.startswith("def fib(n):\n")


def test_json_is_one_object_with_what_a_program_needs(bundle: Path, tmp_path: Path) -> None:
    options = (
        "--max-new-tokens",
        "6",
        "--temperature",
        "0.8",
        "--seed",
        "3",
        "--logprobs",
        "--json",
    )
    answer = json.loads(
        succeeded(sc2onnx("generate", bundle, "def f(", *options, directory=tmp_path))
    )
    assert len(answer["tokens"]) == len(answer["logprobs"]) == 6
    assert answer["finish_reason"] == "length"
    plain = succeeded(sc2onnx("generate", bundle, "def f(", *options[:-2], directory=tmp_path))
    assert plain == answer["text"]


def test_a_text_may_have_to_be_something(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    (tmp_path / "s.json").write_text('{"type": "integer", "minimum": 3, "maximum": 5}')
    (tmp_path / "g.gbnf").write_text('root ::= "<" [ab] ">"')
    (tmp_path / "a.py").write_text("x = \n")
    for options, expected in (
        (("--json-schema", "s.json"), "[345]"),
        (("--grammar", "g.gbnf"), "<[ab]>"),
        (("--regex", "[xy]{2}"), "[xy]{2}"),
        (("--choice", "one", "--choice", "two words"), "one|two words"),
    ):
        told = succeeded(sc2onnx("generate", bundle, "x = ", *options, directory=tmp_path))
        assert re.fullmatch(expected, told.removesuffix("\n"))
    at = ("a.py", "--line", "1", "--column", "5", "--choice", "7")
    assert succeeded(sc2onnx("infill", bundle, *at, directory=tmp_path)).strip() == "7"


def test_infill_completes_at_a_cursor(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def add(a, b):\n    \n\nprint(add(1, 2))\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    where = ("f.py", "--line", "2", "--column", "5", "--max-new-tokens", "5", "--json")
    here = json.loads(succeeded(sc2onnx("infill", bundle, *where, directory=tmp_path)))
    context = ("--path", "f.py", "--repo", "me/it", "--with", "other.py")
    there = json.loads(succeeded(sc2onnx("infill", bundle, *where, *context, directory=tmp_path)))
    assert here["tokens"]
    assert here["tokens"] != there["tokens"]
    first = json.loads(
        succeeded(sc2onnx("infill", bundle, *where, "--order", "spm", directory=tmp_path))
    )
    text = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
    assert (
        tuple(first["tokens"]) == load(bundle).infill(*text, order="spm", max_new_tokens=5).tokens
    )


def test_infill_in_a_file_larger_than_the_context_uses_what_is_near_the_cursor(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "long.py").write_text("".join(f"value_{i} = {i}\n" for i in range(2000)))
    done = sc2onnx(
        "infill",
        bundle,
        "long.py",
        "--line",
        "1000",
        "--column",
        "8",
        "--max-new-tokens",
        "4",
        directory=tmp_path,
    )
    assert succeeded(done)
    assert b"lines up to the cursor" in done.stderr
    short = ("--line", "1000", "--column", "8", "--max-new-tokens", "4", "--prompt-tokens", "100")
    line = sc2onnx("infill", bundle, "long.py", *short, directory=tmp_path).stderr.decode()
    found = re.fullmatch(
        r"using \d+ lines up to the cursor and \d+ from it on \((\d+) tokens\)\n", line
    )
    assert found is not None, line
    assert 60 < int(found[1]) <= 100
    assert "--prompt-tokens is 15" in refused(
        sc2onnx("infill", bundle, "long.py", *short[:-1], "15", directory=tmp_path)
    )


def test_infill_makes_room_for_other_files_and_does_not_reserve_the_whole_answer(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "open.py").write_text("".join(f"value_{i} = {i}\n" for i in range(40)))
    cursor = ("--line", "20", "--column", "1", "--stop", "\n")
    done = sc2onnx(
        "infill", bundle, "open.py", *cursor, "--max-new-tokens", "2000", directory=tmp_path
    )
    succeeded(done)
    assert b"using" not in done.stderr  # all of it fits
    (tmp_path / "other.py").write_text("".join(f"name_{i} = {i}\n" for i in range(100)))
    (tmp_path / "open.py").write_text("".join(f"value_{i} = {i}\n" for i in range(2000)))
    succeeded(
        sc2onnx(
            "infill",
            bundle,
            "open.py",
            *cursor,
            "--with",
            "other.py",
            "--path",
            "open.py",
            "--repo",
            "a/b",
            directory=tmp_path,
        )
    )
    (tmp_path / "other.py").write_text("".join(f"name_{i} = {i}\n" for i in range(4000)))
    done = sc2onnx("infill", bundle, "open.py", *cursor, "--with", "other.py", directory=tmp_path)
    succeeded(done)
    assert re.search(
        rb"from it on and \d+ of 4000 lines of other\.py \(\d+ tokens\)\n$", done.stderr
    )


def test_several_samples_are_a_list_and_special_tokens_may_be_text(
    bundle: Path, tmp_path: Path
) -> None:
    options = ("--json", "--max-new-tokens", "4", "--temperature", "1", "--seed", "3")
    samples = json.loads(
        succeeded(sc2onnx("generate", bundle, "def f(", *options, "--n", "3", directory=tmp_path))
    )
    assert len(samples) == 3
    assert (
        samples[0]["tokens"]
        == json.loads(
            succeeded(sc2onnx("generate", bundle, "def f(", *options, directory=tmp_path))
        )["tokens"]
    )
    assert "--n is for --json" in refused(
        sc2onnx("generate", bundle, "a", "--n", "2", directory=tmp_path)
    )
    ends = ("generate", bundle, "x = 1<|endoftext|>", *options[:3])
    texts = [
        json.loads(succeeded(sc2onnx(*ends, "--special-tokens", kind, directory=tmp_path)))["text"]
        for kind in ("parse", "text")
    ]
    assert texts[0] != texts[1]


def test_info_adds_up(bundle: Path, tmp_path: Path) -> None:
    answer = json.loads(
        succeeded(sc2onnx("info", bundle, "--context", "300", "--json", directory=tmp_path))
    )
    memory = answer["memory"]
    assert memory["cache"] == 320 * 6 * 2 * 2 * 64 * 4  # whole granules of 64 slots
    assert memory["total"] == memory["weights"] + memory["cache"]
    text = succeeded(sc2onnx("info", bundle, directory=tmp_path))
    assert "5,392,896" in text
    assert "sliding window 256" in text
    assert "memory at 2,048 tokens" in text


def test_doctor_finds_that_bundles_run_here(tmp_path: Path) -> None:
    findings = json.loads(succeeded(sc2onnx("doctor", "--json", directory=tmp_path)))
    by_subject = {finding["subject"]: finding for finding in findings}
    assert by_subject["cpu"]["ok"] is True
    assert by_subject["cuda"]["ok"] in (True, None)
    assert by_subject["onnxruntime"]["ok"] is True
    assert {"sc2onnx export", "sc2onnx verify"} <= set(by_subject)
    for finding in findings:
        assert finding["ok"] is True or finding["advice"] or finding["subject"] == "cuda"
    assert "threads by default" in succeeded(sc2onnx("doctor", directory=tmp_path))


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('broken on purpose')")
    done = sc2onnx("doctor", directory=tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert b"broken on purpose" in done.stdout
    assert b'pip install "onnxruntime>=1.32"' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "absent", "x"), "no bundle at absent"),
        (("generate", "BUNDLE", ""), "the prompt is empty"),
        (("generate", "BUNDLE", "x", "--file", "f.py"), "both a prompt and --file"),
        (("generate", "BUNDLE", "--file", "absent.py"), "absent.py cannot be read: No such file"),
        (("generate", "BUNDLE", "--file", "binary"), "binary is not UTF-8 text"),
        (
            ("generate", "BUNDLE", "x", "--temperature", "-1"),
            "temperature is -1.0, expected 0 (greedy) or more",
        ),
        (("generate", "BUNDLE", "x", "--top-p", "0"), "top_p is 0.0"),
        (("generate", "BUNDLE", "x", "--max-new-tokens", "0"), "max_new_tokens is 0"),
        (
            ("generate", "BUNDLE", "x", "--device", "cuda"),
            "device is 'cuda:0' and the bundle is fp32 for cpu",
        ),
        (("generate", "BUNDLE", "x", "--threads", "0"), "threads is 0"),
        (("generate", "BUNDLE", "x", "--logprobs"), "--logprobs is for --json"),
        (("generate", "TOKENS", "x"), "no tokenizer.json"),
        (
            ("infill", "BUNDLE", "f.py", "--line", "9", "--column", "1"),
            "--line is 9, expected 1 to 3",
        ),
        (
            ("infill", "BUNDLE", "f.py", "--line", "1", "--column", "9"),
            "--column is 9, expected 1 to 6 on line 1",
        ),
        (("info", "BUNDLE", "--context", "4096"), "the context is 4096, expected 1 to 2048"),
        (("info", "."), "is not a bundle"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    bundle: Path, token_bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "f.py").write_text("a = 1\nb\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    named = [
        {"BUNDLE": str(bundle), "TOKENS": str(token_bundle)}.get(argument, argument)
        for argument in arguments
    ]
    assert message in refused(sc2onnx(*named, directory=tmp_path))


def test_a_prompt_longer_than_the_context_is_refused_before_any_work(
    bundle: Path, tmp_path: Path
) -> None:
    assert "the model's context holds 2048" in refused(
        sc2onnx("generate", bundle, directory=tmp_path, stdin=b"a b c " * 2000)
    )


def test_odd_standard_streams_are_no_traceback(bundle: Path, tmp_path: Path) -> None:
    def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        env = {**os.environ, **environment}
        line = command.replace("SC2ONNX", f"'{sys.executable}' -m sc2onnx").replace(
            "BUNDLE", f"'{bundle}'"
        )
        return subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
            check=False,
            env=env,
        )

    assert "no prompt" in refused(shell("SC2ONNX generate BUNDLE <&-"))
    done = shell(
        "SC2ONNX generate BUNDLE 'x = \"é' --echo --max-new-tokens 1", PYTHONIOENCODING="ascii"
    )
    assert succeeded(done).startswith('x = "?')
    done = shell("SC2ONNX info BUNDLE > /dev/full")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


def test_warnings_of_other_packages_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with process.quiet_warnings():
        warnings.warn_explicit(
            "torch says so", UserWarning, "/home/u/sc2onnx/.venv/lib/torch/x.py", 3
        )
        warnings.warn_explicit(
            "we say so",
            UserWarning,
            str(Path(process.__file__).parent.parent / "export" / "x.py"),
            3,
        )
    assert capsys.readouterr().err == "warning: we say so\n"


def test_unknown_commands_and_options_are_usage_errors(tmp_path: Path) -> None:
    assert sc2onnx("fly", directory=tmp_path).returncode == 2
    assert sc2onnx("info", directory=tmp_path).returncode == 2


def test_a_reader_that_leaves_early_is_no_error(bundle: Path, tmp_path: Path) -> None:
    command = (
        f"'{sys.executable}' -m sc2onnx generate '{bundle}' 'import' "
        "--max-new-tokens 400 | head -c 5"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    assert len(done.stdout) == 5
    assert done.stderr == b""


def test_a_terminal_sees_the_text_as_it_comes_and_the_speed_after_it(
    bundle: Path, tmp_path: Path
) -> None:
    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "sc2onnx",
        "generate",
        str(bundle),
        "import",
        "--max-new-tokens",
        "300",
        "--stop",
        "nowhere",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=follower, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        times, text = [], b""
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:  # the terminal closed
                break
            times.append(time.perf_counter())
            text += data
        assert process.wait() == 0
    os.close(leader)
    assert b"tokens, first after" in text
    assert len(times) > 5  # pieces, not one block


def test_an_interrupt_ends_quietly(bundle: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sc2onnx",
        "generate",
        str(bundle),
        "import",
        "--max-new-tokens",
        "2000",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
        assert process.wait() == 130
    assert b"Traceback" not in error
    assert b"interrupted" in error


@pytest.mark.parametrize(
    ("line", "column", "offset"), [(1, 1, 0), (1, 3, 2), (2, 1, 3), (2, 3, 5), (3, 1, 6)]
)
def test_cursors_count_from_one_and_may_stand_at_the_end_of_a_line(
    line: int, column: int, offset: int
) -> None:
    assert cursor_offset("ab\ncd\n", line, column) == offset


@pytest.mark.parametrize(("line", "column"), [(0, 1), (4, 1), (1, 0), (1, 4), (3, 2)])
def test_cursors_outside_the_file_are_refused(line: int, column: int) -> None:
    with pytest.raises(CursorError, match="expected 1 to"):
        cursor_offset("ab\ncd\n", line, column)
