"""A bundle -> a model: where it runs, on which kernels, over which weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from sc2onnx.bundle.contract import WEIGHTS_FILE
from sc2onnx.bundle.hub import located
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import (
    BundleNotFoundError,
    InferenceError,
    OutOfMemoryError,
    RequestError,
    Sc2onnxError,
)
from sc2onnx.runtime.arguments import flag, one_of, optional_text, place_of, shown, whole_number
from sc2onnx.runtime.cache.shape import CHUNK
from sc2onnx.runtime.cache.slots import cache_shape
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.opening.bundle import Bundle, Check
from sc2onnx.runtime.ort.device_map import check_suits, chosen_devices
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.kernels import (
    CacheType,
    Kernels,
    Use,
    check_cache_type,
    kept_slots,
    meant,
    usable,
)
from sc2onnx.runtime.ort.loading import Substitute
from sc2onnx.runtime.ort.options import SPIN, default_threads
from sc2onnx.runtime.ort.packed_form import PackedForm
from sc2onnx.runtime.ort.packing import Packed, find, make, make_in_background
from sc2onnx.runtime.ort.session import Session
from sc2onnx.runtime.settings import Settings

MOST_THREADS: Final = 1024
"""Of one step: onnxruntime starts as many as it is told, whether or not the machine has them."""


def load(
    bundle: str | Path,
    *,
    revision: str | None = None,
    device: str = "cpu",
    device_map: Sequence[str] | None = None,
    threads: int | None = None,
    spin: float = SPIN,
    cache_capacity: int | None = None,
    prefill_chunk: int = CHUNK,
    speculate: bool | None = None,
    max_batch: int = 8,
    check: Check = "auto",
    prefix_memory: int | None = None,
    packed: Packed = "auto",
    cuda_graphs: bool = True,
    kernels: Use = "auto",
    cache_type: CacheType = "auto",
) -> Model:
    """Load a bundle: a directory, or a hub id ``owner/name``, of which ``revision`` is a branch, tag or commit.

    ``device``: ``cpu``, ``cuda``, ``cuda:1`` (the second GPU) or ``auto``. ``device_map``: instead, one for each stage of a bundle that is cut.
    ``threads``: for one step; by default one per processor this process may use, quotas of its
    control groups respected. ``spin``: seconds that they look for work after a step
    before they sleep; 0 lets them sleep at once. ``cache_capacity``: the most slots of a
    sequence's cache, at least the sliding window; by default window + prefill_chunk - 1 (rounded up), at most the context, which a bundle
    for a GPU needs.
    ``prefill_chunk``: tokens of a prompt computed at once. ``speculate``: whether tokens that the text suggests are computed ahead, several
    in one step; they count only where the model draws the same. None: where a step of several gives the same numbers
    (:attr:`sc2onnx.runtime.ort.session.Session.steps_agree`), so that the tokens are those of decoding one by one; True: also where near ties
    may go the other way. ``max_batch``: the most prompts of one call that decode together.
    ``check``: how the files are checked, see :data:`sc2onnx.runtime.opening.bundle.Check`. ``prefix_memory``: bytes of finished requests' caches to
    keep for later requests that begin alike; by default what two sequences of full capacity take, 0 keeps none.
    ``kernels``: whether a quantised bundle runs on the kernels of ``sc2onnx-kernels``, see
    :data:`sc2onnx.runtime.ort.kernels.Use`. ``cache_type``: what they keep of keys and values, ``int8`` (with a scale) or
    ``float32``; ``auto`` is int8. ``packed``: whether the weights that are packed for them are kept in the user's cache
    directory, for memory that processes share and a faster start, see :data:`sc2onnx.runtime.ort.packing.Packed`.
    ``cuda_graphs``: whether a GPU's steps of one token are captured and replayed.

    Raises :class:`~sc2onnx.errors.BundleError`, :class:`~sc2onnx.errors.HubError`,
    :class:`~sc2onnx.errors.DeviceError`, :class:`~sc2onnx.errors.InferenceError` and :class:`~sc2onnx.errors.RequestError` for impossible
    sizes, with ``packed="now"`` also :class:`~sc2onnx.errors.OutputError`, with ``kernels="on"`` also
    :class:`~sc2onnx.errors.MissingDependencyError`. Warns (:class:`UserWarning`) if the bundle was made for another
    device and is slow on this one.
    """
    one_of("packed", packed, get_args(Packed))
    one_of("check", check, get_args(Check))
    prefill_chunk, max_batch = whole_number("prefill_chunk", prefill_chunk, 1), whole_number("max_batch", max_batch, 1)
    if threads is not None:
        threads = whole_number("threads", threads, 1, MOST_THREADS)
    if cache_capacity is not None:
        cache_capacity = whole_number("cache_capacity", cache_capacity, 1)
    if prefix_memory is not None:
        prefix_memory = whole_number("prefix_memory", prefix_memory, 0)
    if isinstance(spin, bool) or not isinstance(spin, (int, float)) or not 0 <= spin <= 1:
        raise RequestError(f"spin is {shown(spin)}, expected 0 to 1 second")
    if speculate is not None:
        flag("speculate", speculate)
    flag("cuda_graphs", cuda_graphs)
    if device_map is not None and not isinstance(device_map, (list, tuple)):
        raise RequestError(f"device_map is {shown(device_map)}, expected a list of devices, one for each stage")
    optional_text("revision", revision)
    opened = Bundle.open(_located(bundle, revision), check)
    devices = chosen_devices(device, device_map, opened.manifest)
    check_suits(opened.manifest, devices)
    settings = Settings(prefill_chunk, speculate, max_batch, prefix_memory)
    place = Place(devices, threads or default_threads(), spin, cuda_graphs, kernels, cache_type)
    library = place.library(opened.manifest)
    if packed == "now" and library:
        make(opened, library, place.threads)
    form = None if packed == "off" or library is None else find(opened, library)
    model = open_model(opened, place=place, cache_capacity=cache_capacity, settings=settings, packed=form)
    if packed == "auto" and library and not model.packed:
        make_in_background(opened, library)
    return model


def _located(bundle: str | Path, revision: str | None) -> Path:
    """The directory of a bundle; what the system says of an impossible path is ours to say."""
    place = place_of("bundle", bundle)
    try:
        return located(place, revision)
    except Sc2onnxError:
        raise
    except OSError as error:
        raise BundleNotFoundError(f"{shown(place)} cannot be looked up ({error.strerror}): correct the path") from error


@dataclass(frozen=True, slots=True)
class Place:
    """What a model runs on, as :func:`load` explains it: a device for each stage, and the processors' part in it. No devices: the CPU."""

    devices: tuple[Device, ...] = ()
    threads: int = field(default_factory=default_threads)
    spin: float = SPIN
    cuda_graphs: bool = True
    kernels: Use = "auto"
    cache_type: CacheType = "auto"

    def library(self, manifest: Manifest) -> Kernels | None:
        """The kernels that a bundle is to run on. Raises as :func:`~sc2onnx.runtime.ort.kernels.usable`."""
        return usable(self.kernels, manifest, self.devices)

    def session(self, bundle: Bundle, instead: Sequence[Substitute] = (), library: Kernels | None = None, packed: Path | None = None) -> Session:
        """The bundle's graphs, loaded; on the kernels of a ``library``, those for them, with weights ``packed`` in a file."""
        devices = self.devices or (Device(),) * len(bundle.graphs)
        return Session(
            bundle,
            self.threads,
            devices,
            instead=instead,
            cuda_graphs=self.cuda_graphs,
            spin=self.spin,
            kernels=library,
            packed=packed,
        )


def open_model(
    bundle: Bundle,
    graphs: Sequence[bytes] = (),
    *,
    place: Place | None = None,
    cache_capacity: int | None = None,
    settings: Settings | None = None,
    packed: PackedForm | None = None,
) -> Model:
    """The model of an open bundle, the rest as in :func:`load`.

    ``graphs``: in the place of the bundle's own, over its weights, on ONNX Runtime's own kernels. ``packed``: its weights,
    to be used if that works. Warns (:class:`UserWarning`) where kernels that nobody insists on refuse the bundle.
    """
    settings, place = settings or Settings(), place or Place()
    library = None if graphs else place.library(bundle.manifest)
    assert library or packed is None, "weights are packed for the kernels"
    if library is not None:
        shape = cache_shape(bundle.manifest, settings.prefill_chunk, cache_capacity, kept_slots(place.cache_type))
        try:
            session = _open_packed(bundle, packed, place, library) if packed else None
            packed = packed if session else None
            session = session or place.session(bundle, library=library)
            bundle.check_unchanged(*bundle.manifest.kernel_graphs, WEIGHTS_FILE)
            return Model(bundle, session, shape, settings, packed)
        except InferenceError as error:
            if meant(place.kernels) == "on" or isinstance(error, OutOfMemoryError):
                raise
            warnings.warn(f"the bundle runs without sc2onnx-kernels, which refuse it: {error}", stacklevel=3)
    return _open_without(bundle, graphs, place, cache_capacity, settings)


def _open_without(bundle: Bundle, graphs: Sequence[bytes], place: Place, capacity: int | None, settings: Settings) -> Model:
    """The model without our kernels."""
    check_cache_type(place.cache_type, bundle.manifest.cache.dtype)
    shape = cache_shape(bundle.manifest, settings.prefill_chunk, capacity)
    session = place.session(bundle, [Substitute(graph, bundle.directory) for graph in graphs])
    bundle.check_unchanged(*bundle.manifest.graphs, WEIGHTS_FILE)
    return Model(bundle, session, shape, settings)


def _open_packed(bundle: Bundle, form: PackedForm, place: Place, library: Kernels) -> Session | None:
    """The session over packed weights; one that cannot be had is not kept either."""
    try:
        session = place.session(bundle, library=library, packed=form.data)
        if form.unchanged:
            return session
    except InferenceError:
        pass
    form.discard()
    return None
