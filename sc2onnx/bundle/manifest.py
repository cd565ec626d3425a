"""The contract between exporter and runtime: what a bundle is called, holds and promises.

``sc2onnx.json`` in the bundle is one :class:`Manifest`. Standard library only: the runtime reads it without any
export package, and the exporter writes it without the runtime.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from sc2onnx.bundle import kernels
from sc2onnx.bundle.records import parse, record
from sc2onnx.bundle.steps import NONE
from sc2onnx.errors import BundleError, BundleIntegrityError, BundleNotFoundError, BundleVersionError

FORMAT_VERSION: Final = 6
"""Raised whenever an older runtime would misread the bundle."""

_WITH_KERNELS: Final = 6
"""The first format whose manifests say whether there are graphs for the kernels."""

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


def kernel_graph_files(stages: Sequence[int]) -> tuple[str, ...]:
    """Names of the graphs for the kernels: ``model.kernels.onnx``, or ``model.0.kernels.onnx``, ..."""
    return tuple(map(kernels.graph_name, graph_files(stages)))


MOST_MANIFEST_BYTES: Final = 4 << 20
"""Bytes that ``sc2onnx.json`` may have. That of the largest model, quantised, has 0.02 MB."""

MOST_FILES: Final = 1000
"""Files that a bundle may have."""

MOST_LAYERS: Final = 10_000

_MOST: Final = (1 << 31) - 1
"""The largest size of anything in a model: operators count in 32 bits."""

_MOST_BYTES: Final = (1 << 63) - 1

_LONGEST_TEXT: Final = 4096
"""Characters of a text or a name in a manifest. The longest, of a verification, say which texts were compared."""


def plain_file_name(name: str) -> bool:
    """Whether ``name`` names a file in the bundle's own directory, whatever the operating system."""
    return len(name) < 256 and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name))


def plain_text(text: str) -> str:
    """``text`` with U+FFFD in the place of what a terminal or an editor may act on instead of showing it.

    That are control characters, line and paragraph separators, halves of surrogate pairs, and what
    turns the direction of writing.
    """
    return "".join("\ufffd" if _acts(character) else character for character in text)


def _acts(character: str) -> bool:
    return not " " <= character <= "~" and (unicodedata.category(character) in _ACTING or character in _TURNING)


_ACTING: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


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
        for name, most in _LIMITS.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                expected = "at least 1" if value < 1 else f"at most {most:,}"
                raise BundleError(f"model.{name} is {value}, expected {expected}: export the bundle again")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise BundleError(f"model.sliding_window is {self.sliding_window}, expected at least 1 or null: export the bundle again")
        if not self.rope_theta > 0:
            raise BundleError(f"model.rope_theta is {self.rope_theta}, expected a positive number: export the bundle again")

    @property
    def window(self) -> int:
        """Tokens that one position can see, itself included: the sliding window, or the whole context."""
        return min(self.sliding_window or self.context_length, self.context_length)


_LIMITS: Final = {
    "num_layers": MOST_LAYERS,
    "hidden_size": _MOST,
    "intermediate_size": _MOST,
    "num_heads": _MOST,
    "num_kv_heads": _MOST,
    "head_dim": _MOST,
    "vocab_size": _MOST,
    "context_length": _MOST,
    "parameters": _MOST_BYTES,
}

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


def _clean(record: Any, *names: str) -> None:
    """Make free text plain, which may be a path, and so anything."""
    for name in names:
        text = getattr(record, name)
        object.__setattr__(record, name, plain_text(text) if isinstance(text, str) else text)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the weights come from. ``revision`` is a hub commit; None for a local directory.

    ``allowed_settings``: settings of ``config.json`` that the exporter does not know, and of which
    whoever exported vouched that they change nothing.
    """

    source: str
    revision: str | None
    license: str | None
    exporter: str
    allowed_settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _clean(self, "source", "revision", "license", "exporter")


_SCHEME: Final = re.compile("int[48] in blocks of (16|32|64|128|256)")


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

    def __post_init__(self) -> None:
        _clean(self, "recipe", "calibration")
        for product, scheme in self.schemes.items():
            if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
                raise BundleError(f"quantization.schemes has {str(scheme)[:80]!r} for {product[:80]!r}, expected such as 'int4 in blocks of 128'")
        if self.rounding != ("nearest" if self.calibration is None else "calibrated"):
            raise BundleError(f"quantization.rounding is {self.rounding!r}, expected 'nearest', or 'calibrated' on a text: export the bundle again")

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

    def __post_init__(self) -> None:
        _clean(self, "reference", "text")

    def shown(self, name: str, style: str) -> str:
        """A figure for a person, formatted in ``style``."""
        value = getattr(self, name)
        return "not a number" if value is None else format(value, style)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of ``sc2onnx.json``. ``stages``: layers of each graph that the model is cut into; empty: it is one graph.

    ``agreeing_steps``: for integers, which steps over the same tokens give the same bits, see
    :mod:`sc2onnx.bundle.steps`. ``kernels``: the version of the operators that a second set of
    graphs is written for (:mod:`sc2onnx.bundle.kernels`); 0: there are none.
    """

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
    agreeing_steps: str = NONE
    kernels: int = 0
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        _clean(self, "precision")
        if self.stages and (min(self.stages) < 1 or sum(self.stages) != self.model.num_layers):
            raise BundleError(
                f"stages are {str(list(self.stages))[:80]}, expected layers that add up to {self.model.num_layers}: export the bundle again"
            )

        if not 0 <= self.opset <= 1000:
            raise BundleError(f"opset is {self.opset}, expected at most 1000: export the bundle again")
        if not 0 <= self.weight_bytes <= _MOST_BYTES:
            raise BundleError(f"weight_bytes is {self.weight_bytes}, expected a size: export the bundle again")
        if not 0 <= self.kernels <= 1000:
            expected = "0, or a version of at most 1000"
            raise BundleError(f"kernels is {self.kernels}, expected {expected}: export the bundle again")

    @property
    def for_others(self) -> bool:
        """Whether other runtimes run it, which bring their own cache."""
        return self.target in OTHER_TARGETS

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs, in order."""
        return graph_files(self.stages)

    @property
    def kernel_graphs(self) -> tuple[str, ...]:
        """Names of the graphs for the kernels, in order; none where there are none for this version."""
        return kernel_graph_files(self.stages) if self.kernels == kernels.VERSION else ()

    def to_json(self) -> str:
        """Text of ``sc2onnx.json``; the same manifest always gives the same bytes.

        One of an earlier format is written again in that.
        """
        fields = asdict(self)
        if self.format_version < _WITH_KERNELS:
            del fields["kernels"]
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse and check. Raises :class:`BundleError` and its subclasses."""
        try:
            raw = parse(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        except UnicodeDecodeError as error:
            raise BundleError(f"{MANIFEST_FILE} is not UTF-8 text ({error}): export the bundle again") from error
        except ValueError as error:
            raise BundleError(f"{MANIFEST_FILE} is not JSON that sc2onnx writes ({error}): export the bundle again") from error
        version = raw.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise BundleError(f"{MANIFEST_FILE} has no format_version: it was not written by sc2onnx export")
        if not 1 <= version <= FORMAT_VERSION:
            raise BundleVersionError(
                f"{MANIFEST_FILE} has format_version {version}, this sc2onnx reads 1 to {FORMAT_VERSION}: "
                "upgrade sc2onnx, or export the bundle with this version"
            )
        if version < _WITH_KERNELS and "kernels" in raw:
            found = f"{MANIFEST_FILE} has kernels and format_version {version}"
            raise BundleError(f"{found}, expected {_WITH_KERNELS} at least: export the bundle again")
        for string in _strings(raw):
            if plain_text(string) != string:
                raise BundleError(f"{MANIFEST_FILE} has control characters in {string[:80]!r}, expected plain text: do not trust this bundle")
            if len(string) > _LONGEST_TEXT:  # which errors would repeat
                raise BundleError(
                    f"{MANIFEST_FILE} has a text of {len(string):,} characters ({string[:80]!r}...), expected at most {_LONGEST_TEXT:,}: "
                    "do not trust this bundle"
                )
        try:
            files = _files(raw["files"])
            facts = {**raw["model"], "eos_token_ids": _listed("eos_token_ids", raw["model"]["eos_token_ids"])}
            origin = {**raw["provenance"]}
            origin["allowed_settings"] = _listed("allowed_settings", origin.get("allowed_settings", []))
            verification, quantization = raw.get("verification"), raw.get("quantization")
            parsed = dict(
                raw,
                model=record(ModelFacts, facts),
                cache=record(CacheLayout, raw["cache"]),
                files=files,
                provenance=record(Provenance, origin),
                quantization=quantization and record(Quantization, quantization),
                verification=verification and record(Verification, verification),
                stages=_listed("stages", raw.get("stages", [])),
            )
            manifest = record(cls, parsed)
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{MANIFEST_FILE} is malformed ({error}): export the bundle again") from error
        return manifest

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the manifest of the bundle at ``directory``."""
        path = directory / MANIFEST_FILE
        try:
            if not path.is_file() and path.exists():
                raise BundleError(f"{path} cannot be read (it is no file): copy the bundle again")
            with path.open("rb") as file:
                text = file.read(MOST_MANIFEST_BYTES + 1)
            if len(text) > MOST_MANIFEST_BYTES:
                raise BundleError(f"{path} has more than {MOST_MANIFEST_BYTES:,} bytes, expected a manifest: export the bundle again")
            return cls.from_json(text)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not directory.exists():
                raise BundleNotFoundError(f"no bundle at {directory}: make one with `sc2onnx export CHECKPOINT {directory}`") from error
            raise BundleNotFoundError(
                f"{directory} is not a bundle (it has no {MANIFEST_FILE}): make one with `sc2onnx export CHECKPOINT OUT`"
            ) from error
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}): correct its permissions, or copy the bundle again") from error

    def verified(self, result: Verification) -> Manifest:
        """The same manifest with the outcome of a verification."""
        return replace(self, verification=result)


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    """A list read from JSON. Raises :class:`TypeError` for anything else, that has items too."""
    if not isinstance(value, list):
        raise TypeError(f"{name} is {repr(value)[:80]}, expected a list")
    return tuple(value)


def _files(raw: Any) -> dict[str, FileEntry]:
    """The entries of ``files``, checked: names that stay inside the bundle, sizes and digests that are some."""
    files = {name: record(FileEntry, entry) for name, entry in raw.items()}
    if len(files) > MOST_FILES:
        raise BundleIntegrityError(f"{MANIFEST_FILE} lists {len(files):,} files, expected at most {MOST_FILES:,}: do not trust this bundle")
    for name, entry in files.items():
        if not plain_file_name(name):
            raise BundleIntegrityError(
                f"{MANIFEST_FILE} lists {name[:300]!r}, expected a plain file name inside the bundle: do not trust this bundle"
            )
        if name in (MANIFEST_FILE, CARD_FILE):
            raise BundleIntegrityError(f"{MANIFEST_FILE} lists {name}, which is not of the files that it vouches for: export the bundle again")
        if not 0 <= entry.size <= _MOST_BYTES or not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise BundleIntegrityError(
                f"{MANIFEST_FILE} lists {name} with {entry.size} bytes and SHA-256 {entry.sha256[:80]!r}, expected a size and 64 "
                "hexadecimal digits: export the bundle again"
            )
    return files


def _strings(value: Any) -> Iterator[str]:
    """Every key and text of a value read from JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _strings(item)


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
