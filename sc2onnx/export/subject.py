"""What is exported: a checkpoint that was opened and checked, and the text that belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.export import hub, weights
from sc2onnx.export.adapters.merging import APART, merge
from sc2onnx.export.adapters.noticed import adapters_below
from sc2onnx.export.adapters.opened import Adapter
from sc2onnx.export.adapters.text import text_of
from sc2onnx.export.checkpoint import CONFIG_FILE, Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.order import Order
from sc2onnx.export.settings import check_allowed
from sc2onnx.export.stages import check_stages
from sc2onnx.export.text_files import TextFiles, text_files
from sc2onnx.export.tying import UNTIED, settle


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint whose every tensor is there, in its shape.

    ``allowed_settings``: those that were vouched for and that it has. ``doubts``: a sentence for
    each thing that looks wrong and can be exported.
    """

    source: hub.Source
    opened: Checkpoint
    config: Starcoder2Config
    allowed_settings: tuple[str, ...]
    text: TextFiles
    license: str | None
    doubts: tuple[str, ...]

    @classmethod
    def read(cls, order: Order) -> Subject:
        """Find the checkpoint of an order and read all of it but the weights.

        Raises :class:`~sc2onnx.errors.CheckpointError` and :class:`~sc2onnx.errors.RequestError`.
        """
        source, target = hub.resolve(order.checkpoint, order.revision), order.variant.made_for
        beside = any(Path(path) == source.directory for path in order.adapters)
        opened = Checkpoint.open(source.directory, adapters=beside)
        declared = Starcoder2Config.from_dict(opened.config, order.allow_settings)
        allowed = check_allowed(opened.config, order.allow_settings)
        check_stages(order.stages, declared, target)
        opened, settled = settle(opened, declared)
        weights.check_complete(opened, settled)
        adapters = [Adapter.open(*wanted, settled) for wanted in order.adapters.items()]
        opened, config = merge(opened, settled, adapters)
        weights.check_complete(opened, config)
        brought = [adapter.directory for adapter in adapters]
        files = text_of(source.directory, brought, opened.tokenizer_directory)
        if adapters:
            files = files.with_json(CONFIG_FILE, opened.config)
        text = text_files(files, source.name, config, opened.generation_config, target)
        below = adapters_below(source.directory, brought)
        doubts = *_parted(declared, settled, config), *below, *text.doubts
        return cls(source, opened, config, allowed, text, opened.license(), doubts)

    @property
    def facts(self) -> ModelFacts:
        """What the manifest says of the model."""
        parameters = weights.total_parameters(weights.checkpoint_shapes(self.config))
        return self.config.facts(parameters, self.text.eos_token_ids)


def _parted(
    declared: Starcoder2Config, settled: Starcoder2Config, config: Starcoder2Config
) -> Iterator[str]:
    """The sentence about a pair that is not tied although ``config.json`` says so, if it is."""
    if declared.tie_word_embeddings and not settled.tie_word_embeddings:
        yield UNTIED
    elif settled.tie_word_embeddings and not config.tie_word_embeddings:
        yield APART
