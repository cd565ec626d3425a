"""Opens and checks a bundle: everything the manifest lists is there, whole and unaltered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from sc2onnx.bundle import hub, records
from sc2onnx.bundle.contract import CARD_FILE, MANIFEST_FILE, RING, TOKENIZER_FILE, WEIGHTS_FILE
from sc2onnx.bundle.entries import FileEntry
from sc2onnx.bundle.links import check_links
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.targets import CUDA, OWN_TARGETS
from sc2onnx.errors import BundleError, BundleIntegrityError, RequestError
from sc2onnx.runtime.arguments import flag, optional_text, place_of, text
from sc2onnx.runtime.opening.agreement import check_agreement
from sc2onnx.runtime.opening.end_of_text import check_stops
from sc2onnx.runtime.opening.stamps import Memo, Stamp

Check = Literal["auto", "full", "size"]
"""``full`` hashes every file; ``auto`` skips large ones that it has hashed before and that have not
changed since (:mod:`sc2onnx.runtime.opening.stamps`); ``size`` compares sizes only.
"""

_TYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

SUPPORTED: Final = (
    *(
        (target.name, target.cache, _TYPES[name])
        for target in OWN_TARGETS
        for name in target.floats
    ),
    *((CUDA.name, RING, kind) for kind in _TYPES.values()),
)
"""Target, cache kind and cache type of bundles that this runtime runs. Earlier exporters wrote
rings for cuda, which run on the CPU."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose files are what the manifest says.

    ``digests``: the SHA-256 of its files, by name, as checked; empty where only sizes were.
    ``stamps``: of the files, by name, taken before they were checked.
    """

    directory: Path
    manifest: Manifest
    digests: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    stamps: Mapping[str, Stamp] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, directory: str | Path, check: Check = "auto", *, others: bool = False) -> Bundle:
        """Raises :class:`BundleError` and its subclasses.
        ``others``: also what other runtimes run.
        """
        if check not in ("auto", "full", "size"):
            raise RequestError(f"check is {check!r}, expected 'auto', 'full' or 'size'")
        path = Path(directory)
        check_links(path, [MANIFEST_FILE])
        manifest = Manifest.read(path)
        if manifest.made_for.own or not others:
            _check_supported(manifest)
        for name in (*manifest.graphs, *manifest.kernel_graphs, WEIGHTS_FILE):
            if name not in manifest.files:
                raise BundleIntegrityError(
                    f"the manifest of {path} does not list {name}: export the bundle again"
                )
        check_links(path, [*manifest.files, CARD_FILE])
        stamps = {name: _check_size(path / name, entry) for name, entry in manifest.files.items()}
        remember = check == "auto"
        digests = {} if check == "size" else _check_digests(path, manifest, remember=remember)
        check_agreement(path, manifest)
        check_stops(path, manifest)
        return cls(path, manifest, digests, stamps)

    def check_unchanged(self, *names: str) -> None:
        """Raise :class:`BundleIntegrityError` unless these files are still those that were checked.

        Whoever opens a file asks afterwards: what was put in its place in between, by an export to
        the same path say, would else be computed with although nobody checked it.
        """
        for name in names:
            path = self.directory / name
            try:
                same = Stamp.at(path) == self.stamps[name] or _unaltered(
                    self.directory, self.manifest, name
                )
            except OSError:
                same = False
            if not same:
                raise BundleIntegrityError(
                    f"{path} changed after it was checked: load the bundle again"
                )

    @property
    def graphs(self) -> list[Path]:
        """The ONNX graphs, one for each stage, their weights beside them."""
        return [self.directory / name for name in self.manifest.graphs]

    @property
    def kernel_graphs(self) -> list[Path]:
        """Those for the kernels, one for each stage; empty if it has
        none that this version runs.
        """
        return [self.directory / name for name in self.manifest.kernel_graphs]

    @property
    def adapter_graphs(self) -> list[Path]:
        """Those that take adapters, one for each stage; empty if it has none."""
        return [self.directory / name for name in self.manifest.adapter_graphs]

    @property
    def tokenizer(self) -> Path | None:
        """Where the tokenizer is, if the bundle has one; a file that the manifest does not
        list is not of the bundle.
        """
        return self.directory / TOKENIZER_FILE if TOKENIZER_FILE in self.manifest.files else None

    def contents(self, name: str, most: int = records.MOST_BYTES) -> bytes | None:
        """A small file of the bundle, of at most ``most`` bytes; None where the manifest lists none
        of that name.

        Raises :class:`BundleIntegrityError` for one that is not the one that was checked,
        :class:`OSError`, and :class:`ValueError` for a larger one.
        """
        if name not in self.manifest.files:
            return None
        data = records.contents(self.directory / name, most)
        self.check_unchanged(name)
        return data

    @property
    def weights(self) -> Path:
        """The file that the graph's weights lie in."""
        return self.directory / WEIGHTS_FILE


def push(
    bundle: str | Path,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Put a bundle on the hub, in the repository ``owner/name``, after checking all of it; the
    commit's address. See :func:`sc2onnx.bundle.hub.push`.

    Raises :class:`BundleError` and its subclasses, and :class:`~sc2onnx.errors.HubError`. Warns
    (:class:`UserWarning`) if the checkpoint did not say its licence.
    """
    text("repo", repo)
    for name, value in (("revision", revision), ("message", message)):
        optional_text(name, value)
    if private is not None:
        flag("private", private)
    opened = Bundle.open(place_of("bundle", bundle), "full", others=True)
    if opened.manifest.provenance.license is None:
        warnings.warn(
            "the checkpoint did not say its licence, so neither does the card: write it "
            "there before others use it",
            stacklevel=2,
        )
    return hub.push(
        opened.directory, opened.manifest, repo, private=private, revision=revision, message=message
    )


def open_named(paths: Sequence[str | Path]) -> dict[str, Bundle]:
    """Several bundles by what to call them: the directory's name, or the path where that is not
    enough to tell them apart.

    Raises :class:`RequestError` for one that is given twice,
    :class:`BundleError` and its subclasses.
    """
    resolved = [Path(path).resolve() for path in paths]
    if len(set(resolved)) < len(paths):
        raise RequestError(
            f"a bundle is given twice among {', '.join(map(str, paths))}: give each once"
        )
    names = [path.name for path in resolved]
    labels = [
        name if names.count(name) == 1 else str(path)
        for name, path in zip(names, paths, strict=True)
    ]
    return {label: Bundle.open(path) for label, path in zip(labels, paths, strict=True)}


def _check_supported(manifest: Manifest) -> None:
    if not manifest.made_for.own:
        runs = f"which {manifest.made_for.runner} runs"
        remedy = "give it to that, or export the checkpoint for target 'cpu' to use it here"
        raise BundleError(f"the bundle is for target {manifest.target!r}, {runs}: {remedy}")
    found = (manifest.target, manifest.cache.kind, manifest.cache.dtype)
    if found not in SUPPORTED:
        known = "; ".join(", ".join(map(repr, supported)) for supported in SUPPORTED)
        raise BundleError(
            f"the bundle is for target {found[0]!r} with a cache of kind {found[1]!r} in "
            f"{found[2]!r}, this version runs {known}: upgrade sc2onnx, or export the "
            "bundle with this version"
        )


def _check_size(path: Path, entry: FileEntry) -> Stamp:
    """The stamp of a file that has the size it must have."""
    if not path.is_file():
        raise BundleIntegrityError(
            f"{path.name} is missing from {path.parent}, the manifest lists it: copy or "
            "export the bundle again"
        )
    stamp = Stamp.at(path)
    if stamp.size != entry.size:
        raise BundleIntegrityError(
            f"{path} is {stamp.size} bytes, the manifest says {entry.size}: copy or "
            "export the bundle again"
        )
    return stamp


def _unaltered(directory: Path, manifest: Manifest, name: str) -> bool:
    return Memo(directory).digest(name) == manifest.files[name].sha256


def _check_digests(directory: Path, manifest: Manifest, remember: bool) -> dict[str, str]:
    """The digests of all files, which are those of the manifest.

    ``remember``: large files that an earlier load has read, and that are unchanged, are not read.
    """
    memo = Memo.open(directory)
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            digest = memo.digest(name, entry.sha256 if remember else "")
        except OSError as error:
            raise BundleIntegrityError(
                f"{path} cannot be read ({error.strerror}): correct its permissions, "
                "or copy the bundle again"
            ) from error
        if digest != entry.sha256:
            raise BundleIntegrityError(
                f"{path} has SHA-256 {digest[:16]}..., the manifest says {entry.sha256[:16]}...: "
                "it was altered or damaged, copy or export the bundle again"
            )
    memo.save()
    return {name: entry.sha256 for name, entry in manifest.files.items()}
