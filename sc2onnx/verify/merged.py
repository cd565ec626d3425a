"""Adapters that were merged at export, merged into the torch model by peft."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Starcoder2ForCausalLM
from transformers.utils.hub import cached_file

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.merged import MergedAdapter
from sc2onnx.bundle.wrappers import RENAMED
from sc2onnx.errors import CheckpointError, MissingDependencyError
from sc2onnx.hints import install

_FILES: Final = {"sha256": "adapter_model.safetensors", "settings_sha256": "adapter_config.json"}
"""Digest of a manifest -> the file that it is of."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Adapters by path, what a bundle's manifest says of each, and the facts of what they made."""

    paths: tuple[str, ...]
    records: tuple[MergedAdapter, ...]
    facts: ModelFacts

    @classmethod
    def of(cls, paths: Sequence[str | Path], manifest: Manifest, checkpoint: str | Path) -> Merged:
        """Adapters that are given for a bundle that was exported from ``checkpoint``.

        None are needed for a checkpoint that they were merged into already, which has another name.
        Raises :class:`CheckpointError` where they are not those of the bundle.
        """
        records, origin = manifest.provenance.adapters, manifest.provenance
        given = tuple(map(str, paths))
        same = origin.source in (str(checkpoint), Path(checkpoint).resolve().name)
        if len(given) != len(records) and (given or same):
            names = ", ".join(record.source for record in records) or "none"
            raise CheckpointError(
                f"{len(given)} adapters are given, the bundle has {names} merged: give "
                "--adapter for each, in order"
            )
        if not given:
            records = ()
        for path, record in zip(given, records, strict=True):
            _check_same(path, record)
        return cls(given, records, manifest.model)

    @classmethod
    def beside(cls, paths: Sequence[str | Path], facts: ModelFacts) -> Merged:
        """Adapters for a base that a bundle of these facts runs one of beside its weights."""
        return cls(tuple(map(str, paths)), (), facts)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.paths)

    @property
    def description(self) -> str:
        """What merged them, for the record of a verification."""
        import peft

        names = ", ".join(map(str, self.records or self.paths))
        return f"{names} merged by peft {peft.__version__}"

    def into(self, model: Starcoder2ForCausalLM) -> Starcoder2ForCausalLM:
        """The model with the adapters merged.

        It gets the rows for new tokens that the adapters bring. Raises :class:`CheckpointError` and
        :class:`MissingDependencyError`.
        """
        try:
            from peft import PeftModel
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"comparing with an adapter needs the package {error.name}: {install('verify')}"
            ) from error
        try:
            with warnings.catch_warnings(action="ignore"):
                self._prepare(model)
                merged = self._adapted(model, PeftModel).merge_and_unload()
                self._tie(merged)
        except Exception as error:  # peft, safetensors and huggingface_hub each have their own
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"peft could not merge {', '.join(self.paths)} ({reason}): give the adapters and "
                "the base that the bundle was made from"
            ) from error
        made: Starcoder2ForCausalLM = merged.eval()
        return made

    def _adapted(self, model: Starcoder2ForCausalLM, peft_model: Any) -> Any:
        """The model with all adapters at work, none of them merged."""
        adapted: Any = None
        for number, path in enumerate(self.paths):
            how = {"adapter_name": str(number), "key_mapping": dict(RENAMED)}
            if adapted is None:
                adapted = peft_model.from_pretrained(model, path, **how)
            else:
                adapted.load_adapter(path, **how)
        adapted.base_model.set_adapter([str(number) for number in range(len(self.paths))])
        self._weigh(adapted)
        _part(adapted.base_model.model)
        return adapted

    def _prepare(self, model: Starcoder2ForCausalLM) -> None:
        if model.config.vocab_size != self.facts.vocab_size:
            model.resize_token_embeddings(self.facts.vocab_size, mean_resizing=False)
        if model.config.tie_word_embeddings and not self.facts.tied_embeddings:
            weight = model.lm_head.weight.detach().clone()
            model.lm_head.weight = torch.nn.Parameter(weight)
            model.config.tie_word_embeddings = False

    def _tie(self, model: Starcoder2ForCausalLM) -> None:
        """Make the head the embedding again where both are equal, and the bundle has one."""
        embedding = model.model.embed_tokens.weight
        if self.facts.tied_embeddings and torch.equal(model.lm_head.weight, embedding):
            model.lm_head.weight = embedding

    def _weigh(self, adapted: Any) -> None:
        """Multiply each adapter's scale by its weight."""
        for module in adapted.modules():
            for number, record in enumerate(self.records):
                if record.weight != 1 and hasattr(module, "set_scale"):
                    module.set_scale(str(number), record.weight)


def _part(model: Any) -> None:
    """Give the head numbers of its own: peft adds to both of a pair what it merges into one."""
    embedding, head = _innermost(model.model.embed_tokens), _innermost(model.lm_head)
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone())


def _innermost(module: Any) -> Any:
    """The module that peft has wrapped."""
    while True:
        held = getattr(module, "token_adapter", module)
        inner = getattr(held, "base_layer", None)
        if inner is None:
            return module
        module = inner


def _check_same(path: str, record: MergedAdapter) -> None:
    """Raise :class:`CheckpointError` unless the files at a path are those that were merged."""
    for field, name in _FILES.items():
        try:
            found = cached_file(path, name, revision=record.revision)
            data = b"" if found is None else Path(found).read_bytes()
        except Exception as error:  # huggingface_hub and transformers have their own
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"{name} of {path} could not be had ({reason}): give the adapter's directory"
            ) from error
        if hashlib.sha256(data).hexdigest() != getattr(record, field):
            raise CheckpointError(
                f"{name} of {path} is not that of {record.source}, which the bundle has merged: "
                "give the adapters that the bundle was made from, in order"
            )
