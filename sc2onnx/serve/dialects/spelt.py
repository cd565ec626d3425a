"""Prompts for the middle that are spelt out in special tokens, as Continue and llm-ls send them.

They come prefix first, so that each key would have the suffix computed anew. Taken apart,
they are asked for as other requests for the middle are: suffix first, fitted to the
context, healed at the cursor.
"""

from __future__ import annotations

from typing import Final

from sc2onnx.runtime.text.codec import (
    END_OF_TEXT,
    FILE_SEP,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    REPO_NAME,
)
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.settings import Settings

_SPECIAL: Final = (FILE_SEP, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, REPO_NAME, END_OF_TEXT)

_MOST_FILES: Final = 256
"""Other files of a prompt that is taken apart."""


def taken_apart(prompt: str, settings: Settings) -> str | Surroundings:
    """The code that a prompt spells out, unless the server leaves prompts as they are. Any other
    prompt is given back.
    """
    return parts(prompt) if settings.rewrite_fim else prompt


def parts(prompt: str) -> str | Surroundings:
    r"""The code that a prompt spells out, ``[<repo_name>repo][<file_sep>path\ncode ...]`` and then
    ``[<file_sep>]<fim_prefix>prefix<fim_suffix>suffix<fim_middle>``. Any other prompt is given
    back.
    """
    if not prompt.endswith(FIM_MIDDLE) or prompt.count(FILE_SEP) > _MOST_FILES:
        return prompt
    head, _, rest = prompt.removesuffix(FIM_MIDDLE).partition(FIM_PREFIX)
    prefix, middle, suffix = rest.partition(FIM_SUFFIX)
    first, *others = head.removesuffix(FILE_SEP).split(FILE_SEP)
    repo = first.removeprefix(REPO_NAME)
    files = dict(_file(each) for each in others)
    whole = (
        middle and (repo != first or not first) and len(files) == len(others) and "" not in files
    )
    texts = (repo, prefix, suffix, *others)
    if not whole or any(each in text for each in _SPECIAL for text in texts):
        return prompt
    return Surroundings(prefix, suffix, repo=repo or None, files=files)


def _file(text: str) -> tuple[str, str]:
    path, _, code = text.partition("\n")
    return path, code
