"""Chats of the mini checkpoint's tokenizer, with tokens and templates that are added."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.runtime.adapter import Adapter
from sc2onnx.runtime.chat.chats import Chats
from sc2onnx.runtime.chat.process import Bounds, Renderer
from sc2onnx.runtime.request import Requests
from sc2onnx.runtime.text.codec import Codec

ADDED = ("<|im_start|>", "<|im_end|>")

Opened = Callable[..., Chats]


def directory(source: Path, to: Path, templates: Mapping[str, str]) -> Path:
    """The tokenizer's files, two tokens added to it, and templates: one in a file, or several."""
    raw = json.loads((source / "tokenizer.json").read_text())
    settings = json.loads((source / "tokenizer_config.json").read_text())
    number = 1 + max(*raw["model"]["vocab"].values(), *(each["id"] for each in raw["added_tokens"]))
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for text in ADDED:
        raw["added_tokens"].append({"id": number, "content": text, **usual, "special": True})
        number += 1
    to.mkdir()
    (to / "tokenizer.json").write_text(json.dumps(raw))
    if set(templates) == {"default"}:
        (to / "chat_template.jinja").write_text(templates["default"])
    else:
        listed = [{"name": name, "template": text} for name, text in templates.items()]
        settings["chat_template"] = listed
    (to / "tokenizer_config.json").write_text(json.dumps(settings))
    return to


@pytest.fixture
def opened(bundle: Path, tmp_path: Path) -> Iterator[Opened]:
    """What makes chats of templates; ``bounds`` are those of the renderer."""
    facts = Manifest.read(bundle).model
    made = list[Chats]()

    def make(bounds: Bounds | None = None, **templates: str) -> Chats:
        folder = directory(bundle, tmp_path / f"{len(made)}", templates)
        codec = Codec(folder / "tokenizer.json")
        requests = Requests(facts, lambda: codec, None, adapter=_none)
        made.append(Chats(reader(folder), lambda: codec, requests, Renderer(bounds)))
        return made[-1]

    yield make
    for chats in made:
        chats.renderer.close()


def _none(name: str) -> Adapter:
    raise AssertionError(f"an adapter {name} is asked for")


def reader(folder: Path) -> Callable[[str], bytes | None]:
    def contents(name: str) -> bytes | None:
        path = folder / name
        return path.read_bytes() if path.is_file() else None

    return contents
