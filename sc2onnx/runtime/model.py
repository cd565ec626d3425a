"""A loaded bundle: the door to everything the runtime does."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Unpack, overload

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.runtime.adapter import Adapter
from sc2onnx.runtime.adapters import Adapters
from sc2onnx.runtime.arguments import texts
from sc2onnx.runtime.cache.shape import CacheShape
from sc2onnx.runtime.chat.chats import Chats
from sc2onnx.runtime.chat.conversation import Message
from sc2onnx.runtime.chat_options import ChatKeywords, ChatOptions
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.engine.assembly import engine_over
from sc2onnx.runtime.engine.costs import FLAT, StepCosts
from sc2onnx.runtime.engine.lookup import Memory
from sc2onnx.runtime.engine.sequence import TokenSequence
from sc2onnx.runtime.engine.streams import Stream, TokenStream
from sc2onnx.runtime.engine.task import Task, completed
from sc2onnx.runtime.forks import not_portable
from sc2onnx.runtime.infill_options import InfillKeywords, InfillOptions
from sc2onnx.runtime.lazy_codec import LazyCodec
from sc2onnx.runtime.load_options import LoadOptions
from sc2onnx.runtime.memory import MemoryFootprint, measure
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.options import GenerationKeywords, GenerationOptions, sample_count
from sc2onnx.runtime.ort.packed_form import PackedForm
from sc2onnx.runtime.ort.session import Session
from sc2onnx.runtime.request import Drafting, Requests
from sc2onnx.runtime.results import Completion
from sc2onnx.runtime.text.codec import Codec


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
        self._bundle, self.session, self._packed = bundle, session, packed
        """``session``: its graphs, loaded."""
        self.cache_shape = cache_shape
        """The cache of one sequence."""
        self.speculates = session.steps_agree if options.speculate is None else options.speculate
        """Whether tokens that the text suggests are computed ahead."""
        costs = StepCosts(FLAT) if session.kernels else StepCosts()
        exact = session.kernels is not None or bundle.manifest.quantization is None
        drafting = Drafting(Memory(), costs, adapted=exact or bool(options.speculate))
        self._memory = drafting.memory
        facts, self._codec = bundle.manifest.model, LazyCodec(bundle, session.process)
        self.engine = engine_over(session, cache_shape, options, costs)
        self._adapters = Adapters(facts, session, self.engine)
        guesses = drafting if self.speculates else None
        self.requests = Requests(facts, self._codec, guesses, self._adapters.called)
        self.chats = Chats(bundle.contents, self._codec, self.requests)
        """Its conversations: templates, and prompts made with them."""
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
        return self.session.kernels is not None

    @property
    def packed(self) -> bool:
        """Whether its weights, packed for the kernels, are mapped from
        the user's cache directory.
        """
        return self._packed is not None

    @overload
    # a str is a sequence of str; the first overloads win
    def generate(  # type: ignore[overload-overlap]
        self, prompt: str, *, n: None = ..., **options: Unpack[GenerationKeywords]
    ) -> Completion: ...

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: str, *, n: int, **options: Unpack[GenerationKeywords]
    ) -> list[Completion]: ...

    @overload
    def generate(
        self, prompt: Sequence[str], *, n: None = ..., **options: Unpack[GenerationKeywords]
    ) -> list[Completion]: ...

    @overload
    def generate(
        self, prompt: Sequence[str], *, n: int, **options: Unpack[GenerationKeywords]
    ) -> list[list[Completion]]: ...

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
        single = isinstance(prompt, str)
        prompts = [prompt] if isinstance(prompt, str) else texts("prompt", prompt)
        samples = sample_count(n)
        begun = [self.requests.prompts.of_text(each, chosen) for each in prompts]
        done = completed(self.engine, self.requests.whole_rows(begun, samples, chosen))
        if single:
            return done[0] if n is None else done
        return done if n is None else [done[i : i + samples] for i in range(0, len(done), samples)]

    def infill(self, prefix: str, suffix: str, **options: Unpack[InfillKeywords]) -> Completion:
        """What stands between ``prefix`` and ``suffix``, by fill-in-the-middle. ``options``: see
        :class:`~sc2onnx.runtime.infill_options.InfillOptions`.

        Raises what :meth:`generate` raises.
        """
        chosen = InfillOptions.of(options)
        row = self.requests.infilling((prefix, suffix), chosen, "whole")
        return completed(self.engine, [row])[0]

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatKeywords]) -> Completion:
        """The next message of a conversation, by the checkpoint's own chat template.

        ``messages``: ``{"role": "user", "content": "..."}`` and so on, the last of them to be
        answered. ``options``: see :class:`~sc2onnx.runtime.chat_options.ChatOptions`. What was
        computed of a conversation serves its next turn.

        Raises what :meth:`generate` raises, :class:`~sc2onnx.errors.ChatTemplateError` if the
        bundle has no chat template, as a base model's, or one that does not end within bounds, and
        :class:`~sc2onnx.errors.MissingDependencyError` without jinja2.
        """
        row = self.chats.row(messages, ChatOptions.of(options), "whole")
        return completed(self.engine, [row])[0]

    def stream_chat(self, messages: Sequence[Message], **options: Unpack[ChatKeywords]) -> Stream:
        """The next message of a conversation as :meth:`chat` gives it, as an iterator of pieces
        that can be closed.

        Checked now, computed while it is iterated.
        """
        return Stream(self.engine, self.chats.row(messages, ChatOptions.of(options), "pieces"))

    def submit_chat(
        self,
        messages: Sequence[Message],
        *,
        replaces: Hashable | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Task:
        """Ask for what :meth:`chat` gives, and go on, as :meth:`submit` does."""
        row = self.chats.row(messages, ChatOptions.of(options), "whole", replaces)
        return Task(self.engine, row, submitted=True)

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

    def stream_infill(self, prefix: str, suffix: str, **options: Unpack[InfillKeywords]) -> Stream:
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
        adapter: str | None = None,
    ) -> TokenStream:
        """Continue token ids with token ids, as an iterator that can be closed; needs no tokenizer.

        ``stop_tokens``: by default the checkpoint's end-of-text. ``adapter``: the name of one that
        is loaded. Checked now, computed while it is iterated; closing it, from any thread, frees
        the cache, or leaves it to later requests.
        """
        rules = self.requests.token_rules(max_new_tokens, sampling, stop_tokens, logprobs, adapter)
        return TokenStream(self.engine, self.requests.row(prompt, rules, "tokens"))

    def sequence(self, *, adapter: str | None = None) -> TokenSequence:
        """An empty sequence: append token ids, read logits, rewind. ``adapter``: the name of one
        that is loaded. Raises :class:`~sc2onnx.errors.RequestError` for another name, and
        :class:`~sc2onnx.errors.OutOfMemoryError`.
        """
        return TokenSequence(self.engine, self.manifest.model, self.requests.adapted(adapter))

    def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Load an adapter that ``sc2onnx adapter convert`` made, so that requests can name it:
        ``generate(prompt, adapter=name)``, and every other way to ask.

        ``path``: of its directory. ``name``: by default that of the directory. Several can be
        loaded, and rows of one batch may use different ones. Requests under way go on, and wait for
        a moment between two steps: a model without sc2onnx-kernels opens another graph for its
        first adapter. Raises :class:`~sc2onnx.errors.AdapterError` for files that are malformed or
        do not fit the model, and where the bundle takes no adapters,
        :class:`~sc2onnx.errors.RequestError` for a name that is taken,
        :class:`~sc2onnx.errors.InferenceError` and :class:`~sc2onnx.errors.OutOfMemoryError`.
        """
        return self._adapters.load(path, name)

    def drop_adapter(self, name: str) -> None:
        """Let an adapter go. Requests that use it go on with it until they end, and then its memory
        is free. Raises :class:`~sc2onnx.errors.RequestError` for a name that is none.
        """
        self._adapters.drop(name)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters that are loaded, by name."""
        return MappingProxyType(dict(self._adapters))

    def start(self, *, bulk: bool = False) -> None:
        """Have a thread of its own compute all requests, so that those who wait only wait: for
        servers. Starting twice is fine. ``bulk``: for jobs, which wait for all of their requests
        together: prompts are computed in whole chunks, which takes less time in all.
        """
        self.engine.start(bulk=bulk)

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
        self.session.process.check()
        self.engine.forget()
        self._memory.clear()

    def memory_footprint(self) -> MemoryFootprint:
        """Bytes of weights, of caches, open and kept, and of adapters, by construction and as
        resident now.
        """
        self.session.process.check()
        files = [self._bundle.weights]
        if self._packed is not None:
            files.append(self._packed.data)
        weights, cache = self._bundle.manifest.weight_bytes, self.engine.nbytes
        return measure(weights, cache, files, self._adapters.nbytes)
