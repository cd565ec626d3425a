"""One forward pass with the cache bound in place: through one graph, or through the
stages of a model that is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.contract import (
    GREEDY_IDS,
    INPUT_IDS,
    LOGITS,
    NUM_LOGITS,
    PAST_LENGTHS,
)
from sc2onnx.bundle.kernels import CACHE_ROWS, STEP_LENGTHS
from sc2onnx.errors import CancelledError, InferenceError
from sc2onnx.runtime.exits import computing
from sc2onnx.runtime.ort.bound_graph import BoundGraph
from sc2onnx.runtime.ort.graph import Graph


class Step:
    """One forward pass with the cache bound in place.
    Not for two threads at once; :meth:`cancel` is for any thread.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        vocab: int,
        buffers: Sequence[Any],
        adapters: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """``graphs``: in order; ``buffers``: (key, value) by layer, over all of them;
        ``adapters``: the matrices of those that there are, by input.
        """
        self._held = list(buffers)  # the binding knows addresses only: the arrays must outlive it
        self._vocab = vocab
        self._parts = [
            BoundGraph(
                graph, buffers[2 * graph.layers.start : 2 * graph.layers.stop], adapters or {}
            )
            for graph in graphs
        ]
        self._cancelled = False

    def run(
        self,
        tokens: npt.NDArray[np.int64],
        past: npt.NDArray[np.int64],
        num_logits: int,
        *,
        ids: bool = False,
        ragged: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
        adapters: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> npt.NDArray[Any]:
        """tokens (batch, step) after past (batch,) cached ones -> logits float32
        (batch, num_logits, vocab).

        ``ids``: instead the most likely tokens, int64 (batch, num_logits), -1 where logits are no
        numbers; for graphs that choose. ``ragged``: of the runs that the tokens (1, n) are, their
        lengths and their rows of the cache; for graphs for the kernels. ``adapters``: inputs that
        say which token is computed with which adapter. Raises
        :class:`InferenceError`, or :class:`CancelledError` after :meth:`cancel`.
        """
        if num_logits == 0 and self._parts[-1].on_gpu:  # kernels of a GPU need not take nothing
            return self.run(tokens, past, 1, ids=ids, adapters=adapters)[:, :0]
        inputs = {
            INPUT_IDS: tokens,
            PAST_LENGTHS: past,
            NUM_LOGITS: np.array([num_logits], dtype=np.int64),
        }
        if ragged is not None:
            inputs[STEP_LENGTHS], inputs[CACHE_ROWS] = ragged
        inputs |= adapters or {}
        feeds = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        shape = (tokens.shape[0], num_logits)
        result = (
            np.empty(shape, dtype=np.int64)
            if ids
            else np.empty((*shape, self._vocab), dtype=np.float32)
        )
        hidden: Any = None
        try:
            with computing(self.cancel):
                for part in self._parts[:-1]:
                    hidden = part.run(feeds, hidden, None, "")
                return np.asarray(
                    self._parts[-1].run(feeds, hidden, result, GREEDY_IDS if ids else LOGITS)
                )
        except CancelledError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            if self._cancelled:
                raise CancelledError("the sequence was closed while it was computing") from None
            raise InferenceError(f"onnxruntime could not run the graph: {error}") from error

    def cancel(self) -> None:
        """Make a running and every later :meth:`run` stop with :class:`CancelledError`,
        within about one operator.
        """
        self._cancelled = True
        for part in self._parts:
            part.cancel()
