"""A bundle of a model that chats: the mini checkpoint's, with a chat template."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

CHATML: Final = (
    "{% for message in messages %}{% if message['role'] == 'nobody' %}"
    "{{ raise_exception('Nobody may not speak.') }}{% endif %}"
    "{{ '<repo_name>' + message['role'] + '\\n' + message['content'] + '<fim_pad>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<repo_name>assistant\\n' }}{% endif %}"
)
"""ChatML in tokens that the mini checkpoint has."""


def instruct(bundle: Path, to: Path, template: str = CHATML) -> Path:
    """A copy of a bundle that has this template, in a new directory."""
    shutil.copytree(bundle, to)
    (to / "chat_template.jinja").write_text(template)
    manifest = json.loads((to / "sc2onnx.json").read_text())
    data = template.encode()
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"]["chat_template.jinja"] = entry
    (to / "sc2onnx.json").write_text(json.dumps(manifest))
    return to


def said(*contents: str, system: str | None = None) -> list[dict[str, Any]]:
    """Messages of a user and an assistant in turns."""
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return first + [
        {"role": roles[number % 2], "content": content} for number, content in enumerate(contents)
    ]
