"""The tokenizer of a model with adapters: the checkpoint's, or that which an adapter brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sc2onnx.errors import RequestError
from sc2onnx.export.shown import name_of
from sc2onnx.export.small_files import SmallFiles
from sc2onnx.export.text_files import origin, tokenizer_data
from sc2onnx.export.tokenizer import open_tokenizer


def tokenizer_directory(adapters: Sequence[Path]) -> Path | None:
    """The directory of the first adapter that brings a tokenizer; None if none does.

    Raises :class:`RequestError` if another one brings other tokens, and
    :class:`~sc2onnx.errors.CorruptCheckpointError`.
    """
    brought = [path for path in adapters if SmallFiles.read(path).has_tokenizer]
    tokens = [_tokens(path) for path in brought] if len(brought) > 1 else []
    for path, found in zip(brought, tokens, strict=False):
        if found != tokens[0]:
            raise RequestError(
                f"adapters {name_of(brought[0].name)} and {name_of(path.name)} bring tokenizers "
                "with other tokens: merge one of them, or remove the tokenizer's files from the "
                "one whose tokens are not meant"
            )
    return brought[0] if brought else None


def text_of(checkpoint: Path, adapters: Sequence[Path], tokenizer: Path | None) -> SmallFiles:
    """The small files of a checkpoint, with the text that adapters bring.

    ``tokenizer``: the directory whose tokenizer counts. Chat templates of others count where it has
    none.
    """
    files = SmallFiles.read(checkpoint)
    for path in adapters:
        brought = SmallFiles.read(path)
        if path == tokenizer or not brought.has_tokenizer:
            files = files.with_text_of(brought)
    return files


def _tokens(directory: Path) -> dict[str, int]:
    files = SmallFiles.read(directory)
    data = tokenizer_data(files)
    return {} if data is None else open_tokenizer(data, origin(files)).get_vocab()
