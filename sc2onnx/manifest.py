"""The contract between exporter and runtime: what a bundle is called, holds and promises.

``sc2onnx.json`` in the bundle is one :class:`Manifest`. Standard library only: the runtime reads it without any
export package, and the exporter writes it without the runtime.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from sc2onnx.bundle.records import record
from sc2onnx.errors import BundleError, BundleIntegrityError, BundleNotFoundError, BundleVersionError

FORMAT_VERSION: Final = 4
"""Raised whenever an older runtime would misread the bundle."""

MANIFEST_FILE: Final = "sc2onnx.json"
GRAPH_FILE: Final = "model.onnx"
WEIGHTS_FILE: Final = "model.onnx.data"
CARD_FILE: Final = "README.md"
TOKENIZER_FILE: Final = "tokenizer.json"

INPUT_IDS: Final = "input_ids"  # int64 (batch, step)
ATTENTION_MASK: Final = "attention_mask"  # int64 (batch, past + step): 1 for tokens, 0 for padding; of caches that grow, instead of the next one
PAST_LENGTHS: Final = "past_lengths"  # int64 (batch,): tokens already in the cache, per row
NUM_LOGITS: Final = "num_logits"  # int64 (1,): how many last positions get logits; optional, 1 by default
LOGITS: Final = "logits"  # float32 (batch, num_logits, vocab)
GREEDY_IDS: Final = "greedy_ids"  # int64 (batch, num_logits): the most likely token of each position, -1 where logits are no numbers; for cuda
HIDDEN: Final = "hidden_states"  # (batch * step, hidden), the type of the cache: what a stage takes from the one before it
NEXT_HIDDEN: Final = "next_hidden_states"  # the same, what a stage hands on


def past_name(layer: int | str, kind: str) -> str:
    """Name of a cache input; ``kind`` is ``"key"`` or ``"value"``, shapes as :class:`CacheLayout` says."""
    return f"past_key_values.{layer}.{kind}"


def present_name(layer: int | str, kind: str) -> str:
    """Name of the cache output that belongs to :func:`past_name`, of the same shape."""
    return f"present.{layer}.{kind}"


def graph_files(stages: Sequence[int]) -> tuple[str, ...]:
    """Names of the graphs: ``model.onnx``, or of stages ``model.0.onnx`` and so on."""
    return tuple(f"model.{number}.onnx" for number in range(len(stages))) or (GRAPH_FILE,)


def plain_file_name(name: str) -> bool:
    """Whether ``name`` names a file in the bundle's own directory, whatever the operating system."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the runtime must know of the model; sizes are counts of tokens, heads or channels.

    ``sliding_window`` counts the current token (position q sees q - window < p <= q); None: full causal attention.
    ``context_length`` is ``max_position_embeddings`` of the checkpoint.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    sliding_window: int | None
    rope_theta: float
    tied_embeddings: bool
    parameters: int
    eos_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = ("num_layers", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "context_length")
        for name in sizes:
            if getattr(self, name) < 1:
                raise BundleError(f"model.{name} is {getattr(self, name)}, expected at least 1: export the bundle again")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise BundleError(f"model.sliding_window is {self.sliding_window}, expected at least 1 or null: export the bundle again")

    @property
    def window(self) -> int:
        """Tokens that one position can see, itself included: the sliding window, or the whole context."""
        return min(self.sliding_window or self.context_length, self.context_length)


_WIDTHS: Final = {"float32": 4, "float16": 2, "bfloat16": 2}

RING: Final = "ring-transposed-values"
LINEAR: Final = "linear"
GROWING: Final = "growing"

OTHER_TARGETS: Final = ("genai", "optimum")
"""Of bundles that other runtimes run: they take an ``attention_mask``, and the longest of what a row sees is their own business."""


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How the key-value cache is laid out.

    ``ring-transposed-values``: per layer keys of (batch, kv_heads, capacity, head_dim) and values of (batch, kv_heads, head_dim, capacity);
    position p in slot p mod capacity (docs/decisions/0001-ring-attention.md). ``linear``: both of (batch, kv_heads, capacity, head_dim);
    position p in slot p, so that the capacity bounds the tokens (docs/decisions/0013-cuda.md). For other
    runtimes (docs/decisions/0014-other-runtimes.md): ``growing``, both of (batch, kv_heads, length, head_dim), given back with the step behind it.
    """

    kind: str
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in _WIDTHS:
            raise BundleError(f"cache.dtype is {self.dtype!r}, expected one of {', '.join(_WIDTHS)}: export the bundle again")

    def window(self, facts: ModelFacts) -> int:
        """Tokens that it must keep: those that one position can see, in a ring; else all that there can be."""
        return facts.window if self.kind == RING else facts.context_length

    def bytes_per_token(self, facts: ModelFacts) -> int:
        """Cache bytes that one position of one row takes, over all layers."""
        return 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * _WIDTHS[self.dtype]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle: bytes and SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the weights come from. ``revision`` is a hub commit; None for a local directory."""

    source: str
    revision: str | None
    license: str | None
    exporter: str


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights were made into integers: block-wise, symmetric, one float32 scale per block.

    ``schemes``: every matrix by name -> such as ``int4 in blocks of 128``. ``body_bits``: bits per weight of the layers' matrices,
    scales included. ``rounding``: ``nearest`` or ``calibrated``; then ``calibration`` says on which text.
    """

    recipe: str
    schemes: Mapping[str, str]
    body_bits: float
    rounding: str
    calibration: str | None

    def __str__(self) -> str:
        """Which schemes for how many matrices, what that comes to, and how it was rounded."""
        counts = Counter(self.schemes.values()).most_common()
        matrices = ", ".join(f"{scheme} ({count} matrices)" for scheme, count in counts)
        rounded = f"calibrated on {self.calibration}" if self.calibration else f"rounded to the {self.rounding}"
        return f"{matrices}; {self.body_bits:.2f} bits a weight in the layers; {rounded}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``sc2onnx verify`` measured last, against torch in float32. ``longest``: tokens of the longest sequence compared.

    The figures are those of :class:`sc2onnx.evaluate.measure.Difference`, None where they were not numbers.
    """

    passed: bool
    reference: str
    text: str
    tolerance: float
    longest: int
    positions: int
    max_abs_diff: float | None
    max_rel_diff: float | None
    kl_divergence: float | None
    top1_agreement: float | None
    nll: float | None
    nll_reference: float | None
    greedy_tokens: int
    greedy_match: int

    def shown(self, name: str, style: str) -> str:
        """A figure for a person, formatted in ``style``."""
        value = getattr(self, name)
        return "not a number" if value is None else format(value, style)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of ``sc2onnx.json``. ``stages``: layers of each graph that the model is cut into; empty: it is one graph."""

    model: ModelFacts
    precision: str
    target: str
    opset: int
    cache: CacheLayout
    weight_bytes: int
    files: Mapping[str, FileEntry]
    provenance: Provenance
    quantization: Quantization | None = None
    verification: Verification | None = None
    stages: tuple[int, ...] = ()
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        if self.stages and (min(self.stages) < 1 or sum(self.stages) != self.model.num_layers):
            raise BundleError(f"stages are {list(self.stages)}, expected layers that add up to {self.model.num_layers}: export the bundle again")

    @property
    def for_others(self) -> bool:
        """Whether other runtimes run it, which bring their own cache."""
        return self.target in OTHER_TARGETS

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs, in order."""
        return graph_files(self.stages)

    def to_json(self) -> str:
        """Text of ``sc2onnx.json``; the same manifest always gives the same bytes."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse and check. Raises :class:`BundleError` and its subclasses."""
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"{MANIFEST_FILE} is not JSON ({error}): export the bundle again") from error
        if not isinstance(raw, dict) or not isinstance(raw.get("format_version"), int):
            raise BundleError(f"{MANIFEST_FILE} has no format_version: it was not written by sc2onnx export")
        if not 1 <= raw["format_version"] <= FORMAT_VERSION:
            raise BundleVersionError(
                f"{MANIFEST_FILE} has format_version {raw['format_version']}, this sc2onnx reads 1 to {FORMAT_VERSION}: "
                "upgrade sc2onnx, or export the bundle with this version"
            )
        try:
            files = {name: record(FileEntry, entry) for name, entry in raw["files"].items()}
            facts = dict(raw["model"], eos_token_ids=tuple(raw["model"]["eos_token_ids"]))
            verification, quantization = raw.get("verification"), raw.get("quantization")
            parsed = dict(
                raw,
                model=record(ModelFacts, facts),
                cache=record(CacheLayout, raw["cache"]),
                files=files,
                provenance=record(Provenance, raw["provenance"]),
                quantization=quantization and record(Quantization, quantization),
                verification=verification and record(Verification, verification),
                stages=tuple(raw.get("stages", ())),
            )
            manifest = record(cls, parsed)
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{MANIFEST_FILE} is malformed ({error}): export the bundle again") from error
        for name in files:
            if not plain_file_name(name):
                raise BundleIntegrityError(f"{MANIFEST_FILE} lists {name!r}, expected a plain file name inside the bundle: do not trust this bundle")
        return manifest

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the manifest of the bundle at ``directory``."""
        path = directory / MANIFEST_FILE
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            if not directory.exists():
                raise BundleNotFoundError(f"no bundle at {directory}: make one with `sc2onnx export CHECKPOINT {directory}`") from error
            raise BundleNotFoundError(
                f"{directory} is not a bundle (it has no {MANIFEST_FILE}): make one with `sc2onnx export CHECKPOINT OUT`"
            ) from error
        except UnicodeDecodeError as error:
            raise BundleError(f"{path} is not UTF-8 text ({error}): export the bundle again") from error
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}): correct its permissions, or copy the bundle again") from error

    def verified(self, result: Verification) -> Manifest:
        """The same manifest with the outcome of a verification."""
        return replace(self, verification=result)


TEMPORARY: Final = ".sc2onnx-"
"""What names of files in the making begin with."""


def replace_text(path: Path, text: str) -> None:
    """Replace a small text file whole or not at all (temporary sibling, fsync, rename). Raises :class:`OSError`."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a small file whole or not at all; what is no file, such as a pipe, is written to. Raises :class:`OSError`."""
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
