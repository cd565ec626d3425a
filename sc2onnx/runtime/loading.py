"""A bundle -> a model: where it runs, on which kernels, over which weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from sc2onnx.bundle.contract import WEIGHTS_FILE
from sc2onnx.bundle.hub import located
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import (
    BundleNotFoundError,
    InferenceError,
    OutOfMemoryError,
    Sc2onnxError,
)
from sc2onnx.runtime.arguments import place_of, shown
from sc2onnx.runtime.cache.slots import cache_shape
from sc2onnx.runtime.load_options import LoadKeywords, LoadOptions
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.opening.bundle import Bundle
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
from sc2onnx.runtime.ort.packing import find, make, make_in_background
from sc2onnx.runtime.ort.session import Session


def load(bundle: str | Path, **options: Unpack[LoadKeywords]) -> Model:
    """Load a bundle: a directory, or a hub id ``owner/name``. ``options``: see
    :class:`~sc2onnx.runtime.load_options.LoadOptions`.

    Raises :class:`~sc2onnx.errors.BundleError`, :class:`~sc2onnx.errors.HubError`,
    :class:`~sc2onnx.errors.DeviceError`, :class:`~sc2onnx.errors.InferenceError` and
    :class:`~sc2onnx.errors.RequestError` for impossible sizes, with ``packed="now"`` also
    :class:`~sc2onnx.errors.OutputError`, with ``kernels="on"`` also
    :class:`~sc2onnx.errors.MissingDependencyError`. Warns (:class:`UserWarning`) if the bundle was
    made for another device and is slow on this one.
    """
    chosen = LoadOptions.of(options)
    opened = Bundle.open(_located(bundle, chosen.revision), chosen.check)
    devices = chosen_devices(chosen.device, chosen.device_map, opened.manifest)
    check_suits(opened.manifest, devices)
    place = Place(
        devices,
        chosen.threads or default_threads(),
        chosen.spin,
        chosen.cuda_graphs,
        chosen.kernels,
        chosen.cache_type,
    )
    library = place.library(opened.manifest)
    if chosen.packed == "now" and library:
        make(opened, library, place.threads)
    form = None if chosen.packed == "off" or library is None else find(opened, library)
    model = open_model(opened, place=place, options=chosen, packed=form)
    if chosen.packed == "auto" and library and not model.packed:
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
        raise BundleNotFoundError(
            f"{shown(place)} cannot be looked up ({error.strerror}): correct the path"
        ) from error


@dataclass(frozen=True, slots=True)
class Place:
    """What a model runs on, as :func:`load` explains it: a device for each stage, and the
    processors' part in it. No devices: the CPU.
    """

    devices: tuple[Device, ...] = ()
    threads: int = field(default_factory=default_threads)
    spin: float = SPIN
    cuda_graphs: bool = True
    kernels: Use = "auto"
    cache_type: CacheType = "auto"

    def library(self, manifest: Manifest) -> Kernels | None:
        """The kernels that a bundle is to run on.
        Raises as :func:`~sc2onnx.runtime.ort.kernels.usable`.
        """
        return usable(self.kernels, manifest, self.devices)

    def session(
        self,
        bundle: Bundle,
        instead: Sequence[Substitute] = (),
        library: Kernels | None = None,
        packed: Path | None = None,
    ) -> Session:
        """The bundle's graphs, loaded; on the kernels of a ``library``, those for them, with
        weights ``packed`` in a file.
        """
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
    options: LoadOptions | None = None,
    packed: PackedForm | None = None,
) -> Model:
    """The model of an open bundle, the rest as in :func:`load`.

    ``graphs``: in the place of the bundle's own, over its weights, on ONNX Runtime's own kernels.
    ``packed``: its weights, to be used if that works. Warns (:class:`UserWarning`) where kernels
    that nobody insists on refuse the bundle.
    """
    options, place = options or LoadOptions(), place or Place()
    library = None if graphs else place.library(bundle.manifest)
    assert library or packed is None, "weights are packed for the kernels"
    if library is not None:
        shape = cache_shape(
            bundle.manifest,
            options.prefill_chunk,
            options.cache_capacity,
            kept_slots(place.cache_type),
        )
        try:
            session = _open_packed(bundle, packed, place, library) if packed else None
            packed = packed if session else None
            session = session or place.session(bundle, library=library)
            bundle.check_unchanged(*bundle.manifest.kernel_graphs, WEIGHTS_FILE)
            return Model(bundle, session, shape, options, packed)
        except InferenceError as error:
            if meant(place.kernels) == "on" or isinstance(error, OutOfMemoryError):
                raise
            warnings.warn(
                f"the bundle runs without sc2onnx-kernels, which refuse it: {error}", stacklevel=3
            )
    return _open_without(bundle, graphs, place, options)


def _open_without(
    bundle: Bundle, graphs: Sequence[bytes], place: Place, options: LoadOptions
) -> Model:
    """The model without our kernels."""
    check_cache_type(place.cache_type, bundle.manifest.cache.dtype)
    shape = cache_shape(bundle.manifest, options.prefill_chunk, options.cache_capacity)
    session = place.session(bundle, [Substitute(graph, bundle.directory) for graph in graphs])
    bundle.check_unchanged(*bundle.manifest.graphs, WEIGHTS_FILE)
    return Model(bundle, session, shape, options)


def _open_packed(
    bundle: Bundle, form: PackedForm, place: Place, library: Kernels
) -> Session | None:
    """The session over packed weights; one that cannot be had is not kept either."""
    try:
        session = place.session(bundle, library=library, packed=form.data)
        if form.unchanged:
            return session
    except InferenceError:
        pass
    form.discard()
    return None
