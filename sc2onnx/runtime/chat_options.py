"""What a chat may ask for, besides what every request may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sc2onnx.errors import RequestError
from sc2onnx.runtime.arguments import flag, optional_text, shown
from sc2onnx.runtime.options import GenerationKeywords, GenerationOptions


class ChatKeywords(GenerationKeywords, total=False):
    """The keywords of :class:`ChatOptions`, as type checkers see them."""

    template: str | None
    variables: Mapping[str, Any] | None
    continue_final_message: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions(GenerationOptions):
    """How messages become a prompt; the rest is as in
    :class:`~sc2onnx.runtime.options.GenerationOptions`, but for 1,024 tokens by default.

    ``template``: the name of one of the bundle's chat templates, by default ``"default"``.
    ``variables``: what the template finds besides the messages. ``continue_final_message``: the
    answer goes on from the end of the last message, which is the assistant's.

    ``special_tokens``: whether tokens such as ``<|im_end|>``, spelt out in a message, are such
    (``"parse"``, as in transformers' ``apply_chat_template``), or only characters (``"text"``, as
    with its ``sanitize_control_tokens``): nobody can then end a message from inside, and speak in
    another role. ``stop_tokens`` replaces what ends an answer by the template as well.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    max_new_tokens: int = 1024
    template: str | None = None
    variables: Mapping[str, Any] | None = None
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        GenerationOptions.__post_init__(self)  # super() is lost where a dataclass has slots
        optional_text("template", self.template)
        flag("continue_final_message", self.continue_final_message)
        if self.variables is not None and not isinstance(self.variables, Mapping):
            raise RequestError(f"variables is {shown(self.variables)}, expected a mapping or None")
        if self.heal:
            raise RequestError("heal is True, expected False: a chat does not go on inside a word")
