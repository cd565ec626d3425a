"""What a request asks for, whatever dialect it came in."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, get_args

from sc2onnx.runtime.chat.conversation import Conversation
from sc2onnx.runtime.choose.constraint import Kind
from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.runtime.text.fim import FimOrder
from sc2onnx.runtime.text.fitting import Surroundings

WARMS: Final = -10
"""Priority of requests that only leave a prompt computed: behind every keystroke."""

Tokens = tuple[int, ...]
"""A prompt that is tokenized already."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: what it goes on from, and how.

    ``prompts``: texts to continue, ids to continue, code to fill in, or one conversation, whose
    next message is asked for. ``samples``: of each.
    ``options``: see :class:`~sc2onnx.runtime.options.GenerationOptions`. ``model``: a name, empty
    for the only one. ``stream``: pieces as they come. ``warms``: it is not to be answered, only to
    leave its prompt computed. ``order``: of code to fill in, by default the one after which typing
    leaves the prompt's beginning as it was. ``replaces``: a newer request with the same key takes
    its place. ``prompt_seconds``: that the prompt for code to fill in may take, see
    :mod:`sc2onnx.serve.haste`; None: any. ``lora``: the number of one of the model's adapters, and
    what its part is multiplied by; None: the one that ``model`` names, if it names one.
    """

    prompts: tuple[str | Tokens | Surroundings | Conversation, ...]
    options: GenerationKeywords = field(default_factory=lambda: GenerationKeywords())
    samples: int = 1
    model: str = ""
    stream: bool = False
    warms: bool = False
    order: FimOrder = "spm"
    replaces: Hashable | None = None
    prompt_seconds: float | None = None
    lora: tuple[int, float] | None = None

    @property
    def constrained(self) -> bool:
        """Whether the text has to be something, which takes a while to compile."""
        return any(self.options.get(kind) is not None for kind in get_args(Kind))


Answer = Mapping[str, object]
"""JSON."""
