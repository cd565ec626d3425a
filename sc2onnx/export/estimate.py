"""What an export will take, known before any work: bytes of weights, memory, disk, hours.

An estimate needs the plan of the weights alone, so the configuration does for one: a checkpoint of
empty headers has the same plan as the checkpoint itself. Export asks for it too, before it begins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sc2onnx.bundle.contract import MANIFEST_FILE
from sc2onnx.bundle.facts import CacheLayout, ModelFacts
from sc2onnx.bundle.targets import OWN_TARGETS
from sc2onnx.errors import BundleError, RequestError
from sc2onnx.export import hub
from sc2onnx.export.adapters.noticed import ADAPTER_CONFIG
from sc2onnx.export.calibration import Calibration
from sc2onnx.export.checkpoint import CONFIG_FILE, Checkpoint, read_config
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.effort import calibration_peak, calibration_seconds, streaming_peak
from sc2onnx.export.graphs import kernel_version
from sc2onnx.export.plan import Plan
from sc2onnx.export.precision import PRECISIONS, Variant
from sc2onnx.export.quantize import sensitivity
from sc2onnx.export.quantize.metric import kept_bytes
from sc2onnx.export.shapes import SHAPES
from sc2onnx.export.stored import StoredTensor
from sc2onnx.export.weights import (
    checkpoint_shapes,
    graph_weights,
    total_bytes,
    total_parameters,
)
from sc2onnx.export.writer import place, space_needed

_STORED: Final = "BF16"
"""Type that a checkpoint is taken to have: the one that StarCoder2 is trained in, and the most
values in a chunk."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that exporting one variant takes, and how long its calibration does.

    ``weights`` is the manifest's ``weight_bytes``, or if not ``exact`` the most that it can be:
    which products get more bits is found out by the export. ``data_file``: bytes of the file that
    they lie in. ``packed``: what they take at most, packed, in the cache directory of whoever runs
    them on sc2onnx-kernels, else 0. ``memory``: peak resident memory, Python included.
    ``calibration_cache``: what calibration keeps on disk beside the bundle, else 0.
    ``calibration_seconds``: about how long it takes on this machine, else 0. ``cache``: layout of
    the key-value cache.
    """

    precision: str
    target: str
    weights: int
    exact: bool
    data_file: int
    packed: int
    memory: int
    calibration_cache: int
    calibration_seconds: float
    cache: CacheLayout

    @property
    def disk(self) -> int:
        """Bytes that must be free for the bundle."""
        return space_needed(self.data_file)


def estimate(plan: Plan, calibration: Calibration | None = None) -> Estimate:
    """What exporting a plan takes.

    ``calibration``: as the user wants it, by default as the recipe does.
    """
    config, variant, recipe = plan.config, plan.variant, plan.variant.recipe()
    calibration = calibration or Calibration()
    calibrated = calibration.applies(recipe)
    lifts = calibrated and recipe is not None and recipe.lift is not None
    lifted = plan.lift_room() if lifts else 0
    written = plan.weights().weights.values()
    weights, (_, data_file) = total_bytes(written) + lifted, place(written)
    memory, cached, seconds = streaming_peak(plan), 0, 0.0
    if calibrated:
        tokens = calibration.length
        memory = max(memory, calibration_peak(config, tokens))
        cached = plan.body_bytes() + plan.lift_room()
        cached += kept_bytes(plan.outputs, min(sensitivity.TOKENS, tokens))
        seconds = calibration_seconds(config, tokens, sensitivities=True)
    return Estimate(
        precision=variant.name,
        target=variant.target,
        weights=weights,
        exact=not lifts,
        data_file=data_file + lifted,
        packed=weights if kernel_version(plan) else 0,
        memory=memory,
        calibration_cache=cached,
        calibration_seconds=seconds,
        cache=variant.cache,
    )


def plan_ahead(config: Starcoder2Config, variant: Variant) -> Plan:
    """The plan of a checkpoint of which there is only the configuration.

    Raises :class:`RequestError` for a shape that the variant does not take.
    """
    shapes = checkpoint_shapes(config).items()
    tensors = {name: StoredTensor(name, _STORED, shape, Path(), 0) for name, shape in shapes}
    headers = Checkpoint(Path(), {}, {}, tensors)
    return Plan.of(config, graph_weights(headers, config, variant.read_as), variant)


def facts(config: Starcoder2Config) -> ModelFacts:
    """What a manifest would say of the model."""
    return config.facts(total_parameters(checkpoint_shapes(config)), config.eos_token_ids)


def variants() -> list[Variant]:
    """Every precision for every target of our own that it can be exported for.

    For other runtimes the weights are those for the CPU.
    """
    found = []
    for precision in PRECISIONS:
        for target in OWN_TARGETS:
            try:
                found.append(Variant(precision, target.name))
            except RequestError:  # these two do not go together
                continue
    return found


@dataclass(frozen=True, slots=True)
class Estimates:
    """Estimates of every variant of one checkpoint.

    ``refused``: precision -> why this checkpoint cannot be exported in it.
    """

    name: str
    config: Starcoder2Config
    of_variants: tuple[Estimate, ...]
    refused: Mapping[str, str]


def estimates(
    checkpoint: str | None,
    shape: str | None = None,
    revision: str | None = None,
    *,
    allow_settings: Collection[str] = (),
    calibration_tokens: int | None = None,
) -> Estimates:
    """Of a checkpoint (directory or hub id) or of a published shape (a key of ``SHAPES``).

    ``allow_settings``: unknown settings that the caller vouches for, as
    :func:`~sc2onnx.export.export` takes them. ``calibration_tokens``: of the text where weights are
    calibrated. Of a hub id only ``config.json`` is fetched, and what
    tells of an adapter. Raises :class:`~sc2onnx.errors.CheckpointError` and :class:`RequestError`.
    """
    usual, asked = Calibration(), Calibration(tokens=calibration_tokens)
    name, config = _configuration(checkpoint, shape, revision, allow_settings)
    found, refused = list[Estimate](), dict[str, str]()
    for variant in variants():
        try:
            calibrated = usual.applies(variant.recipe())
            found.append(estimate(plan_ahead(config, variant), asked if calibrated else usual))
        except RequestError as error:
            refused[variant.name] = str(error)
    return Estimates(name, config, tuple(found), refused)


def _configuration(
    checkpoint: str | None,
    shape: str | None,
    revision: str | None,
    allowed: Collection[str],
) -> tuple[str, Starcoder2Config]:
    if shape is not None:
        return f"starcoder2-{shape}", Starcoder2Config.from_dict(SHAPES[shape], allowed)
    if checkpoint is None:
        ways = f"give a directory, a hub id, or --shape {'|'.join(SHAPES)}"
        raise RequestError(f"no checkpoint: {ways}")
    if (Path(checkpoint) / MANIFEST_FILE).is_file():
        ways = f"see `sc2onnx info {checkpoint}`, or give the checkpoint it came from"
        raise BundleError(f"{checkpoint} is a bundle, exported already: {ways}")
    source = hub.resolve(checkpoint, revision, [CONFIG_FILE, ADAPTER_CONFIG])
    return source.name, Starcoder2Config.from_dict(read_config(source.directory), allowed)
