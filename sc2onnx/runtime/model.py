"""A loaded bundle: the door to everything the runtime does."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Unpack, get_args, overload

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.contract import TOKENIZER_FILE, WEIGHTS_FILE
from sc2onnx.bundle.hub import located
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import (
    BundleNotFoundError,
    ContextLengthError,
    EmptyPromptError,
    InferenceError,
    OutOfMemoryError,
    RequestError,
    Sc2onnxError,
    TokenIdError,
)
from sc2onnx.runtime.arguments import (
    code_files,
    flag,
    one_of,
    optional_text,
    place_of,
    shown,
    some_token_ids,
    stop_strings,
    text,
    texts,
    token_ids,
    whole_number,
)
from sc2onnx.runtime.batch import complete_together
from sc2onnx.runtime.bundle import Bundle, Check
from sc2onnx.runtime.cache import CHUNK, CacheShape, RingCache
from sc2onnx.runtime.decoder import Decoder
from sc2onnx.runtime.device import Device
from sc2onnx.runtime.fitting import Surroundings, budget_of, fitted
from sc2onnx.runtime.forks import not_portable
from sc2onnx.runtime.generate import Completion, Draws, GenerationRules, Row, TextSink, complete
from sc2onnx.runtime.healing import HEALED, Healing, Vocabulary, taken_back
from sc2onnx.runtime.lookup import Lookup, Memory
from sc2onnx.runtime.memory import MemoryFootprint, measure, not_enough
from sc2onnx.runtime.options import GenerationKeywords, SpecialTokens
from sc2onnx.runtime.ort.kernels import CacheType, Kernels, Use, check_cache_type, kept_slots, meant, usable
from sc2onnx.runtime.packing import Packed, find, make, make_in_background
from sc2onnx.runtime.prefix import SEQUENCES, PrefixStore
from sc2onnx.runtime.prepacked import PackedForm
from sc2onnx.runtime.sampling import Sampler, SamplingParameters
from sc2onnx.runtime.sequence import TokenSequence
from sc2onnx.runtime.session import SPIN, Session, Substitute, check_suits, chosen_devices, default_threads
from sc2onnx.runtime.slots import cache_shape
from sc2onnx.runtime.speculate import FLAT, Drafter, StepCosts
from sc2onnx.runtime.stream import Stream, TokenStream
from sc2onnx.runtime.text import Codec, FimOrder, open_codec

MOST_THREADS: Final = 1024
"""Of one step: onnxruntime starts as many as it is told, whether or not the machine has them."""

MOST_SAMPLES: Final = 1024
"""Of one prompt, in one call."""


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
    (:attr:`sc2onnx.runtime.session.Session.steps_agree`), so that the tokens are those of decoding one by one; True: also where near ties
    may go the other way. ``max_batch``: the most prompts of one call that decode together.
    ``check``: how the files are checked, see :data:`sc2onnx.runtime.bundle.Check`. ``prefix_memory``: bytes of finished requests' caches to
    keep for later requests that begin alike; by default what two sequences of full capacity take, 0 keeps none.
    ``kernels``: whether a quantised bundle runs on the kernels of ``sc2onnx-kernels``, see
    :data:`sc2onnx.runtime.ort.kernels.Use`. ``cache_type``: what they keep of keys and values, ``int8`` (with a scale) or
    ``float32``; ``auto`` is int8. ``packed``: whether the weights that are packed for them are kept in the user's cache
    directory, for memory that processes share and a faster start, see :data:`sc2onnx.runtime.packing.Packed`.
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
class Settings:
    """How a model goes about its work, as :func:`load` explains it."""

    prefill_chunk: int = CHUNK
    speculate: bool | None = None
    max_batch: int = 8
    prefix_memory: int | None = None


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


class Model:
    """A loaded StarCoder2, made by :func:`load`. Serves several threads at once, each generation with a cache of its own."""

    def __init__(self, bundle: Bundle, session: Session, cache_shape: CacheShape, settings: Settings, packed: PackedForm | None = None) -> None:
        self._bundle, self._session, self._cache_shape, self._settings, self._packed = bundle, session, cache_shape, settings, packed
        self._speculates = session.steps_agree if settings.speculate is None else settings.speculate
        self._costs, self._memory = StepCosts(FLAT) if session.kernels else StepCosts(), Memory()
        self._facts = bundle.manifest.model
        self._store = PrefixStore(SEQUENCES * cache_shape.nbytes if settings.prefix_memory is None else settings.prefix_memory)
        self._codec: Codec | None = None
        self._lock = threading.Lock()
        self._decoders: list[weakref.ref[Decoder]] = []  # not a WeakSet: those change under whoever iterates them

    def __reduce__(self) -> str:
        raise not_portable(self)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself: sizes, window, precision, provenance, verification."""
        return self._bundle.manifest

    @property
    def kernels(self) -> bool:
        """Whether it runs on the kernels of ``sc2onnx-kernels``."""
        return self._session.kernels is not None

    @property
    def packed(self) -> bool:
        """Whether its weights, packed for the kernels, are mapped from the user's cache directory."""
        return self._packed is not None

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str; the first overloads win
        self, prompt: str, *, n: None = ..., **options: Unpack[GenerationKeywords]
    ) -> Completion: ...

    @overload
    def generate(self, prompt: str, *, n: int, **options: Unpack[GenerationKeywords]) -> list[Completion]: ...  # type: ignore[overload-overlap]

    @overload
    def generate(self, prompt: Sequence[str], *, n: None = ..., **options: Unpack[GenerationKeywords]) -> list[Completion]: ...

    @overload
    def generate(self, prompt: Sequence[str], *, n: int, **options: Unpack[GenerationKeywords]) -> list[list[Completion]]: ...

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        n: int | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_tokens: Iterable[int] | None = None,
        logprobs: bool = False,
        heal: bool = False,
        special_tokens: SpecialTokens = "parse",
    ) -> Completion | list[Completion] | list[list[Completion]]:
        """Continue a prompt, or several together (ragged, each ending on its own): a completion, or
        a list of one for each.

        ``n``: how many samples of each prompt, which then gives a list, also for 1; the prompt is
        computed once for all. Sampling parameters: :class:`SamplingParameters`; greedy by default.
        ``seed``: the same gives the same tokens; each sample and each prompt of a list draws from a
        stream of its own, the first from that of a single prompt, and how many there are changes
        none of them. ``stop``: strings that end the text, not in it. ``stop_tokens`` replaces the
        default set: the checkpoint's end-of-text, ``<file_sep>`` and the fill-in-the-middle tokens.
        ``logprobs``: nats of each token under the unfiltered model; nothing is computed ahead then.
        ``heal``: take the end of a prompt that stops inside a word back, and choose its tokens
        again together with what follows (:mod:`sc2onnx.runtime.healing`); ``text`` begins where the
        prompt ends, ``tokens`` with those that were chosen again. ``special_tokens``: whether
        ``<fim_prefix>`` and its like, spelt out in the prompt, are taken as the special token
        (``"parse"``) or as their characters (``"text"``, for text that is data).

        Raises :class:`~sc2onnx.errors.RequestError` and its subclasses before any work,
        :class:`~sc2onnx.errors.TokenizerError` if the bundle has no tokenizer, and
        :class:`~sc2onnx.errors.InferenceError`.
        """
        sampling = SamplingParameters(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        rules = self._rules(max_new_tokens, sampling, stop, stop_tokens, logprobs)
        alone = isinstance(prompt, str)
        prompts = [text("prompt", prompt)] if isinstance(prompt, str) else texts("prompt", prompt)
        samples = 1 if n is None else whole_number("n", n, 1, MOST_SAMPLES)
        begun = [self._begun(prompt, heal, special_tokens) for prompt in prompts]
        if alone and samples == 1:
            done = [self._complete(self._row(begun[0][0], rules, begun[0][1]))]
        else:
            rows = [
                self._row(ids, rules, healed, drafts=False, spawned=_spawned(number, sample))
                for number, (ids, healed) in enumerate(begun)
                for sample in range(samples)
            ]
            done = self._complete_together(rows, None if n is None else self._store)
        if alone:
            return done[0] if n is None else done
        return done if n is None else [done[i : i + samples] for i in range(0, len(done), samples)]

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_tokens: Iterable[int] | None = None,
        logprobs: bool = False,
        heal: bool = False,
        special_tokens: SpecialTokens = "parse",
    ) -> Stream:
        """Continue one prompt as :meth:`generate` does, as an iterator of pieces that can be
        closed.

        Checked now, computed while it is iterated. Raises what :meth:`generate` raises, and
        :class:`~sc2onnx.errors.InferenceError` while it is iterated.
        """
        sampling = SamplingParameters(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        rules = self._rules(max_new_tokens, sampling, stop, stop_tokens, logprobs)
        ids, healed = self._begun(text("prompt", prompt), heal, special_tokens)
        return self._stream(self._row(ids, rules, healed))

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        path: str | None = None,
        repo: str | None = None,
        files: Mapping[str, str] | None = None,
        order: FimOrder = "psm",
        fit: bool = True,
        prompt_tokens: int | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_tokens: Iterable[int] | None = None,
        logprobs: bool = False,
        heal: bool = False,
    ) -> Completion:
        """What stands between ``prefix`` and ``suffix``, by fill-in-the-middle; what is not
        explained here as in :meth:`generate`.

        ``path`` of the file, ``repo`` name and other ``files`` (path -> code) are optional context,
        in the training format (:func:`sc2onnx.runtime.text.fim_prompt`); all texts are data.
        ``order``: ``"psm"``, prefix first, or ``"spm"``, suffix first, so that a later request
        after typing differs at its end only, and reuses the suffix as well.

        A prompt that would be too long is cut to what is nearest to the cursor
        (:mod:`sc2onnx.runtime.fitting`), and ``used`` of the result says what was left.
        ``prompt_tokens``: the most tokens of the prompt, all of it; by default what the context
        leaves after ``max_new_tokens``, three quarters of it at least. ``fit=False``: what is
        longer than the context is a :class:`~sc2onnx.errors.ContextLengthError` instead.
        """
        sampling = SamplingParameters(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        rules = self._rules(max_new_tokens, sampling, stop, stop_tokens, logprobs)
        code = _surroundings(prefix, suffix, path, repo, files)
        return self._complete(self._infilling(code, rules, order, self._budget(fit, prompt_tokens, rules), heal))

    def stream_infill(
        self,
        prefix: str,
        suffix: str,
        *,
        path: str | None = None,
        repo: str | None = None,
        files: Mapping[str, str] | None = None,
        order: FimOrder = "psm",
        fit: bool = True,
        prompt_tokens: int | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_tokens: Iterable[int] | None = None,
        logprobs: bool = False,
        heal: bool = False,
    ) -> Stream:
        """Fill in the middle as :meth:`infill` does, as an iterator of pieces that can be closed.

        Checked now, computed while it is iterated.
        """
        sampling = SamplingParameters(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        rules = self._rules(max_new_tokens, sampling, stop, stop_tokens, logprobs)
        code = _surroundings(prefix, suffix, path, repo, files)
        return self._stream(self._infilling(code, rules, order, self._budget(fit, prompt_tokens, rules), heal))

    def generate_tokens(
        self,
        prompt: Iterable[int] | npt.NDArray[np.integer],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParameters | None = None,
        stop_tokens: Iterable[int] | None = None,
        logprobs: bool = False,
    ) -> TokenStream:
        """Continue token ids with token ids, as an iterator that can be closed; needs no tokenizer.

        ``stop_tokens``: by default the checkpoint's end-of-text. Checked now, computed while it is
        iterated; closing it, from any thread, frees the cache, or leaves it to later requests.
        """
        if not isinstance(sampling, SamplingParameters | None):
            raise RequestError(f"sampling is {shown(sampling)}, expected SamplingParameters or None")
        stops = frozenset(self._facts.eos_token_ids) if stop_tokens is None else self._stop_ids(stop_tokens)
        rules = GenerationRules(max_new_tokens, sampling or SamplingParameters(), (), stops, logprobs)
        row = self._row(prompt, rules, text=False)
        return TokenStream(self._opened(self._store), row)

    def sequence(self) -> TokenSequence:
        """An empty sequence: append token ids, read logits, rewind."""
        return TokenSequence(self._opened(), self._facts)

    @property
    def codec(self) -> Codec:
        """The tokenizer, opened when it is first asked for.

        Raises :class:`~sc2onnx.errors.TokenizerError` if the bundle has none that works, and
        :class:`~sc2onnx.errors.BundleIntegrityError` if its file is another by now.
        """
        self._session.process.check()  # before a lock that another thread may have held at the fork
        with self._lock:
            if self._codec is None:
                codec = open_codec(self._bundle.tokenizer)
                self._bundle.check_unchanged(TOKENIZER_FILE)  # it may have been a long time since
                self._codec = codec
            return self._codec

    @property
    def rewindable(self) -> int:
        """Tokens that a sequence can rewind exactly at any depth, by its cache capacity; often it can rewind more."""
        return self._cache_shape.rewindable

    def forget(self) -> None:
        """Free the caches and texts that finished requests left for later ones. Requests that are under way keep theirs."""
        self._session.process.check()
        self._store.forget()
        self._memory.clear()

    def memory_footprint(self) -> MemoryFootprint:
        """Bytes of weights and of caches, open and kept, by construction and as resident now."""
        self._session.process.check()
        with self._lock:
            decoders = [decoder for reference in self._decoders if (decoder := reference()) is not None]
        caches = [*(decoder.cache for decoder in decoders), *self._store.caches]
        cache = sum(cache.nbytes for cache in {id(cache): cache for cache in caches}.values())  # one may be changing hands
        files = [self._bundle.weights] if self._packed is None else [self._bundle.weights, self._packed.data]
        return measure(self._bundle.manifest.weight_bytes, cache, files)

    def _rules(
        self,
        max_new_tokens: int,
        sampling: SamplingParameters,
        stop: str | Sequence[str] | None,
        stop_tokens: Iterable[int] | None,
        logprobs: bool,
    ) -> GenerationRules:
        usual = self.codec.stop_ids() | set(self._facts.eos_token_ids)
        stops = usual if stop_tokens is None else self._stop_ids(stop_tokens)
        return GenerationRules(max_new_tokens, sampling, stop_strings(stop), stops, logprobs)

    def _stop_ids(self, tokens: Iterable[int]) -> frozenset[int]:
        vocab = self._facts.vocab_size
        ids = token_ids(tokens, vocab, vocab, name="stop_tokens")
        if len(ids) > vocab:  # some may not have been taken
            raise TokenIdError(f"stop_tokens are more than the {vocab} tokens that there are: give each once")
        return frozenset(ids.tolist())

    def _begun(self, text: str, heal: bool, special_tokens: SpecialTokens) -> tuple[list[int], str]:
        """Token ids of a text, and the end of it that is to be written again."""
        one_of("special_tokens", special_tokens, get_args(SpecialTokens))
        special = special_tokens == "parse"
        self._check_length(len(text))
        before, healed = self._cut(text, heal, special=special)
        return self.codec.encode(before, special=special, framed=True), healed

    def _infilling(self, code: Surroundings, rules: GenerationRules, order: FimOrder, budget: int | None, heal: bool) -> Row:
        """The row that fills in the middle. ``budget``: tokens that the prompt may have; None: it
        goes in whole.
        """
        one_of("order", order, get_args(FimOrder))
        before, healed = self._cut(code.prefix, heal, special=False)
        code = replace(code, prefix=before)
        if budget is None:
            self._check_length(code.characters)
            return self._row(code.prompt(self.codec, order), rules, healed, used=code)
        prompt, used = fitted(self.codec, code, budget, order)
        return self._row(prompt, rules, healed, used=used)

    def _budget(self, fit: bool, prompt_tokens: int | None, rules: GenerationRules) -> int | None:
        """Tokens that an infilling prompt may have; None: it is not cut."""
        if prompt_tokens is not None:
            prompt_tokens = whole_number("prompt_tokens", prompt_tokens, 1)
        if flag("fit", fit):
            return budget_of(self._facts.context_length, rules.max_new_tokens, prompt_tokens)
        if prompt_tokens is not None:
            raise RequestError(f"fit is False and prompt_tokens is {shown(prompt_tokens)}, expected one of them")
        return None

    def _check_length(self, characters: int) -> None:
        """Refuse a text that cannot fit before it is tokenized, which takes seconds a megabyte.

        Raises :class:`~sc2onnx.errors.ContextLengthError`.
        """
        context = self._facts.context_length
        if characters <= 8 * context or (longest := self.codec.longest_token) is None:
            return
        if characters > longest * context:
            raise ContextLengthError(
                f"the prompt is {characters} characters, the model's context holds {context} tokens of at most {longest} characters: shorten it"
            )

    def _cut(self, text: str, heal: bool, *, special: bool) -> tuple[str, str]:
        """A text in two: what stays, and the end that is to be written again, none unless it is to ``heal``."""
        if not flag("heal", heal):
            return text, ""
        near = text[text.find("\n", len(text) - HEALED) + 1 :] if len(text) > HEALED else text
        end = taken_back(self.codec, self._vocabulary, self.codec.encode(near[-HEALED:], special=special))
        return text[: len(text) - len(end)], end

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.codec, self._facts.vocab_size)

    def _row(
        self,
        prompt: Iterable[int] | npt.NDArray[np.integer],
        rules: GenerationRules,
        healed: str = "",
        *,
        text: bool = True,
        drafts: bool = True,
        spawned: tuple[int, ...] = (),
        used: Surroundings | None = None,
    ) -> Row:
        """A checked row: the prompt fits the context.

        ``healed``: what it writes first. ``drafts``: it decodes alone, where they are of use; not
        for log probabilities, which would then depend on how long a draft was, and so on time.
        ``spawned``: see :class:`Sampler`.
        """
        context = self._facts.context_length
        try:
            ids = some_token_ids(prompt, self._facts.vocab_size, context)
        except EmptyPromptError:
            raise EmptyPromptError("the prompt is empty, expected some text: <|endoftext|> alone starts a new document") from None
        if len(ids) > context:
            raise ContextLengthError(f"the prompt is {len(ids)} tokens, the model's context holds {context}: shorten it")
        sampler: Draws = Sampler(rules.sampling, ids, self._facts.vocab_size, spawned)
        if healed:
            sampler = Healing(sampler, self.codec, self._vocabulary, healed)
        sink = TextSink(self.codec, rules.stop, skip=len(healed)) if text else None
        drafts = drafts and self._speculates and not rules.logprobs
        drafter = Drafter(Lookup.of(ids.tolist(), self._memory), self._costs) if drafts else None
        return Row(ids, rules, sampler, context, sink, drafter, used=used)

    def _decoder(self, store: PrefixStore | None = None) -> Decoder:
        """A fresh one. ``store``: where it looks for its prompt's beginning and leaves its cache; None: nowhere."""
        self._session.process.check()
        cache = RingCache(self._cache_shape, rows=1, storage=self._session.storage)
        decoder = Decoder(self._session, self._facts, cache, self._settings.prefill_chunk, store if store and store.limit else None)
        with self._lock:
            self._decoders = [reference for reference in self._decoders if reference() is not None]
            self._decoders.append(weakref.ref(decoder))
        return decoder

    def _opened(self, store: PrefixStore | None = None) -> Decoder:
        """A fresh decoder as of :meth:`_decoder`. Raises :class:`OutOfMemoryError` where its cache finds no room."""
        try:
            return self._decoder(store)
        except MemoryError as error:
            raise not_enough(error) from error

    def _complete(self, row: Row) -> Completion:
        decoder = self._opened(self._store)
        try:
            return complete(row, decoder)
        except MemoryError as error:
            raise not_enough(error) from error
        finally:
            decoder.close()

    def _complete_together(self, rows: Sequence[Row], store: PrefixStore | None) -> list[Completion]:
        """``store``: for prompts of several rows, as in :meth:`_decoder`."""
        try:
            return complete_together(rows, self._decoder, self._settings.max_batch, lambda: self._decoder(store))
        except MemoryError as error:
            raise not_enough(error) from error

    def _stream(self, row: Row) -> Stream:
        return Stream(self._opened(self._store), row)


def _surroundings(prefix: str, suffix: str, path: str | None, repo: str | None, files: Mapping[str, str] | None) -> Surroundings:
    """The code around a cursor, checked to be text."""
    return Surroundings(
        text("prefix", prefix),
        text("suffix", suffix),
        optional_text("path", path),
        optional_text("repo", repo),
        code_files(files),
    )


def _spawned(number: int, sample: int) -> tuple[int, ...]:
    """Which of a seed's streams a sample of the ``number``-th prompt draws from.

    The first sample of the first prompt has the seed's own, as a single one has; those of other
    prompts (1,), (2,) and so on; further samples (0, 1), (0, 2), (1, 1).
    """
    if sample:
        return (number, sample)
    return (number,) if number else ()
