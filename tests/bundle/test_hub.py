"""Bundles pushed to a hub and loaded from it, over HTTP; huggingface_hub reads its environment when
imported, so in other processes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import sc2onnx
from sc2onnx.bundle.hub import located
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import BundleNotFoundError, RequestError
from tests.bundle.fake_hub import Hub, serving

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as made:
        yield made


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """``run(*arguments, **environment)``: ``sc2onnx``, or with ``code=`` a program,
    in a directory of its own.
    """

    def start(
        *arguments: object, code: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING")) and not name.lower().endswith("_proxy")
        }
        command = ["-m", "sc2onnx", *map(str, arguments)] if code is None else ["-c", code]
        own = {
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": hub.address,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        (tmp_path / "cwd").mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, *command],
            env={**clean, **own, **environment},
            cwd=tmp_path / "cwd",
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def pushed(hub: Hub, run: Run, bundle: Path) -> Hub:
    hub.token = "secret"
    succeeded(run("push", bundle, "team/mini", HF_TOKEN="secret"))
    return hub


def test_what_is_pushed_is_the_bundle_and_nothing_else(
    hub: Hub, run: Run, bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "notes.txt").write_text("not of the bundle")
    out = succeeded(run("push", copy, "team/mini", "--private", "--message", "first", HF_TOKEN="x"))
    repository = hub.repositories["team/mini"]
    files = repository.files()
    assert files is not None
    assert set(files) == {*Manifest.read(bundle).files, "sc2onnx.json", "README.md"}
    assert all(files[name] == (bundle / name).read_bytes() for name in files if name != "README.md")
    assert (repository.private, repository.messages, len(repository.commits)) == (
        True,
        ["initial commit", "first"],
        2,
    )
    assert out.strip() == f"{hub.address}/team/mini/commit/{repository.branches['main']}"
    card = files["README.md"].decode()
    assert 'sc2onnx.load("team/mini")' in card
    assert card == (copy / "README.md").read_text().replace("PATH/OF/THIS/DIRECTORY", "team/mini")


def test_what_is_pushed_next_takes_its_place(
    pushed: Hub, run: Run, bundle: Path, tmp_path: Path
) -> None:
    """Files that only the bundle before had go; a file of somebody else's stays."""
    repository = pushed.repositories["team/mini"]
    before = repository.files()
    assert before is not None
    before["demo.gif"] = b"GIF"
    copy, manifest = tmp_path / "copy", json.loads((bundle / "sc2onnx.json").read_text())
    shutil.copytree(bundle, copy)
    del manifest["files"]["generation_config.json"]
    (copy / "sc2onnx.json").write_text(json.dumps(manifest))
    succeeded(run("push", copy, "team/mini", HF_TOKEN="secret"))
    files = repository.files()
    assert files is not None
    assert set(before) - set(files) == {"generation_config.json"}
    assert files["demo.gif"] == b"GIF"


def test_a_branch(pushed: Hub, run: Run, bundle: Path) -> None:
    succeeded(run("push", bundle, "team/mini", "--revision", "next", "--json", HF_TOKEN="secret"))
    repository = pushed.repositories["team/mini"]
    assert repository.branches["next"] != repository.branches["main"]
    assert set(repository.files("next") or {}) == set(repository.files() or {})


LOADED = (
    "import sc2onnx; print([token.id for token in sc2onnx.load('team/mini').generate_tokens([5, 6, "
    "7], max_new_tokens=8)])"
)


def test_it_is_loaded_by_its_id_and_then_without_a_network(
    pushed: Hub, run: Run, model: sc2onnx.Model
) -> None:
    expected = str([token.id for token in model.generate_tokens([5, 6, 7], max_new_tokens=8)])
    (pushed.repositories["team/mini"].files() or {})["huge.bin"] = b"never asked for"
    assert succeeded(run(code=LOADED)).strip() == expected
    assert not any("huge.bin" in line for line in pushed.asked)
    pushed.asked.clear()
    assert succeeded(run(code=LOADED, HF_HUB_OFFLINE="1")).strip() == expected
    assert pushed.asked == []


def test_the_command_line_takes_ids_too(pushed: Hub, run: Run, bundle: Path) -> None:
    here = succeeded(run("generate", bundle, "def fib(n):", "--max-new-tokens", 12))
    assert succeeded(run("generate", "team/mini", "def fib(n):", "--max-new-tokens", 12)) == here
    assert "fp32" in succeeded(run("info", "team/mini"))
    assert "not quantised" in succeeded(run("warm", "team/mini"))
    done = run("generate", "team/mini", "x", "--revision", "v9")
    assert (done.returncode, "team/mini has no revision 'v9' on the hub" in done.stderr) == (
        2,
        True,
    )


def test_quantised_weights_run_from_the_links_of_the_cache(
    hub: Hub, run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    """onnxruntime follows no link out of a directory; packed or not, the tokens
    are those of the directory.
    """
    export = pytest.importorskip(
        "sc2onnx.export", reason="exports a bundle: install the export extra"
    )
    export.export(checkpoint, tmp_path / "int8", precision="int8")
    succeeded(run("push", tmp_path / "int8", "team/int8", HF_TOKEN="x"))
    here = succeeded(run("generate", tmp_path / "int8", "def f", "--max-new-tokens", 12))
    assert succeeded(run("generate", "team/int8", "def f", "--max-new-tokens", 12)) == here
    succeeded(run("warm", "team/int8"))
    assert succeeded(run("generate", "team/int8", "def f", "--max-new-tokens", 12)) == here


def test_damage_is_noticed(pushed: Hub, run: Run) -> None:
    files = pushed.repositories["team/mini"].files()
    assert files is not None
    files["config.json"] = files["config.json"].replace(b"256", b"257")
    done = run("generate", "team/mini", "x")
    assert (done.returncode, "was altered or damaged" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (
            ("generate", "team/nothing", "x"),
            {},
            (
                "no directory team/nothing, and no hub repository team/nothing: correct the name, "
                "or log in if it is private"
            ),
        ),
        (
            ("generate", "team/raw", "x"),
            {},
            (
                "team/raw on the hub is no bundle (it has no sc2onnx.json): make one with "
                "`sc2onnx export team/raw OUT`"
            ),
        ),
        (
            ("generate", "team/mini", "x"),
            {"HF_HUB_OFFLINE": "1"},
            "the hub cannot be reached nor does its local cache hold team/mini",
        ),
        (("push", "BUNDLE", "team/other"), {}, "log in with `hf auth login`, or set HF_TOKEN"),
        (
            ("push", "BUNDLE", "team/other"),
            {"HF_TOKEN": "wrong"},
            "use a token that may write to it, of an account that it belongs to",
        ),
        (
            ("push", "BUNDLE", "team/other"),
            {"HF_TOKEN": "secret", "HF_HUB_OFFLINE": "1"},
            "HF_HUB_OFFLINE is set",
        ),
        (
            ("push", "BUNDLE", "team"),
            {"HF_TOKEN": "secret"},
            "the repository is 'team', expected OWNER/NAME",
        ),
        (("push", ".", "team/other"), {"HF_TOKEN": "secret"}, "is not a bundle"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    pushed: Hub,
    run: Run,
    bundle: Path,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    said: str,
) -> None:
    pushed.repository("team/raw")
    done = run(*(str(bundle) if word == "BUNDLE" else word for word in arguments), **environment)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, done.stderr
    assert said in lines[0]


def test_a_damaged_bundle_is_not_pushed(hub: Hub, run: Run, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    with (tmp_path / "copy" / "config.json").open("a") as file:
        file.write(" ")
    done = run("push", tmp_path / "copy", "team/mini", HF_TOKEN="x")
    assert (done.returncode, hub.repositories) == (2, {})


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_file_of_ones_own_behind_a_link_is_not_pushed(
    hub: Hub, run: Run, bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "secret").write_text("a key")
    for name in ("README.md", "config.json"):
        shutil.move(tmp_path / "copy" / name, tmp_path / name)
        (tmp_path / "copy" / name).symlink_to(tmp_path / "secret")
        done = run("push", tmp_path / "copy", "team/mini", HF_TOKEN="x")
        assert (done.returncode, hub.repositories) == (2, {})
        assert f"{name} is a link that leads out of the bundle" in done.stderr
        (tmp_path / "copy" / name).unlink()
        shutil.move(tmp_path / name, tmp_path / "copy" / name)


@pytest.mark.parametrize("card", [None, b"\xff\xfe", b" " * (5 << 20)])
def test_a_card_that_is_none(
    hub: Hub, run: Run, bundle: Path, tmp_path: Path, card: bytes | None
) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").unlink()
    if card is not None:
        (tmp_path / "copy" / "README.md").write_bytes(card)
    done = run("push", tmp_path / "copy", "team/mini", HF_TOKEN="x")
    assert (done.returncode, hub.repositories) == (2, {})
    assert "README.md cannot be pushed (" in done.stderr


CHANGED = """
import pathlib
from sc2onnx.bundle import hub
from sc2onnx.errors import BundleError
from sc2onnx.bundle.manifest import Manifest
directory = pathlib.Path({directory!r})
manifest = Manifest.read(directory)
with (directory / "config.json").open("a") as file:
    file.write(" ")
try:
    hub.push(directory, manifest, "team/mini")
except BundleError as error:
    print(error)
"""


def test_what_changes_after_it_was_checked_is_not_pushed(
    hub: Hub, run: Run, bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    said = succeeded(run(code=CHANGED.format(directory=str(tmp_path / "copy")), HF_TOKEN="x"))
    assert "config.json changed while it was pushed, so nothing was" in said
    assert (hub.repositories["team/mini"].files() or {}) == {}


def test_what_exists_wins_and_paths_are_no_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team" / "mini").mkdir(parents=True)
    for path in ("team/mini", "./team/other", "/team/other", "a/b/c", "name", Path("a/b/c")):
        assert located(path) == Path(path)
    with pytest.raises(
        RequestError, match="is no hub id, so it has no revision 'v1': leave the revision out"
    ):
        located("team/mini", "v1")
    with pytest.raises(BundleNotFoundError, match="no bundle at"):
        sc2onnx.load("./team/other")
    with pytest.raises(
        BundleNotFoundError,
        match=(
            "no bundle at team/mimi: the directory team has no mimi: correct the "
            "name, or give a revision"
        ),
    ):
        sc2onnx.load("team/mimi")


@pytest.mark.parametrize("way", ["refused", "silent", "503"])
def test_a_hub_that_does_not_answer_is_asked_once(run: Run, pushed: Hub, way: str) -> None:
    """What is in the cache is used, and what is not is an error that names both
    things that the name may be.
    """
    assert run("generate", "team/mini", "x", "--max-new-tokens", 1).returncode == 0
    with unanswering(way) as address:
        cached = run(
            "generate",
            "team/mini",
            "x",
            "--max-new-tokens",
            1,
            HF_ENDPOINT=address,
            HF_HUB_ETAG_TIMEOUT="1",
        )
        began = time.perf_counter()
        absent = run("generate", "bundels/mini", "x", HF_ENDPOINT=address, HF_HUB_ETAG_TIMEOUT="1")
        took = time.perf_counter() - began
    assert (cached.returncode, cached.stderr) == (0, "")
    assert took < 8
    assert (absent.returncode, absent.stderr.count("\n")) == (2, 1)
    assert (
        "no directory bundels/mini, and the hub cannot be reached nor does its local cache "
        "hold bundels/mini: correct the path"
    ) in absent.stderr


def test_a_pinned_commit_that_is_whole_is_not_asked_for_again(run: Run, pushed: Hub) -> None:
    commit = pushed.repositories["team/mini"].branches["main"]
    code = f"import sc2onnx; sc2onnx.load('team/mini', revision='{commit}')"
    succeeded(run(code=code))
    asked = len(pushed.asked)
    succeeded(run(code=code))
    assert len(pushed.asked) == asked


@contextmanager
def unanswering(way: str) -> Iterator[str]:
    """The address of a hub that refuses connections, takes them and is silent, or is overloaded."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if way != "refused":
            server.listen(16)
        if way == "503":
            threading.Thread(target=overloaded, args=[server], daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def overloaded(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
                    b"Connection: close\r\n\r\n"
                )
