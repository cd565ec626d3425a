"""Chat templates by name, as settings of a tokenizer write them."""

from __future__ import annotations

from typing import Any, Final

DEFAULT: Final = "default"
KEY: Final = "chat_template"
"""In tokenizer_config.json and chat_template.json."""


def templates_of(value: Any) -> dict[str, str]:
    """Templates by name of a value of ``chat_template``: text, or a list or object of several."""
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list):
        pairs = [
            (item.get("name"), item.get("template")) for item in value if isinstance(item, dict)
        ]
    else:
        pairs = list(value.items()) if isinstance(value, dict) else []
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
