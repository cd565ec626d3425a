"""From a plan to the weights that are written, calibrated where that is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial

from sc2onnx.errors import CheckpointError
from sc2onnx.export.calibration import Calibration
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.estimate import Estimate
from sc2onnx.export.plan import Plan, WeightPlan
from sc2onnx.export.progress import Progress
from sc2onnx.export.quantize import calibrate, corpus, metric, native, sensitivity
from sc2onnx.export.quantize.calibrations import checkpoint_digest, open_store, windows_digest
from sc2onnx.export.quantize.codec import Floats
from sc2onnx.export.quantize.roundings import Roundings
from sc2onnx.export.quantize.store import Need, Store


@contextmanager
def weights_of(
    plan: Plan,
    calibration: Calibration,
    opened: Checkpoint,
    ahead: Estimate,
    bundle: Need,
    report: Progress,
) -> Iterator[WeightPlan]:
    """The weights of a plan, to be written inside the block, which is when they are read.

    Calibration happens on entering. ``ahead``: what the export takes; ``bundle``: room that
    calibration has to leave.
    """
    recipe = plan.variant.recipe()
    if recipe is None or not calibration.applies(recipe):
        yield plan.weights()
        return
    text = _text(plan.config, calibration, opened)
    report.stage(f"calibrating on {text.description}")
    parts = {
        "checkpoint": checkpoint_digest(sorted(opened.stamps)),
        "adapters": [asdict(adapter) for adapter in opened.merged],
        "config": dict(opened.config),
        "text": windows_digest(text.windows),
        "recipe": recipe.to_json(),
        "kernels": native.look() is not None,
    }
    with open_store(parts, report) as store:
        store.check_space(ahead.calibration_cache, bundle)
        plan = _lifted(plan, _sensitivities(plan, text, store, report))
        report.stage("rounding layer by layer", _float_bytes(plan))
        config, floats, schemes = plan.config, plan.floats, plan.schemes
        calibrate.calibrate(config, floats, schemes, text.windows, store, report)
        yield plan.weights(Roundings(schemes, store, text.description))


def _text(
    config: Starcoder2Config,
    calibration: Calibration,
    opened: Checkpoint,
) -> corpus.CalibrationText:
    context, separator = config.max_position_embeddings, _separator(config)
    files, length = calibration.files, calibration.length
    return corpus.read(opened.text_from, files, length, context, separator)


def _separator(config: Starcoder2Config) -> int | None:
    """The token between texts, if there is one.

    Raises :class:`CheckpointError` if the model has no such token.
    """
    if not config.eos_token_ids:
        return None
    separator = config.eos_token_ids[0]
    if not 0 <= separator < config.vocab_size:
        raise CheckpointError(
            f"config.json: eos_token_id is {separator}, which calibration puts between texts, "
            f"expected 0 to {config.vocab_size - 1}: correct it, or pass --no-calibration",
        )
    return separator


def _sensitivities(
    plan: Plan, text: corpus.CalibrationText, store: Store, report: Progress
) -> dict[str, float]:
    """How sensitive each product is; what the model minds is in the store then, as far as it is
    wanted: of a product that is not rounded yet, or whose rounding was damaged meanwhile.
    """
    measured = store.sensitivities(plan.body)
    if measured is None or not _minded(_lifted(plan, measured), store):
        report.stage("measuring which products are sensitive", _float_bytes(plan))
        sample = text.sample(sensitivity.TOKENS)
        measured = sensitivity.measure(
            plan.config, plan.floats, plan.schemes, sample, report, partial(keep_gradients, store)
        )
        store.put_sensitivities(measured)
    return measured


def _minded(plan: Plan, store: Store) -> bool:
    """Whether the store has, of each product that gets a metric, its rounding or its gradients."""
    return all(
        outputs > metric.WIDEST
        or store.has(product, plan.schemes[product])
        or store.gradients(product) is not None
        for product, outputs in zip(plan.body, plan.outputs, strict=True)
    )


def keep_gradients(store: Store, product: str, gradients: Floats) -> None:
    """Put the gradients of a product's outputs (tokens, out) in the store, if it gets a metric."""
    if gradients.shape[-1] <= metric.WIDEST:
        store.put_gradients(product, gradients)


def _lifted(plan: Plan, sensitivities: dict[str, float]) -> Plan:
    """The plan with the most sensitive products lifted, where the recipe wants that."""
    recipe = plan.variant.recipe()
    if recipe is None or recipe.lift is None:
        return plan
    lifted = sensitivity.lifted(recipe, plan.schemes, plan.floats, sensitivities)
    return replace(plan, schemes=lifted)


def _float_bytes(plan: Plan) -> int:
    """Bytes of the body in float32, as calibration reads it."""
    return 4 * plan.body_parameters
