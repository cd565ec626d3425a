"""What is exported: a checkpoint that was opened and checked, and the text that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.export import hub, weights
from sc2onnx.export.adapter import adapters_below
from sc2onnx.export.checkpoint import Checkpoint
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
        opened = Checkpoint.open(source.directory)
        declared = Starcoder2Config.from_dict(opened.config, order.allow_settings)
        allowed = check_allowed(opened.config, order.allow_settings)
        check_stages(order.stages, declared, target)
        opened, config = settle(opened, declared)
        weights.check_complete(opened, config)
        untied = [UNTIED] if declared.tie_word_embeddings and not config.tie_word_embeddings else []
        generation = opened.generation_config
        text = text_files(source.directory, source.name, config, generation, target)
        doubts = *untied, *adapters_below(source.directory), *text.doubts
        return cls(source, opened, config, allowed, text, opened.license(), doubts)

    @property
    def facts(self) -> ModelFacts:
        """What the manifest says of the model."""
        parameters = weights.total_parameters(weights.checkpoint_shapes(self.config))
        return self.config.facts(parameters, self.text.eos_token_ids)
