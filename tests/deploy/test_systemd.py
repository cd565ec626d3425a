"""The unit and its example: parsed by the real parser, and checked by systemd where it is there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from sc2onnx.cli.main import main
from sc2onnx.cli.options import parser
from sc2onnx.serve.configuration import of_file
from tests.conftest import ROOT

UNIT = ROOT / "deploy" / "systemd" / "sc2onnx.service"
EXAMPLE = ROOT / "deploy" / "systemd" / "serve.toml"


def unit() -> dict[str, list[str]]:
    """Directive -> its values."""
    found = defaultdict[str, list[str]](list)
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def test_the_command_parses_and_names_the_example() -> None:
    (command,) = unit()["ExecStart"]
    program, *arguments = shlex.split(command)
    assert Path(program).is_absolute()
    args = parser().parse_args(arguments)
    assert (args.command, args.config.name) == ("serve", EXAMPLE.name)


def test_it_stops_later_than_the_server_gives_its_requests_up() -> None:
    (seconds,) = unit()["TimeoutStopSec"]
    text = EXAMPLE.read_text(encoding="utf-8")
    drain = of_file(EXAMPLE, text, {"CREDENTIALS_DIRECTORY": "/x"})["drain_seconds"]
    assert float(seconds) >= drain + 5


def test_the_service_has_no_rights_it_does_not_need() -> None:
    found = unit()
    for name in (
        "DynamicUser",
        "NoNewPrivileges",
        "PrivateTmp",
        "ProtectHome",
        "MemoryDenyWriteExecute",
    ):
        assert found[name] == ["yes"], name
    assert found["ProtectSystem"] == ["strict"]
    assert found["CapabilityBoundingSet"] == [""]
    assert "User" not in found


def test_its_cache_is_where_the_server_looks() -> None:
    found = unit()
    assert f"SC2ONNX_CACHE=%C/{found['CacheDirectory'][0]}" in found["Environment"][0].split()


def test_the_example_is_what_check_takes(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a bundle in the place of its own, and with the key that the unit loads."""
    (credential,) = unit()["LoadCredential"]
    name = credential.split(":")[0]
    (tmp_path / name).write_text("a-key-of-some-length\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    text = EXAMPLE.read_text(encoding="utf-8")
    (served,) = of_file(EXAMPLE, text, {"CREDENTIALS_DIRECTORY": "/x"})["models"].values()
    file = tmp_path / "serve.toml"
    file.write_text(text.replace(served, str(bundle)))
    assert main(["serve", "--check", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"1 key of {tmp_path / name}" in out
    assert str(bundle) in out


def test_systemd_takes_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (command,) = unit()["ExecStart"]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(command.split()[0], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Failed to" in done.stderr and "ignoring" not in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr.strip()) == (0, "")
