"""Chat templates: where transformers and onnxruntime-genai look for them, in files of a bundle.

A bundle has no folders. Templates of ``additional_chat_templates`` go into
``tokenizer_config.json``, as a list of names and templates; transformers reads either.
onnxruntime-genai 0.18 knows one template only, and opens no tokenizer beside a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from sc2onnx.bundle.chat_templates import DEFAULT, KEY, templates_of
from sc2onnx.errors import CorruptCheckpointError
from sc2onnx.export.small_files import (
    CHAT_TEMPLATE_FILE,
    CHAT_TEMPLATE_FOLDER,
    CHAT_TEMPLATE_JSON,
    SmallFiles,
)
from sc2onnx.messages import printable


def chat_templates(files: SmallFiles, settings: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name, as transformers finds them in a checkpoint.

    ``settings``: its tokenizer_config.json. Templates in files win over those in it, all of them.
    ``chat_template.json``, which processors read, serves where there is no other. Raises
    :class:`CorruptCheckpointError`.
    """
    found = _of_files(files) or templates_of(settings.get(KEY))
    return found or templates_of(files.json(CHAT_TEMPLATE_JSON).get(KEY))


def listed(templates: Mapping[str, str]) -> list[dict[str, str]]:
    """Templates as tokenizer_config.json writes several."""
    return [{"name": name, "template": text} for name, text in templates.items()]


def _of_files(files: SmallFiles) -> dict[str, str]:
    found = {}
    if CHAT_TEMPLATE_FILE in files.contents:
        found[DEFAULT] = _text(CHAT_TEMPLATE_FILE, files.contents[CHAT_TEMPLATE_FILE])
    for name, data in files.contents.items():
        if name.startswith(f"{CHAT_TEMPLATE_FOLDER}/"):
            found[printable(PurePosixPath(name).stem)] = _text(name, data)
    return found


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptCheckpointError(
            f"{name} is not text in UTF-8 ({error.reason} at byte {error.start}): download "
            "it again, or remove it"
        ) from error
