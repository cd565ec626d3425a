"""What a server is told: by its file, the environment and flags, and what of that is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sc2onnx.errors import RequestError
from sc2onnx.serve.configuration import PREFIX, Configuration, configured, of_environment, of_file
from sc2onnx.serve.settings import Settings

KEY = "a-key-of-some-length"


def test_the_first_that_says_something_wins() -> None:
    file = of_file(Path("serve.toml"), "port = 1\nwaiting = 2\nmost_tokens = 3", {})
    environment = of_environment({f"{PREFIX}PORT": "4", f"{PREFIX}WAITING": "5", "HOME": "/"})
    found = configured({"port": 6}, environment, file)
    assert (found.port, found.waiting, found.most_tokens, found.max_batch) == (6, 5, 3, 8)


def test_a_file_may_say_everything_and_reaches_the_settings() -> None:
    text = "\n".join(
        [
            'host = "0.0.0.0"',
            "patience = 5",
            "drain_seconds = 2.5",
            'allowed_hosts = ["code.example"]',
            'origins = ["https://page.example"]',
            "connections = 7",
            "body_bytes = 1000",
            "log_prompts = true",
        ]
    )
    settings = configured(of_file(Path("serve.toml"), text, {})).settings((KEY,))
    expected = Settings(
        host="0.0.0.0",
        keys=(KEY,),
        patience=5.0,
        drain_seconds=2.5,
        hosts=("code.example",),
        origins=("https://page.example",),
        connections=7,
        body_bytes=1000,
        log_prompts=True,
    )
    assert settings == expected


def test_every_bound_of_the_settings_has_a_key() -> None:
    renamed = {"keys": "key_files", "hosts": "allowed_hosts"}
    keys = {each.name for each in fields(Configuration)}
    assert {renamed.get(each.name, each.name) for each in fields(Settings)} <= keys
    usual = Configuration().settings(())
    assert usual == Settings()


def test_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "owner" / "here").mkdir(parents=True)
    text = (
        'key_files = ["keys", "/run/keys", "$CREDENTIALS_DIRECTORY/keys"]\n'
        + '[models]\na = "one"\nb = "owner/here"\nc = "owner/there"\nd = "/srv/two"\n'
        + '[adapters]\nsql = "sql-adapter"\ndocs = "/srv/docs"\n'
    )
    found = configured(of_file(tmp_path / "serve.toml", text, {"CREDENTIALS_DIRECTORY": "/run/x"}))
    assert found.key_files == (str(tmp_path / "keys"), "/run/keys", "/run/x/keys")
    expected = {
        "a": str(tmp_path / "one"),
        "b": str(tmp_path / "owner" / "here"),
        "c": "owner/there",
        "d": "/srv/two",
    }
    assert found.models == expected
    assert found.adapters == {"sql": str(tmp_path / "sql-adapter"), "docs": "/srv/docs"}


def test_the_environment_has_lists_numbers_and_models() -> None:
    variables = {
        "KEY_FILES": "/a, /b",
        "MODELS": "x=/one,y=/two",
        "ADAPTERS": "sql=/a, docs=/b",
        "PATIENCE": "3",
        "LOG_PROMPTS": "true",
        "LOG": "json",
        "CONFIG": "/etc/serve.toml",
    }
    found = configured(of_environment({PREFIX + name: value for name, value in variables.items()}))
    assert found.key_files == ("/a", "/b")
    assert found.models == {"x": "/one", "y": "/two"}
    assert found.adapters == {"sql": "/a", "docs": "/b"}
    assert (found.patience, found.log_prompts, found.log) == (3.0, True, "json")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", r"serve\.toml: 'prot' is not known: did you mean port\?"),
        ("key_file = 'keys'", r"did you mean key_files\?"),
        ("zzzzzz = 1", r"docs/serving\.md lists"),
        ("port = 'x'", r"serve\.toml: port is 'x', expected `int`, got `str`"),
        ("port = true", r"expected `int`, got `bool`"),
        ("origins = 'https://x'", r"origins is 'https://x', expected `array`"),
        ("[models]\na = 1", r"models is \{'a': 1\}, expected `str`, got `int`"),
        ("log = 'xml'", r"log is 'xml', expected one of text, json"),
        ("port = = 1", r"serve\.toml is not TOML \(.*line 1"),
        ("key_files = ['$NOT_SET/keys']", r"\$NOT_SET, which is not set"),
        ("key_files = ['a$/keys']", r"the name of a variable after \$"),
    ],
)
def test_mistakes_in_a_file_are_told_with_the_key(text: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        of_file(Path("serve.toml"), text, {})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PRT", "1", "did you mean SC2ONNX_SERVE_PORT"),
        ("PORT", "tcp://10.0.0.1:80", "SC2ONNX_SERVE_PORT in the environment: port is 'tcp"),
        ("MODELS", "nonsense", "expected NAME=BUNDLE"),
        ("KERNELS", "yes", "expected one of auto, on, off"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(name: str, value: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        of_environment({PREFIX + name: value})


def test_a_key_in_the_environment_is_refused_and_not_repeated() -> None:
    with pytest.raises(RequestError, match="did you mean SC2ONNX_SERVE_KEY_FILES") as refused:
        of_environment({"SC2ONNX_SERVE_KEYS": KEY})
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"patience": 0.0},
        {"patience": float("nan")},
        {"drain_seconds": -1.0},
        {"drain_seconds": float("inf")},
        {"waiting": 0},
    ],
)
def test_values_out_of_bounds_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(given))} is .*, expected"):
        configured(given).settings(())


def check(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sc2onnx", "serve", "--check", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_check_says_what_would_be_served(bundle: Path, int8_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    (tmp_path / "code").symlink_to(bundle)
    file = tmp_path / "serve.toml"
    text = 'host = "0.0.0.0"\nport = 1234\nkey_files = ["keys"]\n[models]\n'
    file.write_text(f'{text}one = "code"\ntwo = "{int8_bundle}"\nthree = "nobody/nothing"\n')
    done = check("--config", file, "--port", 0, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    first, second, third, last = done.stdout.splitlines()
    assert first == f"one: {tmp_path / 'code'}, for cpu"
    assert second.startswith("two: ")
    assert "of the hub" in third
    assert last == f"on 0.0.0.0 port 0, with 1 key of {tmp_path / 'keys'}"
    variables = {f"{PREFIX}CONFIG": str(file), f"{PREFIX}PORT": "77"}
    again = check("--log", "json", cwd=tmp_path, **variables)
    assert again.stdout.splitlines()[-1].startswith("on 0.0.0.0 port 77")


def test_bundles_of_the_command_line_replace_the_files(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text('[models]\nabsent = "absent"\n')
    done = check(bundle, "--alias", "a=b", "--config", "serve.toml", cwd=tmp_path)
    assert done.stdout.splitlines()[0].startswith("a=b: ")


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        ("port = 1", [], "nothing to serve"),
        ("[models]\na = 'absent'", [], "absent"),
        ("[models]\na = 'absent'", ["--alias", "b"], "without a BUNDLE"),
        ("hots = 'x'", [], "did you mean host"),
        ("[models]\na = 'x'\n[adapters]\na = 'y'", [], "the name of a model and of an adapter"),
        ("[models]\na = 'x'", ["--adapter", "b"], "--adapter is 'b', expected NAME=DIR"),
        ("host = '0.0.0.0'\n[models]\na = 'x'", [], "without a key"),
        ("key_files = ['none-there']\n[models]\na = 'x'", [], "none-there cannot be read"),
    ],
)
def test_mistakes_end_check(tmp_path: Path, text: str, arguments: list[str], told: str) -> None:
    (tmp_path / "serve.toml").write_text(text)
    done = check("--config", "serve.toml", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
