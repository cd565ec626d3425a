"""The container file: what it copies is there, what it runs parses, and what it starts serves."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest

from sc2onnx.cli.options import parser
from sc2onnx.serve.configuration import PREFIX, configured, of_environment
from tests.conftest import ROOT
from tests.serve.test_run import started

FILE = ROOT / "deploy" / "container" / "Containerfile"
IGNORED = ROOT / ".dockerignore"


def instructions() -> list[tuple[str, str]]:
    """Instructions and what follows them, lines that go on joined, comments left out."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    parts = [each.split(None, 1) for each in joined if each.strip()]
    return [(name, value) for name, value in parts]


def last(name: str) -> str:
    """What the last instruction of a name says, which is the image's."""
    return [value for each, value in instructions() if each == name][-1]


def variables() -> dict[str, str]:
    """The environment of the image."""
    return dict(each.split("=", 1) for each in shlex.split(last("ENV")))


def command() -> list[str]:
    """What the image starts: both parts in the exec form, so that signals reach the server."""
    return [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]


def test_the_base_is_pinned_and_the_same_for_both_stages() -> None:
    assert re.fullmatch(r"BASE=[a-z]+:\d+\.\d+\.\d+-[a-z-]+", last("ARG"))
    assert [value.split()[0] for name, value in instructions() if name == "FROM"] == [
        "${BASE}",
        "${BASE}",
    ]


def test_it_runs_as_nobody_in_particular() -> None:
    user, group = last("USER").split(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    after = instructions()[[name for name, _ in instructions()].index("USER") :]
    assert not [name for name, _ in after if name in ("RUN", "COPY", "ADD", "USER")][1:]


def test_what_it_copies_is_there_and_not_ignored() -> None:
    lines = IGNORED.read_text(encoding="utf-8").splitlines()
    listed = {line[1:] for line in lines if line.startswith("!")}
    copied = [value.split()[:-1] for name, value in instructions() if name == "COPY"]
    names = [name for each in copied if not each[0].startswith("--from") for name in each]
    assert names
    for name in names:
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, pattern) for pattern in listed), name
    assert listed == set(names)


def test_what_it_installs_exists() -> None:
    """Extras and directories of the pip commands."""
    (wheel,) = [value for name, value in instructions() if name == "RUN" and "pip wheel" in value]
    wanted = shlex.split(wheel)[shlex.split(wheel).index("--wheel-dir") + 2 :]
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for each in wanted:
        folder, _, named = each.rstrip("]").partition("[")
        assert (ROOT / folder / "pyproject.toml").is_file()
        assert all(f"\n{extra} = [" in extras for extra in named.split(",") if extra)
    assert not [value for name, value in instructions() if name == "RUN" and "torch" in value]


def test_its_command_and_environment_are_taken() -> None:
    program, *arguments = command()
    assert program == "sc2onnx"
    args = parser().parse_args(arguments)
    assert (args.command, args.bundle) == ("serve", "/bundle")
    found = configured(of_environment(variables()))
    assert (found.host, found.log) == ("0.0.0.0", "json")
    assert found.key_files == ("/run/secrets/keys",)
    assert last("STOPSIGNAL") == "SIGTERM"
    assert int(last("EXPOSE")) == found.port


def test_what_the_documentation_runs_is_taken() -> None:
    """The options of the image's own command in the lines of `docker run`."""
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [shlex.split(line) for line in page.splitlines() if line.startswith("docker run")]
    assert lines
    for line in lines:
        for option in ("--read-only", "--cap-drop", "--security-opt"):
            assert option in line
        arguments = line[line.index("sc2onnx") + 1 :]
        assert parser().parse_args(["serve", *arguments]).bundle == "/bundle"


def test_it_serves_with_nothing_to_write_to_but_its_cache(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image's environment and health check, in a home that cannot be written to."""
    sealed, cache, keys = tmp_path / "sealed", tmp_path / "cache", tmp_path / "keys"
    sealed.mkdir()
    cache.mkdir()
    keys.write_text("a-key-of-some-length\n")
    sealed.chmod(0o555)
    given = {
        **variables(),
        "HOME": str(sealed),
        "TMPDIR": str(sealed),
        "SC2ONNX_CACHE": str(cache),
        f"{PREFIX}KEY_FILES": str(keys),
    }
    del given["PATH"]
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with started(bundle, cwd=sealed) as (process, address):
        port = address.rsplit(":", 1)[1]
        assert _health(port) == 0
        body, headers = (
            {"prompt": "def f():\n", "max_tokens": 2},
            {"x-api-key": "a-key-of-some-length"},
        )
        url = f"http://127.0.0.1:{port}/v1/completions"
        reply = httpx.post(url, json=body, headers=headers, timeout=60)
        assert reply.status_code == 200
        process.terminate()
        assert process.wait(30) == 0
    assert _health(port) != 0
    assert not list(sealed.iterdir())


def _health(port: str) -> int:
    """The status of the image's health check."""
    check = last("HEALTHCHECK")
    program, *arguments = json.loads(check[check.index("[") :])
    assert program == "python"
    env = {**os.environ, f"{PREFIX}PORT": port}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    return done.returncode


@pytest.mark.parametrize("name", ["LABEL", "HEALTHCHECK", "VOLUME"])
def test_it_says_what_it_is(name: str) -> None:
    assert last(name)


def test_hadolint_takes_it() -> None:
    program = shutil.which("hadolint") or shutil.which(
        "hadolint", path=str(Path(sys.executable).parent)
    )
    if program is None:
        pytest.skip("hadolint is not installed")
    command = [program, "--failure-threshold", "style", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
