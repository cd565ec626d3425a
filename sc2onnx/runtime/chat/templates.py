"""The chat templates of a bundle, and the tokens that they call by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sc2onnx.bundle import records
from sc2onnx.bundle.chat_templates import DEFAULT, KEY, templates_of
from sc2onnx.errors import BundleError, ChatTemplateError, RequestError
from sc2onnx.messages import printable
from sc2onnx.runtime.arguments import shown

_FILE: Final = "chat_template.jinja"
_SETTINGS: Final = "tokenizer_config.json"
_SPECIAL: Final = "special_tokens_map.json"

_ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Tokens that transformers gives to templates, as ``bos_token`` and so on."""

_GPT2: Final = ("GPT2Tokenizer", "GPT2TokenizerFast")
"""Classes of tokenizers that have these three without being told."""

NONE: Final = (
    "the bundle has no chat template, so its model does not chat, as a base model: use generate "
    "or infill, or export an instruct checkpoint with its chat_template.jinja"
)


Contents = Callable[[str], bytes | None]
"""What is in a bundle's file of a name, None where there is none."""


@dataclass(frozen=True, slots=True)
class ChatTemplates:
    """Templates ``by_name``, and the texts of the named ``tokens``, such as ``bos_token``."""

    by_name: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, contents: Contents) -> ChatTemplates:
        """Those in a bundle's files.

        A template in a file of its own wins over those of the settings, as in transformers. Nothing
        is rendered. Raises :class:`ChatTemplateError` for files that cannot be read.
        """
        settings = _settings(contents, _SETTINGS)
        tokens = _tokens(settings, _settings(contents, _SPECIAL))
        with _reading(_FILE):
            data = contents(_FILE)
            if data is not None:
                return cls({DEFAULT: data.decode()}, tokens)
        return cls(templates_of(settings.get(KEY)), tokens)

    def template(self, name: str | None) -> str:
        """The template of a name, or the default one.

        Raises :class:`ChatTemplateError` where there is none, and :class:`RequestError` for a name
        that none has.
        """
        if not self.by_name:
            raise ChatTemplateError(NONE)
        if (name or DEFAULT) in self.by_name:
            return self.by_name[name or DEFAULT]
        there = ", ".join(map(printable, sorted(self.by_name)))
        if name is None:
            raise RequestError(
                f"the bundle has no default chat template, expected template= one of: {there}"
            )
        raise RequestError(f"template is {shown(name)}, expected one of: {there}")


def _tokens(settings: Mapping[str, Any], special: Mapping[str, Any]) -> dict[str, str]:
    """The named tokens, of whose two files transformers takes the second one only where the first
    lists no added tokens.
    """
    given = settings if "added_tokens_decoder" in settings else {**settings, **special}
    if settings.get("tokenizer_class") in _GPT2:
        usual = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
        given = {**usual, **given}
    found = dict[str, str]()
    for role in _ROLES:
        value = given.get(f"{role}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[f"{role}_token"] = text
    return found


def _settings(contents: Contents, name: str) -> dict[str, Any]:
    with _reading(name):
        data = contents(name)
        return {} if data is None else records.parse(data)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what is wrong with a file into a :class:`ChatTemplateError`."""
    try:
        yield
    except BundleError:
        raise
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ChatTemplateError(
            f"{name} of the bundle cannot be read ({said}): export it again"
        ) from error
