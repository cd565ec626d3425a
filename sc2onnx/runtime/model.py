"""A loaded bundle: the door to everything the runtime does."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Unpack, overload

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import RequestError
from sc2onnx.runtime.arguments import shown, texts, whole_number
from sc2onnx.runtime.cache.shape import CacheShape
from sc2onnx.runtime.choose.sampling import SamplingParameters
from sc2onnx.runtime.engine.costs import FLAT, StepCosts
from sc2onnx.runtime.engine.handle import Stream, Task, TokenStream
from sc2onnx.runtime.engine.lobby import Bounds
from sc2onnx.runtime.engine.lookup import Memory
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.engine.prefix import SEQUENCES, PrefixStore
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.seats import Seats
from sc2onnx.runtime.engine.sequence import TokenSequence
from sc2onnx.runtime.engine.slots import SlotSeats
from sc2onnx.runtime.engine.stacks import StackSeats
from sc2onnx.runtime.forks import not_portable
from sc2onnx.runtime.infill_options import InfillKeywords, InfillOptions
from sc2onnx.runtime.lazy_codec import LazyCodec
from sc2onnx.runtime.load_options import LoadOptions
from sc2onnx.runtime.memory import MemoryFootprint, measure, not_enough
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.options import GenerationKeywords, GenerationOptions, GenerationRules
from sc2onnx.runtime.ort.packed_form import PackedForm
from sc2onnx.runtime.ort.session import Session
from sc2onnx.runtime.request import Drafting, Requests
from sc2onnx.runtime.results import Completion
from sc2onnx.runtime.text.codec import Codec

MOST_SAMPLES: Final = 1024
"""Of one prompt, in one call."""

_MOST_ROWS: Final = 64
"""That decode together on the kernels, whose cache has a slot for each from the start."""

_MORE_SLOTS: Final = 2
"""Slots beyond those that decode together, for what finished requests left."""


class Model:
    """A loaded StarCoder2, made by :func:`~sc2onnx.load`.

    Serves several threads at once: their requests are computed together, by one of the threads that
    wait, or after :meth:`start` by one of the model's own.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        cache_shape: CacheShape,
        options: LoadOptions,
        packed: PackedForm | None = None,
    ) -> None:
        self._bundle, self._session, self._packed = bundle, session, packed
        self.cache_shape = cache_shape
        """The cache of one sequence."""
        self._facts = bundle.manifest.model
        self.speculates = session.steps_agree if options.speculate is None else options.speculate
        """Whether tokens that the text suggests are computed ahead."""
        drafting = Drafting(Memory(), StepCosts(FLAT) if session.kernels else StepCosts())
        self._memory = drafting.memory
        self._codec = LazyCodec(bundle, session.process)
        self.requests = Requests(self._facts, self._codec, drafting if self.speculates else None)
        limit = options.prefix_memory
        store = PrefixStore(SEQUENCES * cache_shape.nbytes if limit is None else limit)
        rows = min(options.max_batch, _MOST_ROWS) if session.kernels else options.max_batch
        context, even = self._facts.context_length, session.even_steps
        bounds = Bounds(rows, min(options.prefill_chunk, context), context, even)
        seats: Seats = StackSeats(session, cache_shape)
        if session.kernels:
            seats = SlotSeats(session, cache_shape, rows + _MORE_SLOTS)
        self.engine = Engine(seats, bounds, store, drafting.costs, session.process)
        weakref.finalize(self, self.engine.stop).atexit = False

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
    def generate(  # type: ignore[overload-overlap]
        self, prompt: str, *, n: int, **options: Unpack[GenerationKeywords]
    ) -> list[Completion]: ...

    @overload
    def generate(self, prompt: Sequence[str], *, n: None = ..., **options: Unpack[GenerationKeywords]) -> list[Completion]: ...

    @overload
    def generate(self, prompt: Sequence[str], *, n: int, **options: Unpack[GenerationKeywords]) -> list[list[Completion]]: ...

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        n: int | None = None,
        **options: Unpack[GenerationKeywords],
    ) -> Completion | list[Completion] | list[list[Completion]]:
        """Continue a prompt, or several together (ragged, each ending on its own): a completion, or
        a list of one for each.

        ``n``: how many samples of each prompt, which then gives a list, also for 1; the prompt is
        computed once for all. ``options``: see
        :class:`~sc2onnx.runtime.options.GenerationOptions`.

        Raises :class:`~sc2onnx.errors.RequestError` and its subclasses before any work,
        :class:`~sc2onnx.errors.TokenizerError` if the bundle has no tokenizer, and
        :class:`~sc2onnx.errors.InferenceError`.
        """
        chosen = GenerationOptions.of(options)
        alone = isinstance(prompt, str)
        prompts = [prompt] if isinstance(prompt, str) else texts("prompt", prompt)
        samples = 1 if n is None else whole_number("n", n, 1, MOST_SAMPLES)
        begun = [self.requests.prompt(each, chosen) for each in prompts]
        done = self._complete(self.requests.whole_rows(begun, samples, chosen))
        if alone:
            return done[0] if n is None else done
        return done if n is None else [done[i : i + samples] for i in range(0, len(done), samples)]

    def _complete(self, rows: Sequence[Row]) -> list[Completion]:
        """All of them, computed together. The first error stops the others."""
        tasks = [Task(self.engine, row, submitted=True) for row in rows]
        try:
            return [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()

    def infill(self, prefix: str, suffix: str, **options: Unpack[InfillKeywords]) -> Completion:
        """What stands between ``prefix`` and ``suffix``, by fill-in-the-middle. ``options``: see
        :class:`~sc2onnx.runtime.infill_options.InfillOptions`.

        Raises what :meth:`generate` raises.
        """
        chosen = InfillOptions.of(options)
        return self._complete([self.requests.infilling((prefix, suffix), chosen, "whole")])[0]

    def submit(
        self,
        prompt: str,
        *,
        replaces: Hashable | None = None,
        **options: Unpack[GenerationKeywords],
    ) -> Task:
        """Ask for what :meth:`generate` gives of one prompt, and go on: ``result()`` of the handle
        waits for the completion, and so does ``await``; ``cancel()`` and ``close()`` end it.

        It is computed beside other requests when somebody waits for any of them, and after
        :meth:`start` in any case. ``replaces``: a newer request with the same key, such as a client
        and its file, takes the place of this one, which then ends as ``"cancelled"``.
        """
        row = self.requests.continuing(prompt, GenerationOptions.of(options), "whole", replaces)
        return Task(self.engine, row, submitted=True)

    def submit_infill(
        self,
        prefix: str,
        suffix: str,
        *,
        replaces: Hashable | None = None,
        **options: Unpack[InfillKeywords],
    ) -> Task:
        """Ask for what :meth:`infill` gives, and go on, as :meth:`submit` does; their keys for
        ``replaces`` are the same ones.
        """
        chosen = InfillOptions.of(options)
        row = self.requests.infilling((prefix, suffix), chosen, "whole", replaces)
        return Task(self.engine, row, submitted=True)

    def stream(self, prompt: str, **options: Unpack[GenerationKeywords]) -> Stream:
        """Continue one prompt as :meth:`generate` does, as an iterator of pieces that can be
        closed.

        Checked now, computed while it is iterated. Raises what :meth:`generate` raises, and
        :class:`~sc2onnx.errors.InferenceError` while it is iterated.
        """
        row = self.requests.continuing(prompt, GenerationOptions.of(options), "pieces")
        return Stream(self.engine, row)

    def stream_infill(
        self,
        prefix: str,
        suffix: str,
        **options: Unpack[InfillKeywords],
    ) -> Stream:
        """Fill in the middle as :meth:`infill` does, as an iterator of pieces that can be closed.

        Checked now, computed while it is iterated.
        """
        chosen = InfillOptions.of(options)
        return Stream(self.engine, self.requests.infilling((prefix, suffix), chosen, "pieces"))

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
        usual = frozenset(self._facts.eos_token_ids)
        stops = usual if stop_tokens is None else self.requests.stop_ids(stop_tokens)
        drawn = sampling or SamplingParameters()
        rules = GenerationRules(max_new_tokens, drawn, (), stops, logprobs)
        return TokenStream(self.engine, self.requests.row(prompt, rules, "tokens"))

    def sequence(self) -> TokenSequence:
        """An empty sequence: append token ids, read logits, rewind. Raises
        :class:`~sc2onnx.errors.OutOfMemoryError`.
        """
        self._session.process.check()
        try:
            return TokenSequence(self.engine, self._facts)
        except MemoryError as error:
            raise not_enough(error) from error

    def start(self) -> None:
        """Have a thread of its own compute all requests, so that those who wait only wait: for
        servers. Starting twice is fine.
        """
        self.engine.start()

    def stop(self) -> None:
        """End the thread of :meth:`start`, after its step. Requests go on when somebody waits."""
        self.engine.stop()

    @property
    def codec(self) -> Codec:
        """The tokenizer, opened when it is first asked for.

        Raises :class:`~sc2onnx.errors.TokenizerError` if the bundle has none that works, and
        :class:`~sc2onnx.errors.BundleIntegrityError` if its file is another by now.
        """
        return self._codec()

    @property
    def rewindable(self) -> int:
        """Tokens that a sequence can rewind exactly at any depth, by its cache capacity; often it
        can rewind more.
        """
        return self.cache_shape.rewindable

    def forget(self) -> None:
        """Free the caches and texts that finished requests left for later ones. Requests that are
        under way keep theirs.
        """
        self._session.process.check()
        self.engine.forget()
        self._memory.clear()

    def memory_footprint(self) -> MemoryFootprint:
        """Bytes of weights and of caches, open and kept, by construction and as resident now."""
        self._session.process.check()
        files = [self._bundle.weights]
        if self._packed is not None:
            files.append(self._packed.data)
        return measure(self._bundle.manifest.weight_bytes, self.engine.nbytes, files)
