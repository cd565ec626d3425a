"""A graph that other runtimes drive, driven here as they do it: an ``attention_mask``, and a cache
that is given back longer each time.

Bundles for ``genai`` and ``optimum``, and directories that ``optimum-cli export onnx`` wrote.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle import records
from sc2onnx.bundle.contract import (
    ATTENTION_MASK,
    GRAPH_FILE,
    GROWING,
    INPUT_IDS,
    LOGITS,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    past_name,
    present_name,
)
from sc2onnx.bundle.entries import FileEntry
from sc2onnx.bundle.facts import CacheLayout
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.provenance import Provenance
from sc2onnx.errors import BundleError, InferenceError
from sc2onnx.evaluate.measure import Floats
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.weights import checkpoint_shapes, total_parameters
from sc2onnx.runtime.ort.loading import open_graph
from sc2onnx.runtime.ort.storage import tensor
from sc2onnx.runtime.results import Token
from sc2onnx.runtime.text.codec import Codec, open_codec

if TYPE_CHECKING:
    from sc2onnx.runtime.ort.library import ort

# int64 (batch, step), where the graph does not count them itself
POSITION_IDS: Final = "position_ids"

_CHUNK: Final = 256
"""Tokens computed at once: such graphs give the logits of all of them."""

_TYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
}
_LOGITS: Final = ("tensor(float)", "tensor(float16)")
_ELEMENTS: Final = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


class Foreign:
    """Such a graph, its tokenizer and what is known of the model. Rewinds any number of tokens."""

    def __init__(self, directory: Path, manifest: Manifest, session: ort.InferenceSession) -> None:
        _check_ports(session, manifest)
        self.manifest = manifest
        self.rewindable = manifest.model.context_length
        self._session = session
        self._tokenizer = directory / TOKENIZER_FILE if TOKENIZER_FILE in manifest.files else None

    @classmethod
    def of_bundle(cls, directory: Path, manifest: Manifest, graph: bytes | None = None) -> Foreign:
        """A bundle for others; ``graph``: in the place of its own.

        Raises :class:`~sc2onnx.errors.InferenceError`, and :class:`~sc2onnx.errors.BundleError`
        for a graph of another kind.
        """
        return cls(
            directory,
            manifest,
            open_graph(
                directory / GRAPH_FILE, quantised=manifest.quantization is not None, instead=graph
            ),
        )

    @classmethod
    def of_export(cls, directory: Path) -> Foreign:
        """What ``optimum-cli`` wrote. Raises as :func:`described` and :meth:`of_bundle` do."""
        session = open_graph(directory / GRAPH_FILE)
        return cls(directory, described(directory, session), session)

    @property
    def codec(self) -> Codec:
        """The tokenizer. Raises :class:`~sc2onnx.errors.TokenizerError` if
        there is none that works.
        """
        return open_codec(self._tokenizer)

    def sequence(self) -> ForeignSequence:
        """An empty sequence."""
        return ForeignSequence(self._session, self.manifest)

    def generate_tokens(
        self,
        prompt: npt.NDArray[np.int64],
        *,
        max_new_tokens: int,
        stop_tokens: Iterable[int] | None = None,
    ) -> Iterator[Token]:
        """Greedy tokens after prompt (n,), up to a token of ``stop_tokens``."""
        with self.sequence() as sequence:
            for _ in range(max_new_tokens):
                logits = sequence.append(prompt)[-1]
                token = int(logits.argmax())
                if not np.isfinite(logits).all() or token in (stop_tokens or ()):
                    return
                yield Token(token)
                prompt = np.array([token], dtype=np.int64)


class ForeignSequence:
    """Tokens and their cache."""

    def __init__(self, session: ort.InferenceSession, manifest: Manifest) -> None:
        self._session, self._facts = session, manifest.model
        self._inputs = {value.name for value in session.get_inputs()}
        layers = range(self._facts.num_layers)
        self._names = {
            past_name(layer, kind): present_name(layer, kind)
            for layer in layers
            for kind in ("key", "value")
        }
        self._element, shape = (
            np.dtype(_ELEMENTS[manifest.cache.dtype]),
            (1, self._facts.num_kv_heads, 0, self._facts.head_dim),
        )
        self._types = {kind for kind, name in _TYPES.items() if name == manifest.cache.dtype}
        self._cache: dict[str, Any] = {
            name: tensor(np.empty(shape, dtype=self._element)) for name in self._names
        }
        self.length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cache.clear()

    def append(self, tokens: npt.NDArray[np.int64]) -> Floats:
        """tokens (n,) -> logits (n, vocab)."""
        parts = [
            self._step(tokens[first : first + _CHUNK]) for first in range(0, len(tokens), _CHUNK)
        ]
        return np.concatenate(parts)

    def rewind(self, count: int) -> None:
        """Drop the last ``count`` tokens."""
        self.length -= count
        for name, value in self._cache.items():
            self._cache[name] = tensor(_contents(value, self._element)[:, :, : self.length].copy())

    def _step(self, tokens: npt.NDArray[np.int64]) -> Floats:
        total = self.length + len(tokens)
        feeds = {INPUT_IDS: tokens[None], ATTENTION_MASK: np.ones((1, total), dtype=np.int64)}
        if POSITION_IDS in self._inputs:
            feeds[POSITION_IDS] = np.arange(self.length, total, dtype=np.int64)[None]
        values = {name: tensor(array) for name, array in feeds.items()}
        names = [LOGITS, *self._names.values()]
        try:
            logits, *present = self._session.run_with_ort_values(names, {**values, **self._cache})
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise InferenceError(f"onnxruntime could not run the graph: {error}") from error
        _check(LOGITS, logits, _LOGITS, (1, len(tokens), self._facts.vocab_size))
        shape = (1, self._facts.num_kv_heads, total, self._facts.head_dim)
        for name, value in zip(self._names.values(), present, strict=True):
            _check(name, value, self._types, shape)
        self._cache = dict(zip(self._names, present, strict=True))
        self.length = total
        return np.asarray(logits.numpy()[0], dtype=np.float32)


def _check(name: str, value: ort.OrtValue, types: Collection[str], shape: tuple[int, ...]) -> None:
    """Raise :class:`InferenceError` unless the value's memory is what it will be read as."""
    if not value.is_tensor() or value.data_type() not in types or tuple(value.shape()) != shape:
        found = (
            f"{value.data_type()} of shape {tuple(value.shape())}"
            if value.is_tensor()
            else "no tensor"
        )
        raise InferenceError(
            f"the graph gave {name} as {found}, expected {' or '.join(sorted(types))} of shape "
            f"{shape}: export the model again"
        )


def _contents(value: ort.OrtValue, element: np.dtype[Any]) -> npt.NDArray[Any]:
    """What lies in an OrtValue, not copied: its own ``numpy()`` refuses bfloat16."""
    size = int(np.prod(value.shape())) * element.itemsize
    memory = memoryview((ctypes.c_char * size).from_address(value.data_ptr()))
    return np.frombuffer(memory, dtype=element).reshape(value.shape())


def _check_ports(session: ort.InferenceSession, manifest: Manifest) -> None:
    """Raise :class:`BundleError` unless the graph takes and gives what it will be given and asked
    for, as far as it says so.
    """
    facts = manifest.model
    cached = {kind for kind, name in _TYPES.items() if name == manifest.cache.dtype}
    given = (
        None,
        None if manifest.cache.kind == GROWING else facts.num_kv_heads,
        None,
        facts.head_dim,
    )
    names = [(layer, kind) for layer in range(facts.num_layers) for kind in ("key", "value")]
    inputs = {value.name: value for value in session.get_inputs()}
    counts = [INPUT_IDS, ATTENTION_MASK, *({POSITION_IDS} & set(inputs))]
    if foreign := sorted(set(inputs) - {*counts, *(past_name(*name) for name in names)}):
        raise BundleError(
            f"the graph has an input {foreign[0][:80]!r}, of which nothing is known here: "
            "export the model again"
        )
    for name in counts:
        _check_port(name, inputs.get(name), {"tensor(int64)"}, (None, None))
    outputs = {value.name: value for value in session.get_outputs()}
    _check_port(LOGITS, outputs.get(LOGITS), _LOGITS, (None, None, facts.vocab_size))
    for layer_and_kind in names:
        past, present = past_name(*layer_and_kind), present_name(*layer_and_kind)
        _check_port(past, inputs.get(past), cached, given)
        _check_port(
            present, outputs.get(present), cached, (None, facts.num_kv_heads, None, facts.head_dim)
        )


def _check_port(name: str, port: Any, types: Collection[str], shape: Sequence[int | None]) -> None:
    """Of a dimension that is a name or nothing, the graph says that it
    is known at run time only.
    """
    fits = port is not None and port.type in types and len(port.shape) == len(shape)
    if fits and all(
        not isinstance(has, int) or size is None or has == size
        for has, size in zip(port.shape, shape, strict=True)
    ):
        return
    found = "nothing" if port is None else f"{port.type} of shape {port.shape}"
    expected = (
        f"{' or '.join(sorted(types))} of shape {['?' if size is None else size for size in shape]}"
    )
    raise BundleError(
        f"the graph has {name} as {found}, expected {expected}: export the model again"
    )


def is_export(directory: Path) -> bool:
    """Whether this is a graph with its configuration, as ``optimum-cli``
    leaves it, and no bundle.
    """
    return (
        not (directory / MANIFEST_FILE).exists()
        and (directory / GRAPH_FILE).is_file()
        and (directory / "config.json").is_file()
    )


def described(directory: Path, session: ort.InferenceSession) -> Manifest:
    """What a manifest would say of such a directory.
    Raises :class:`BundleError`, and :class:`~sc2onnx.errors.UnsupportedModelError`.
    """
    path = directory / "config.json"
    try:
        settings = records.read(path)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror}): correct its permissions, or "
            "export the model again"
        ) from error
    except ValueError as error:
        raise BundleError(
            f"{path} is not JSON that can be used ({error}): export the model again"
        ) from error
    config = Starcoder2Config.from_dict(settings)
    inputs = {value.name: value.type for value in session.get_inputs()}
    missing = {INPUT_IDS, ATTENTION_MASK, past_name(0, "key")} - set(inputs)
    if missing:
        raise BundleError(
            f"{directory / GRAPH_FILE} has no input {', '.join(sorted(missing))}, expected a "
            "decoder with a cache: export it with `optimum-cli export onnx --task "
            "text-generation-with-past`"
        )
    layers = sum(name.startswith("past_key_values.") for name in inputs) // 2
    if layers != config.num_hidden_layers:
        raise BundleError(
            f"{directory / GRAPH_FILE} has a cache of {layers} layers, {path} says "
            f"{config.num_hidden_layers}: export the model again"
        )
    cached = inputs[past_name(0, "key")]
    if (dtype := _TYPES.get(cached)) is None:
        raise BundleError(
            f"{directory / GRAPH_FILE} has a cache of {cached}, expected one of "
            f"{', '.join(_TYPES)}: export the model again"
        )
    facts = config.facts(total_parameters(checkpoint_shapes(config)), config.eos_token_ids)
    files = {TOKENIZER_FILE: FileEntry(0, "")} if (directory / TOKENIZER_FILE).is_file() else {}
    origin = Provenance(str(directory), None, None, "optimum")
    return Manifest(facts, dtype, "optimum", 0, CacheLayout(GROWING, dtype), 0, files, origin)
