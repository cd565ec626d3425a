"""What a bundle has of its checkpoint's text: files, end-of-text, and what is doubtful of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer

from sc2onnx.bundle.chat_templates import DEFAULT, KEY, templates_of
from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.bundle.targets import Target
from sc2onnx.export import end_of_text
from sc2onnx.export.chat_templates import chat_templates, listed
from sc2onnx.export.config import Starcoder2Config, token_ids
from sc2onnx.export.shown import name_of
from sc2onnx.export.small_files import (
    CHAT_TEMPLATE_FILE,
    GENERATION_FILE,
    MERGES_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    VOCAB_FILE,
    SmallFiles,
)
from sc2onnx.export.tokenizer import (
    added_doubts,
    kind_doubts,
    open_tokenizer,
    size_doubts,
    token_text,
)
from sc2onnx.export.tokenizer_build import ORIGIN, build_tokenizer

_CLASS: Final = "PreTrainedTokenizerFast"
"""The class of transformers that takes tokenizer.json as it is."""

_REBUILT: Final = ("GPT2Tokenizer", "GPT2TokenizerFast")
"""Classes that, in transformers 5, take vocabulary and merges of tokenizer.json only.

They lose the split of digits, and so give StarCoder2 other tokens where numbers follow spaces.
"""


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Files for a bundle by name, the ids that end a text, and a sentence for each doubt."""

    files: Mapping[str, bytes]
    eos_token_ids: tuple[int, ...]
    doubts: tuple[str, ...]


def text_files(
    small: SmallFiles,
    name: str,
    config: Starcoder2Config,
    generation_config: Mapping[str, Any],
    target: Target,
) -> TextFiles:
    """Open and check what a checkpoint has beside its weights, which ``small`` has read.

    ``name``: what messages call the checkpoint. Raises
    :class:`~sc2onnx.errors.CorruptCheckpointError` for files that are there and cannot be used,
    :class:`~sc2onnx.errors.UnsupportedModelError` for an end-of-text that is none.
    """
    copied, doubts = small.copied(), list(small.left)
    data = tokenizer_data(small)
    tokenizer = None if data is None else open_tokenizer(data, origin(small))
    eos, disagreements = _ends(small, tokenizer, config, generation_config)
    if data is None or tokenizer is None:
        doubts.append(_missing(small, name))
    else:
        copied[TOKENIZER_FILE] = data
        doubts += _tokenizer_doubts(small, tokenizer, data, config, target)
    doubts += disagreements
    if not eos:
        doubts.append(_endless(name))
    settings = _settings(small, tokenizer, config, eos, target)
    templates = chat_templates(small, settings)
    doubts += _place(copied, settings, templates, target)
    if settings != small.json(TOKENIZER_CONFIG_FILE):
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        copied[TOKENIZER_CONFIG_FILE] = text.encode()
    return TextFiles(copied, eos, tuple(doubts))


def _ends(
    files: SmallFiles,
    tokenizer: Tokenizer | None,
    config: Starcoder2Config,
    generation_config: Mapping[str, Any],
) -> tuple[tuple[int, ...], list[str]]:
    """The ids that end a text by any file, and a sentence for each disagreement."""
    ends: dict[str, tuple[int, ...]] = {
        GENERATION_FILE: token_ids(generation_config.get("eos_token_id")),
        "config.json": config.eos_token_ids,
    }
    named = end_of_text.named_ends(files)
    files.json(GENERATION_FILE)
    if tokenizer is not None:
        ends |= end_of_text.tokenizer_ends(tokenizer, named)
    eos, disagreements = end_of_text.united(ends, config.vocab_size)
    return eos, list(disagreements)


def _endless(name: str) -> str:
    """The sentence about a checkpoint whose texts do not end by themselves."""
    return (
        f"no file of {name} names the end of a text (eos_token_id, eos_token), so no text ends "
        "before its limit: name it in config.json if there is one"
    )


def _tokenizer_doubts(
    files: SmallFiles,
    tokenizer: Tokenizer,
    data: bytes,
    config: Starcoder2Config,
    target: Target,
) -> Iterator[str]:
    """A sentence for each way in which a tokenizer does not fit model, files or runtime."""
    if target.own:
        yield from kind_doubts(tokenizer, data)
    yield from size_doubts(tokenizer, config.vocab_size)
    yield from added_doubts(tokenizer, files)
    yield from end_of_text.absent_doubts(tokenizer, end_of_text.named_ends(files))


def tokenizer_data(files: SmallFiles) -> bytes | None:
    """``tokenizer.json`` of a checkpoint, or as vocabulary and merges make it; None without any.

    Raises :class:`~sc2onnx.errors.CorruptCheckpointError` for files that do not belong together.
    """
    if TOKENIZER_FILE in files.contents:
        return files.contents[TOKENIZER_FILE]
    if VOCAB_FILE in files.contents and MERGES_FILE in files.contents:
        return build_tokenizer(files)
    return None


def origin(files: SmallFiles) -> str:
    """The file or files of the checkpoint that its tokenizer comes from, for messages."""
    return TOKENIZER_FILE if TOKENIZER_FILE in files.contents else ORIGIN


def _missing(files: SmallFiles, name: str) -> str:
    """The sentence about a checkpoint without a tokenizer, and how to get one."""
    lacking = {VOCAB_FILE, MERGES_FILE} - files.contents.keys()
    half = f" ({VOCAB_FILE} would do together with {MERGES_FILE})" if len(lacking) == 1 else ""
    return (
        f"{name} has no {TOKENIZER_FILE}{half}: the bundle will take and give token ids, not text; "
        "copy it from the model that this one was tuned from, or, where transformers opens the "
        "tokenizer, AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), and export again"
    )


def _settings(
    files: SmallFiles,
    tokenizer: Tokenizer | None,
    config: Starcoder2Config,
    eos: tuple[int, ...],
    target: Target,
) -> dict[str, Any]:
    """tokenizer_config.json as the target needs it."""
    settings = files.json(TOKENIZER_CONFIG_FILE)
    if target.own or tokenizer is None:
        return settings
    if TOKENIZER_CONFIG_FILE not in files.contents:
        return dict(_minimal(files, tokenizer, config, eos))
    rebuilt = settings.get("tokenizer_class", _REBUILT[0]) in _REBUILT
    if rebuilt and type(tokenizer.pre_tokenizer).__name__ != "ByteLevel":
        inputs = {"model_input_names": ["input_ids", "attention_mask"]}
        settings = inputs | settings | {"tokenizer_class": _CLASS}
    return settings


def _minimal(
    files: SmallFiles, tokenizer: Tokenizer, config: Starcoder2Config, eos: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    """Entries of tokenizer_config.json for a checkpoint that has none."""
    yield "tokenizer_class", _CLASS
    yield "model_input_names", ["input_ids", "attention_mask"]
    yield "model_max_length", config.max_position_embeddings
    roles = ("bos_token", "eos_token", "unk_token", "pad_token")
    named = {role: token_text(files.json(SPECIAL_TOKENS_FILE).get(role)) for role in roles}
    if not named["eos_token"] and eos:
        named["eos_token"] = tokenizer.id_to_token(eos[0])
    yield from ((role, text) for role, text in named.items() if text)


def _place(
    copied: dict[str, bytes], settings: dict[str, Any], templates: Mapping[str, str], target: Target
) -> Iterator[str]:
    """Put the templates where the target's runtime reads them; yield what it cannot have."""
    written = settings.get(KEY)
    if not templates or (isinstance(written, str) and CHAT_TEMPLATE_FILE not in copied):
        return
    others = sorted(templates.keys() - {DEFAULT})
    if target.config_file:  # its runner knows one template
        settings.pop(KEY, None)
    elif others:
        copied.pop(CHAT_TEMPLATE_FILE, None)
        if templates != templates_of(written):
            settings[KEY] = listed(templates)
        return
    if DEFAULT in templates:
        copied[CHAT_TEMPLATE_FILE] = templates[DEFAULT].encode()
    if others:
        yield (
            "onnxruntime-genai knows one chat template, so "
            f"{', '.join(map(name_of, others))} is left out"
        )
