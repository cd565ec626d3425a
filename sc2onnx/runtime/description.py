"""What a bundle is, in lines for a person."""

from __future__ import annotations

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import Sc2onnxError
from sc2onnx.hints import KERNELS
from sc2onnx.runtime.cache.slots import SlotType
from sc2onnx.runtime.engine.prefix import SEQUENCES
from sc2onnx.runtime.memory_need import MemoryNeed, memory_need


def described(
    manifest: Manifest, need: MemoryNeed, slots: SlotType | None = None, kernels: str = ""
) -> dict[str, str]:
    """Label -> value, for printing. ``slots``: what the kernels keep, as in :func:`memory_need`;
    ``kernels``: what is said of them.
    """
    facts, origin, checked = manifest.model, manifest.provenance, manifest.verification
    heads = f"{facts.num_heads} heads, {facts.num_kv_heads} key-value heads of {facts.head_dim}"
    window = f"{facts.sliding_window:,}" if facts.sliding_window else "none"
    verified = "not yet"
    if checked is not None:
        verified = (
            f"{'passed' if checked.passed else 'FAILED'}, {checked.shown('max_rel_diff', '.1e')} "
            f"against {checked.reference}"
        )
    kept = (
        f"at most {_size(SEQUENCES * memory_need(manifest, kept=slots).cache)} of caches, or "
        "prefix_memory= of load"
    )
    return {
        "source": origin.source + (f" at {origin.revision}" if origin.revision else ""),
        **(
            {"adapters": ", ".join(map(str, origin.adapters)) + ", merged"}
            if origin.adapters
            else {}
        ),
        "licence": origin.license or "not stated by the source",
        ("precision"): (
            f"{manifest.precision}, for {manifest.target} (ONNX opset "
            f"{manifest.opset}, {origin.exporter})"
        ),
        **({"quantised": str(manifest.quantization)} if manifest.quantization else {}),
        "parameters": f"{facts.parameters:,}",
        "layers": f"{facts.num_layers} of {facts.hidden_size} channels, {heads}",
        **({"kernels": kernels} if kernels else {}),
        **(
            {"stages": f"{' + '.join(map(str, manifest.stages))} layers"} if manifest.stages else {}
        ),
        "context": f"{facts.context_length:,} tokens, sliding window {window}",
        ("files"): (
            f"{_size(sum(entry.size for entry in manifest.files.values()))} in "
            f"{len(manifest.files)} files"
        ),
        "verified": verified,
        (f"memory at {need.context:,} tokens"): (
            f"{_size(need.total)} = weights {_size(need.weights)} + cache {_size(need.cache)} "
            f"({need.cache_slots:,} slots)"
        ),
        **({"kept between requests": kept} if manifest.made_for.own else {}),
    }


def on_kernels(manifest: Manifest) -> tuple[SlotType | None, str]:
    """What the kernels keep here, None where the bundle runs without them; and what is to be said
    of that, nothing of floats.
    """
    if manifest.quantization is None or not manifest.made_for.kernels:
        return None, ""
    if not manifest.kernel_graphs:
        return None, "no graph for sc2onnx-kernels, the bundle runs without"
    try:
        from sc2onnx.runtime.ort.kernels import Missing, kept_slots, look_for, usable
    except Sc2onnxError as error:  # onnxruntime is not installed
        return None, f"a graph for sc2onnx-kernels ({error})"
    found = look_for(manifest)
    if isinstance(found, Missing):
        return None, f"a graph for them, but {found.reason} ({KERNELS})"
    if usable("auto", manifest) is None:
        return None, "a graph for sc2onnx-kernels, which are turned off here"
    kept = kept_slots("auto")
    return (
        kept,
        (
            f"a graph for sc2onnx-kernels, which runs here ({found.version}, "
            f"{found.instructions}); keys and values in {kept}"
        ),
    )


def _size(nbytes: int) -> str:
    """Bytes for a person: megabytes or gigabytes, decimal."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"
