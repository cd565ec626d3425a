"""A job: rows in, rows out, once each, whatever interrupts it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sc2onnx.batch.checkpoint import Checkpoint
from sc2onnx.batch.identities import told_apart
from sc2onnx.batch.output import Output, locked
from sc2onnx.batch.progress import Place, Progress
from sc2onnx.batch.records import Fields, Record
from sc2onnx.batch.settings import settings_of
from sc2onnx.batch.sources import Reader, input_files
from sc2onnx.batch.tasks import ERROR, HEAD, Task
from sc2onnx.batch.window import Answer, Window
from sc2onnx.errors import OutputError, RequestError
from sc2onnx.runtime.model import Model

COMMIT: Final = 5.0
"""Seconds of work that a fault costs at most, besides the rows that are under way."""

GRACE: Final = 10.0
"""Seconds that rows under way have to end in when the job is asked to stop."""

_LOOK: Final = 0.2
"""Seconds between two looks at whether it is."""


@dataclass(frozen=True, slots=True)
class Job:
    """``inputs``: files of rows and directories of such; ``output``: the file to make; ``renamed``:
    the input's names of fields, by the task's; ``restart``: begin anew what was begun;
    ``fail_fast``: stop at the first row that cannot be computed.
    """

    inputs: Sequence[str | Path]
    output: Path
    task: Task
    renamed: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False
    fail_fast: bool = False


def run(
    load: Callable[[], Model],
    job: Job,
    *,
    progress: Progress | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Do a job, or go on with it, and say how far it is: its state is ``"done"`` unless
    ``stopping`` came true. ``load``: gives the model, once everything else was checked.

    Raises :class:`~sc2onnx.errors.RequestError` and :class:`~sc2onnx.errors.OutputError`, with all
    rows kept that came before, and what ends every request of the model.
    """
    with locked(job.output) as output:
        fields = Fields.of(job.task.fields, job.renamed)
        files = input_files(job.inputs, job.output)
        model = load()
        job.task.check(model)
        done = output.open(settings_of(model, job.task, files, fields), restart=job.restart)
        if done.state == "under way":
            work = _Work(model, job, output, Reader(files, fields), progress or Progress(None))
            if not work.done(stopping):
                return output.checkpoint
        output.finish({**HEAD, **job.task.columns, **ERROR})
        return output.checkpoint


class _Work:
    """What is left of a job."""

    def __init__(
        self, model: Model, job: Job, output: Output, reader: Reader, progress: Progress
    ) -> None:
        self._model, self._job, self._output, self._reader = model, job, output, reader
        self._progress = progress
        self._committed = time.monotonic()

    def done(self, stopping: Callable[[], bool]) -> bool:
        """Do it. Whether all of it is done, and not stopped before."""
        records = told_apart(self._reader)
        if not self._skipped(records, stopping):
            return False
        self._progress.begin(self._place)
        threaded = self._model.engine.threaded
        self._model.start(bulk=True)
        window = Window(self._model, self._job.task, records)
        try:
            whole = self._worked(window, stopping)
        except BaseException:
            with suppress(OutputError):  # the first error is the one to tell
                self._output.commit()
            raise
        finally:
            window.close()
            if not threaded:
                self._model.stop()
        self._output.commit()
        return whole

    @property
    def _place(self) -> Place:
        return Place(self._output.checkpoint, self._reader.position)

    def _skipped(self, records: Iterator[Record], stopping: Callable[[], bool]) -> bool:
        """Pass over the rows that are done. Whether that was not stopped."""
        count = self._output.checkpoint.rows
        for number, _ in enumerate(islice(records, count), 1):
            if number == count or stopping():
                return number == count
        if count:
            found = f"the input has fewer than the {count:,} rows that are done"
            raise RequestError(f"{found}: somebody changed it, begin the job anew (--restart)")
        return True

    def _worked(self, window: Window, stopping: Callable[[], bool]) -> bool:
        """Whether all rows were written."""
        until = None
        while not window.over:
            if until is None and stopping():
                window.shut()
                until = time.monotonic() + GRACE
            if until is not None and time.monotonic() >= until:
                return False
            for answer in window.next(_LOOK):
                self._write(answer)
            self._look_up()
        return until is None

    def _write(self, answer: Answer) -> None:
        head, task = answer.record.head(), self._job.task
        if answer.error is not None:
            if self._job.fail_fast:
                place = f"{answer.record.file}, row {answer.record.number}"
                raise RequestError(
                    f"{place}: {answer.error} (--fail-fast ends the job there; the "
                    "rows before it are kept)"
                )
            self._output.write({**head, "error": str(answer.error)}, 0, {})
            return
        row: dict[str, Any] = answer.row or {}
        self._output.write({**head, **row}, row[task.counted], task.sums(row))

    def _look_up(self) -> None:
        """Commit and tell, where it is time for that."""
        now = time.monotonic()
        if now - self._committed >= COMMIT:
            self._output.commit()
            self._committed = now
        self._progress.show(self._place)


def answered(model: Model, task: Task, records: Iterator[Record]) -> Iterator[dict[str, Any]]:
    """Rows of the output for records, in order, as a job writes them, but kept nowhere: for jobs
    whose rows something else brings and keeps. The model has a thread of its own, see
    :meth:`Model.start`.
    """
    window = Window(model, task, records)
    try:
        while not window.over:
            for answer in window.next(1.0):
                found = (
                    {"error": str(answer.error)} if answer.error is not None else answer.row or {}
                )
                yield {**answer.record.head(), **found}
    finally:
        window.close()
