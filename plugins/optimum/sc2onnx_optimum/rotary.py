"""transformers 4 does not read the base of the rotary embedding where transformers 5 writes it, and
takes 10,000 instead: another model.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from transformers import Starcoder2Config


def reads_rope_parameters() -> None:
    """Let its configuration take ``rope_parameters.rope_theta`` where there is no ``rope_theta``.
    Once; transformers 5 does it itself.
    """
    made = Starcoder2Config.__init__
    if (
        getattr(made, "reads_rope_parameters", False)
        or "rope_theta" not in Starcoder2Config().to_dict()
    ):
        return

    @wraps(made)
    def init(self: Starcoder2Config, *arguments: Any, **settings: Any) -> None:
        parameters = settings.get("rope_parameters") or {}
        if "rope_theta" in parameters:
            settings.setdefault("rope_theta", parameters["rope_theta"])
        made(self, *arguments, **settings)

    init.reads_rope_parameters = True  # type: ignore[attr-defined]
    Starcoder2Config.__init__ = init
