"""The records of ``sc2onnx.json``, read strictly and written the same way each time.

The whole file is one :class:`Manifest`. The runtime reads it without any export package, and the
exporter writes it without the runtime.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from sc2onnx.bundle import kernels
from sc2onnx.bundle.contract import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    adapter_graph_files,
    graph_files,
    kernel_graph_files,
)
from sc2onnx.bundle.entries import FileEntry, listed_files
from sc2onnx.bundle.facts import MOST_BYTES, CacheLayout, ModelFacts
from sc2onnx.bundle.merged import MergedAdapter
from sc2onnx.bundle.provenance import Provenance, Verification
from sc2onnx.bundle.quantization import WITH_SCALES, WITH_SCHEMES, Quantization
from sc2onnx.bundle.records import parse, record
from sc2onnx.bundle.steps import NONE
from sc2onnx.bundle.targets import TARGETS, Target
from sc2onnx.bundle.texts import make_plain, plain_text
from sc2onnx.errors import (
    BundleError,
    BundleNotFoundError,
    BundleVersionError,
)

_AGAIN: Final = "export the bundle again"
_DISTRUST: Final = "do not trust this bundle"

_WITH_KERNELS: Final = 6
"""The first format whose manifests say whether there are graphs for the kernels."""

MOST_MANIFEST_BYTES: Final = 4 << 20
"""Bytes that ``sc2onnx.json`` may have. That of the largest model, quantised, has 0.02 MB."""

_LONGEST_TEXT: Final = 4096
"""Characters of a text or a name in a manifest. The longest, of a verification, say which texts
were compared."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of ``sc2onnx.json``.

    ``stages`` lists the layers of each graph that the model is cut into; empty is one graph.
    ``agreeing_steps`` says, for integers, which steps over the same tokens give the same bits
    (:mod:`sc2onnx.bundle.steps`). ``kernels`` is the version of the operators that a second set of
    graphs is written for (:mod:`sc2onnx.bundle.kernels`), 0 where there are none. Raises
    :class:`BundleError` for numbers that no bundle has.
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
        make_plain(self, "precision")
        if self.target not in TARGETS:
            found, expected = self.target[:80], ", ".join(TARGETS)
            remedy = "upgrade sc2onnx, or export the bundle with this version"
            raise BundleError(f"target is {found!r}, expected one of {expected}: {remedy}")
        if self.stages and (min(self.stages) < 1 or sum(self.stages) != self.model.num_layers):
            found, layers = str(list(self.stages))[:80], self.model.num_layers
            raise BundleError(
                f"stages are {found}, expected layers that add up to {layers}: {_AGAIN}"
            )
        if not 0 <= self.opset <= 1000:
            raise BundleError(f"opset is {self.opset}, expected at most 1000: {_AGAIN}")
        if not 0 <= self.weight_bytes <= MOST_BYTES:
            raise BundleError(f"weight_bytes is {self.weight_bytes}, expected a size: {_AGAIN}")
        if not 0 <= self.kernels <= 1000:
            expected = "0, or a version of at most 1000"
            raise BundleError(f"kernels is {self.kernels}, expected {expected}: {_AGAIN}")

    @property
    def made_for(self) -> Target:
        """What it is made for: the record of ``target``, with everything that differs."""
        return TARGETS[self.target]

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs, in order."""
        return graph_files(self.stages)

    @property
    def kernel_graphs(self) -> tuple[str, ...]:
        """Names of the graphs for the kernels, in order; none where this version has no such."""
        return kernel_graph_files(self.stages) if kernels.runs(self.kernels) else ()

    @property
    def adapter_graphs(self) -> tuple[str, ...]:
        """Names of the graphs that take adapters, in order; none where the bundle has not all."""
        names = adapter_graph_files(self.stages)
        return names if all(name in self.files for name in names) else ()

    def to_json(self) -> str:
        """Return the text of ``sc2onnx.json``; the same manifest always gives the same bytes.

        A manifest of an earlier format is written again in that format.
        """
        fields = asdict(self)
        if not self.provenance.adapters:  # as versions wrote it that knew none
            del fields["provenance"]["adapters"]
        if self.format_version < _WITH_KERNELS:
            del fields["kernels"]
        if self.quantization is not None and self.format_version < WITH_SCALES:
            del fields["quantization"]["scales"]
        if self.quantization is not None and self.format_version < WITH_SCHEMES:
            schemes = self.quantization.schemes.items()
            fields["quantization"]["schemes"] = {name: str(scheme) for name, scheme in schemes}
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse and check. Raises :class:`BundleError` and its subclasses."""
        raw = _parsed(text)
        _check_version(raw)
        _check_texts(raw)
        try:
            facts, origin = {**raw["model"]}, {**raw["provenance"]}
            facts["eos_token_ids"] = _listed("eos_token_ids", facts["eos_token_ids"])
            allowed = origin.get("allowed_settings", [])
            origin["allowed_settings"] = _listed("allowed_settings", allowed)
            merged = _listed("adapters", origin.get("adapters", []))
            origin["adapters"] = tuple(record(MergedAdapter, adapter) for adapter in merged)
            version, quantization = raw["format_version"], raw.get("quantization")
            verification = raw.get("verification")
            parsed = dict(
                raw,
                model=record(ModelFacts, facts),
                cache=record(CacheLayout, raw["cache"]),
                files=listed_files(raw["files"]),
                provenance=record(Provenance, origin),
                quantization=quantization and Quantization.read(quantization, version),
                verification=verification and record(Verification, verification),
                stages=_listed("stages", raw.get("stages", [])),
            )
            return record(cls, parsed)
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{MANIFEST_FILE} is malformed ({error}): {_AGAIN}") from error

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the manifest of the bundle at ``directory``.

        Raises :class:`BundleNotFoundError` where there is none, and :class:`BundleError`.
        """
        path = directory / MANIFEST_FILE
        try:
            if not path.is_file() and path.exists():
                raise BundleError(f"{path} cannot be read (it is no file): copy the bundle again")
            with path.open("rb") as file:
                text = file.read(MOST_MANIFEST_BYTES + 1)
            if len(text) > MOST_MANIFEST_BYTES:
                raise BundleError(
                    f"{path} has more than {MOST_MANIFEST_BYTES:,} bytes, "
                    f"expected a manifest: {_AGAIN}"
                )
            return cls.from_json(text)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not directory.exists():
                raise BundleNotFoundError(
                    f"no bundle at {directory}: make one with `sc2onnx export "
                    f"CHECKPOINT {directory}`"
                ) from error
            if directory.is_file():
                raise BundleNotFoundError(
                    f"{directory} is not a bundle but a file: give a bundle's directory"
                ) from error
            found = f"{directory} is not a bundle (it has no {MANIFEST_FILE})"
            raise BundleNotFoundError(
                f"{found}: make one with `sc2onnx export CHECKPOINT OUT`"
            ) from error
        except OSError as error:
            raise BundleError(
                f"{path} cannot be read ({error.strerror}): correct its permissions, "
                "or copy the bundle again"
            ) from error

    def verified(self, result: Verification) -> Manifest:
        """Return the same manifest with the outcome of a verification."""
        return replace(self, verification=result)


def _parsed(text: str | bytes) -> dict[str, Any]:
    try:
        return parse(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    except UnicodeDecodeError as error:
        raise BundleError(f"{MANIFEST_FILE} is not UTF-8 text ({error}): {_AGAIN}") from error
    except ValueError as error:
        raise BundleError(
            f"{MANIFEST_FILE} is not JSON that sc2onnx writes ({error}): {_AGAIN}"
        ) from error


def _check_version(raw: Mapping[str, Any]) -> None:
    """Refuse formats that this version cannot read, and fields that the stated format lacks."""
    version = raw.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(
            f"{MANIFEST_FILE} has no format_version: it was not written by sc2onnx export"
        )
    if not 1 <= version <= FORMAT_VERSION:
        raise BundleVersionError(
            f"{MANIFEST_FILE} has format_version {version}, this sc2onnx reads 1 to "
            f"{FORMAT_VERSION}: upgrade sc2onnx, or export the bundle with this version"
        )
    if version < _WITH_KERNELS and "kernels" in raw:
        found = f"{MANIFEST_FILE} has kernels and format_version {version}"
        raise BundleError(f"{found}, expected {_WITH_KERNELS} at least: {_AGAIN}")


def _check_texts(raw: Mapping[str, Any]) -> None:
    """Refuse text that steers a terminal, and text that is too long for a message."""
    for string in _strings(raw):
        if plain_text(string) != string:
            found = f"{MANIFEST_FILE} has control characters in {string[:80]!r}"
            raise BundleError(f"{found}, expected plain text: {_DISTRUST}")
        if len(string) > _LONGEST_TEXT:  # which errors would repeat
            found = f"{MANIFEST_FILE} has a text of {len(string):,} characters ({string[:80]!r}...)"
            raise BundleError(f"{found}, expected at most {_LONGEST_TEXT:,}: {_DISTRUST}")


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    """Return a list of JSON as a tuple; raise :class:`TypeError` for anything else with items."""
    if not isinstance(value, list):
        raise TypeError(f"{name} is {repr(value)[:80]}, expected a list")
    return tuple(value)


def _strings(value: Any) -> Iterator[str]:
    """Yield every key and text of a value read from JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _strings(item)
