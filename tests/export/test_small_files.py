"""Which small files of a checkpoint come into a bundle, and where chat templates go."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sc2onnx.errors import CorruptCheckpointError
from sc2onnx.export import export
from sc2onnx.export.hub import resolve
from sc2onnx.export.small_files import PATTERNS, SmallFiles

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def mini(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the mini checkpoint, to be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "mini"))


def test_the_files_that_a_bundle_takes_over(make_checkpoint: Callable[..., Path]) -> None:
    directory = make_checkpoint()
    for name in ("generation_config.json", "special_tokens_map.json"):
        (directory / name).write_text("{}")
    for name in ("LICENSE", "LICENSE.txt", "LICENSE of mine", "merges.txt", "notes.md"):
        (directory / name).write_text("text")
    (directory / "LICENSES").mkdir()
    files = SmallFiles.read(directory)
    assert set(files.copied()) == {
        "tokenizer.json",
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "LICENSE",
        "LICENSE.txt",
    }
    (left,) = files.left
    assert "LICENSE of mine is left behind" in left


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "chat_template.jinja", "vocab.json"])
@pytest.mark.parametrize("kind", ["out", "nowhere", "circle", "pipe", "directory"])
def test_what_is_no_file_of_the_checkpoint_is_left_behind(mini: Path, name: str, kind: str) -> None:
    (mini / name).unlink(missing_ok=True)
    (mini.parent / "secret").write_text("secret")
    if kind == "pipe":
        os.mkfifo(mini / name)
    elif kind == "directory":
        (mini / name).mkdir()
    else:
        target = {"out": "../secret", "nowhere": "absent", "circle": name}[kind]
        (mini / name).symlink_to(target)
    files = SmallFiles.read(mini)
    assert name not in files.contents
    assert [f"{name} is left behind" in left for left in files.left] == (
        [] if (name, kind) == ("LICENSE", "directory") else [True]
    )


def test_a_link_that_leads_out_is_no_file_of_a_bundle(mini: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (mini / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.warns(UserWarning, match="LICENSE is left behind: it is a link that leads out"):
        manifest = export(mini, tmp_path / "bundle")
    assert "LICENSE" not in manifest.files
    assert not (tmp_path / "bundle" / "LICENSE").exists()


@pytest.mark.parametrize(
    ("name", "most"),
    [("LICENSE", 1 << 20), ("chat_template.jinja", 1 << 20), ("tokenizer.json", 32 << 20)],
)
def test_files_are_bounded_before_they_are_read(mini: Path, name: str, most: int) -> None:
    with (mini / name).open("wb") as file:
        file.truncate(10 << 30)  # no bytes on the disk
    (left,) = SmallFiles.read(mini).left
    assert f"{name} is left behind: it has 10,737,418,240 bytes, expected at most {most:,}" in left


def test_many_licences_are_bounded(mini: Path) -> None:
    for number in range(300):
        (mini / f"LICENSE.{number}").touch()
    assert len(SmallFiles.read(mini).contents) < 120


def test_the_cache_of_the_hub_is_read_through_its_links(checkpoint: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0a"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(checkpoint, blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    (snapshot / "additional_chat_templates").mkdir()
    (blobs / "rag").write_text(TEMPLATE)
    (snapshot / "additional_chat_templates" / "rag.jinja").symlink_to("../../../blobs/rag")
    files = SmallFiles.read(resolve(snapshot).directory)
    assert files.left == ()
    assert {"tokenizer.json", "additional_chat_templates/rag.jinja"} <= files.contents.keys()


def test_what_is_downloaded_is_what_is_read() -> None:
    assert {"vocab.json", "merges.txt", "chat_template.jinja", "LICENSE*"} <= set(PATTERNS)
    assert "additional_chat_templates/*.jinja" in PATTERNS


def add_templates(directory: Path, **templates: str) -> None:
    (directory / "additional_chat_templates").mkdir()
    for name, text in templates.items():
        (directory / "additional_chat_templates" / f"{name}.jinja").write_text(text)


@pytest.mark.torch
@pytest.mark.parametrize("target", ["cpu", "cuda", "optimum", "genai"])
@pytest.mark.parametrize("how", ["file", "settings", "processor"])
def test_transformers_finds_the_chat_template(
    mini: Path, tmp_path: Path, target: str, how: str
) -> None:
    from transformers import AutoTokenizer

    if how == "file":
        (mini / "chat_template.jinja").write_text(TEMPLATE)
    elif how == "processor":
        (mini / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    else:
        settings = json.loads((mini / "tokenizer_config.json").read_text())
        settings["chat_template"] = TEMPLATE
        (mini / "tokenizer_config.json").write_text(json.dumps(settings))
    export(
        mini, tmp_path / "bundle", target=target, precision="fp16" if target == "cuda" else "fp32"
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "bundle").chat_template == TEMPLATE


@pytest.mark.torch
@pytest.mark.parametrize("target", ["cpu", "optimum"])
@pytest.mark.parametrize("default", [True, False])
def test_transformers_finds_further_templates(
    mini: Path, tmp_path: Path, target: str, default: bool
) -> None:
    from transformers import AutoTokenizer

    add_templates(mini, rag="rag {{ messages }}", tool_use="tools")
    if default:
        (mini / "chat_template.jinja").write_text(TEMPLATE)
    manifest = export(mini, tmp_path / "bundle", target=target)
    found = AutoTokenizer.from_pretrained(tmp_path / "bundle").chat_template
    assert found == AutoTokenizer.from_pretrained(mini).chat_template
    assert set(found) == {"rag", "tool_use"} | ({"default"} if default else set())
    assert "chat_template.jinja" not in manifest.files  # it would hide the others


@pytest.mark.parametrize("written", ["files", "settings"])
def test_genai_gets_the_one_template_that_it_knows(
    mini: Path, tmp_path: Path, written: str
) -> None:
    """It opens no tokenizer whose settings have a list."""
    if written == "files":
        add_templates(mini, rag="rag")
        (mini / "chat_template.jinja").write_text(TEMPLATE)
    else:
        settings = json.loads((mini / "tokenizer_config.json").read_text())
        settings["chat_template"] = [
            {"name": "default", "template": TEMPLATE},
            {"name": "rag", "template": "rag"},
        ]
        (mini / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="one chat template, so rag is left out"):
        export(mini, tmp_path / "bundle", target="genai")
    assert (tmp_path / "bundle" / "chat_template.jinja").read_text() == TEMPLATE
    settings = json.loads((tmp_path / "bundle" / "tokenizer_config.json").read_text())
    assert "chat_template" not in settings


def test_a_list_in_the_settings_comes_along_as_it_is(mini: Path, tmp_path: Path) -> None:
    settings = json.loads((mini / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "rag", "template": "x", "more": 1}]
    (mini / "tokenizer_config.json").write_text(json.dumps(settings))
    export(mini, tmp_path / "bundle")
    copied = (tmp_path / "bundle" / "tokenizer_config.json").read_bytes()
    assert copied == (mini / "tokenizer_config.json").read_bytes()


def test_a_template_that_is_no_text_is_refused(mini: Path, tmp_path: Path) -> None:
    (mini / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CorruptCheckpointError, match=r"chat_template\.jinja is not text in UTF-8"):
        export(mini, tmp_path / "bundle")


def test_a_template_may_be_named_in_bytes_that_are_no_text(mini: Path, tmp_path: Path) -> None:
    (mini / "additional_chat_templates").mkdir()
    (mini / "additional_chat_templates" / os.fsdecode(b"\xff\x1b.jinja")).write_text(TEMPLATE)
    export(mini, tmp_path / "bundle")
    (found,) = json.loads((tmp_path / "bundle" / "tokenizer_config.json").read_text())[
        "chat_template"
    ]
    assert found == {"name": r"\udcff\x1b", "template": TEMPLATE}
