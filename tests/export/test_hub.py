"""Checkpoints by hub id, from the cache and without a network; and what is said when
the hub has no such thing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors as hub_errors

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import CheckpointNotFoundError
from sc2onnx.export import export, hub

MAIN, TAGGED = (
    "0123456789abcdef0123456789abcdef01234567",
    "89abcdef0123456789abcdef0123456789abcdef",
)
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub_cache(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """The cache of huggingface_hub with org/name: ``main`` of window 5, and
    the tag ``v1`` of window 3.
    """
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    for reference, commit, window in (("main", MAIN, 5), ("v1", TAGGED, 3)):
        (repository / "refs" / reference).write_text(commit)
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        made = make_checkpoint({"sliding_window": window}, name=f"made-{reference}")
        (made / "README.md").write_text("---\nlicense: bigcode-openrail-m\n---\n")
        for file in made.iterdir():  # a snapshot is a directory of links to blobs
            blob = repository / "blobs" / f"{commit}-{file.name}"
            shutil.move(file, blob)
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return tmp_path / "hub"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(*arguments, **environment)``: ``sc2onnx export`` in another process, for
    huggingface_hub reads its environment when imported.
    """

    def start(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING")) and not name.lower().endswith("_proxy")
        }
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "sc2onnx",
                "export",
                *map(str, arguments),
                "--precision",
                "fp32",
            ],
            env={**clean, "HF_HOME": str(tmp_path / "hf-home"), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )

    return start


@pytest.mark.parametrize(
    ("options", "commit", "window"),
    [
        ((), MAIN, 5),
        (("--revision", "main"), MAIN, 5),
        (("--revision", "v1"), TAGGED, 3),
        (("--revision", TAGGED), TAGGED, 3),
    ],
)
def test_a_cached_checkpoint_is_exported_by_its_id_without_a_network(
    hub_cache: Path, run: Run, tmp_path: Path, options: tuple[str, ...], commit: str, window: int
) -> None:
    done = run(
        "org/name", tmp_path / "bundle", *options, HF_HUB_CACHE=str(hub_cache), HF_HUB_OFFLINE="1"
    )
    assert done.returncode == 0, done.stderr
    manifest = Manifest.read(tmp_path / "bundle")
    assert (manifest.provenance.source, manifest.provenance.revision) == ("org/name", commit)
    assert manifest.provenance.license == "bigcode-openrail-m"
    assert manifest.model.sliding_window == window
    assert not [path for path in (tmp_path / "bundle").iterdir() if path.is_symlink()]
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "base_model: org/name\n" in card
    assert commit in card


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("org/absent",), "org/absent"), (("org/name", "--revision", "v2"), "v2")],
)
def test_what_the_cache_lacks_is_named_when_there_is_no_network(
    hub_cache: Path, run: Run, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    done = run(
        *arguments[:1],
        tmp_path / "bundle",
        *arguments[1:],
        HF_HUB_CACHE=str(hub_cache),
        HF_HUB_OFFLINE="1",
    )
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"sc2onnx export: no directory {arguments[0]}, and the hub cannot be reached nor does "
        "its local cache hold it"
    )
    assert named in last
    assert "HF_HUB_OFFLINE" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_snapshot_that_was_not_downloaded_to_the_end_is_refused(
    hub_cache: Path, run: Run, tmp_path: Path
) -> None:
    (hub_cache / "models--org--name" / "snapshots" / MAIN / "model.safetensors").unlink()
    done = run("org/name", tmp_path / "bundle", HF_HUB_CACHE=str(hub_cache), HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "has no weights, expected model.safetensors" in done.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(params=["refused", "dropped", "nonsense"])
def broken_hub(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a hub that refuses connections, ends them without an
    answer, or answers nonsense.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param != "refused":
            server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    if request.param == "nonsense":
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\n"
                            b"Connection: close\r\n\r\n<html/>"
                        )

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        if request.param != "refused":
            server.shutdown(socket.SHUT_RDWR)


def test_a_hub_that_does_not_answer_properly_is_an_error_in_one_line(
    broken_hub: str, run: Run, tmp_path: Path
) -> None:
    done = run("org/name", tmp_path / "bundle", HF_ENDPOINT=broken_hub)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert "org/name" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "bundle").exists()


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids that were asked of the hub; it never answers."""
    asked: list[str] = []

    def download(repo_id: str, *arguments: Any, **options: Any) -> str:
        asked.append(repo_id)
        raise AssertionError(f"the hub was asked for {repo_id}")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "answers", download)
    return asked


@pytest.mark.parametrize(
    "name",
    [
        "./missing/dir",
        "../missing",
        "/missing/dir",
        "missing",
        "a/b/c",
        "missing/",
        "~/checkpoint",
        "org/",
        "org name/x",
        "-x/y",
    ],
)
def test_what_cannot_be_a_hub_id_is_refused_without_asking_the_hub(
    downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError):
        export(name, tmp_path / "bundle")
    assert downloads == []


def test_a_name_in_a_directory_that_is_there_is_a_path(
    downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointNotFoundError,
        match=(
            "no checkpoint at org/name: the directory org has no name: correct the "
            "name, or give a revision"
        ),
    ):
        export("org/name", tmp_path / "bundle")
    assert downloads == []
    with pytest.raises(CheckpointNotFoundError, match="could not be downloaded"):
        export("org/name", tmp_path / "bundle", revision="main")
    assert downloads == ["org/name"]


def test_a_local_directory_is_what_it_is(
    downloads: list[str], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it looks like a hub id; it is called by its own name however it is reached."""
    monkeypatch.chdir(tiny_checkpoint.parent.parent)
    looks_like_an_id = f"{tiny_checkpoint.parent.name}/{tiny_checkpoint.name}"
    assert hub.resolve(looks_like_an_id) == hub.Source(Path(looks_like_an_id), "checkpoint", None)
    monkeypatch.chdir(tiny_checkpoint)
    assert hub.resolve(".").name == "checkpoint"
    assert downloads == []


def test_a_local_directory_has_no_revision(
    downloads: list[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointNotFoundError,
        match="is a local directory, it has no revision 'v1': leave the revision out",
    ):
        export(tiny_checkpoint, tmp_path / "bundle", revision="v1")
    assert downloads == []
    assert not (tmp_path / "bundle").exists()


def test_only_what_an_export_needs_is_downloaded(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a repository that also has pickles and weights of other frameworks."""
    snapshot = tiny_checkpoint.parent / MAIN
    asked: list[tuple[str, Any, Any]] = []

    def download(
        repo_id: str, *, revision: str | None, allow_patterns: Any, local_files_only: bool
    ) -> str:
        assert not local_files_only
        asked.append((repo_id, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "answers", lambda *_: True)
    assert hub.resolve("org/name", "v1") == hub.Source(snapshot, "org/name", MAIN)
    ((repo_id, revision, patterns),) = asked
    assert (repo_id, revision) == ("org/name", "v1")
    wanted = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "LICENSE",
        "README.md",
    ]
    wanted += [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    unwanted = [
        "pytorch_model.bin",
        "flax_model.msgpack",
        "model.gguf",
        "onnx/model.onnx",
        ".gitattributes",
        "train.py",
    ]
    assert [
        name for name in [*wanted, *unwanted] if any(fnmatch(name, pattern) for pattern in patterns)
    ] == wanted


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "org/name is gated: accept its licence on the hub, then log in"),
        (
            "RepositoryNotFoundError",
            "no directory and no hub model org/name: correct the name, or log in if it is private",
        ),
        (
            "RevisionNotFoundError",
            "org/name has no revision 'v9' on the hub: give a branch, tag or commit that exists",
        ),
        (
            "LocalEntryNotFoundError",
            (
                "no directory org/name, and the hub cannot be reached nor does its local cache "
                "hold it at revision v9"
            ),
        ),
        ("HfHubHTTPError", "org/name could not be downloaded"),
        ("HFValidationError", "org/name could not be downloaded"),
        (OSError, "org/name could not be downloaded (broken): try again"),
    ],
)
def test_each_refusal_of_the_hub_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | type[OSError], message: str
) -> None:
    error_type: type[Exception] = getattr(hub_errors, kind) if isinstance(kind, str) else kind

    def download(*arguments: Any, **options: Any) -> str:
        # their constructors differ between versions
        error = error_type.__new__(error_type, "broken")
        error.args = ("broken",)
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(CheckpointNotFoundError, match=re.escape(message)) as caught:
        export("org/name", tmp_path / "bundle", revision="v9")
    assert type(caught.value.__cause__) is error_type
    assert not (tmp_path / "bundle").exists()


def test_the_manifest_of_the_command_line_is_that_of_the_bundle(
    hub_cache: Path, run: Run, tmp_path: Path
) -> None:
    done = run(
        "org/name", tmp_path / "bundle", "--json", HF_HUB_CACHE=str(hub_cache), HF_HUB_OFFLINE="1"
    )
    assert json.loads(done.stdout)["manifest"] == json.loads(
        Manifest.read(tmp_path / "bundle").to_json()
    )
