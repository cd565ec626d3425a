"""Jobs over rows that Ray Data reads: completed, infilled, scored or evaluated, once each and
resumable.

Rows are known by their ``id``. What a batch of them gave is a file of its own (a part), written
beside its name and renamed, whose name is a hash of the batch's ids: a batch that Ray computes
twice writes the same part twice. A job that goes on leaves rows out whose ids are in parts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ray.data import ActorPoolStrategy, Dataset

from sc2onnx.batch import Record, Task, answered
from sc2onnx.batch.records import Fields
from sc2onnx.bundle.files import replace_text
from sc2onnx.errors import OutputError, RequestError
from sc2onnx.runtime.loading import load

Batch = dict[str, Any]
"""Columns of rows: lists or arrays by name."""

SETTINGS: Final = "job.json"
"""What the parts of a folder depend on."""


@dataclass(frozen=True, slots=True)
class Job:
    """``bundle``: a directory on every node. ``task``: makes what is done with each row,
    anew for each batch, such as ``partial(Completing, {"max_new_tokens": 64})``. ``parts``: a
    folder that every node reaches. ``renamed``: the rows' names of fields, by the task's. ``load``:
    keywords of :func:`sc2onnx.load`. ``engines``: how many compute, or the fewest and the most of
    them; ``cores``: of each. ``rows``: of a batch, which a fault costs at most.
    """

    bundle: str
    task: Callable[[], Task]
    parts: Path
    renamed: Mapping[str, str] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    engines: int | tuple[int, int] = 1
    cores: float = 1
    rows: int = 256


def run(dataset: Dataset, job: Job) -> dict[str, int]:
    """Do a job, or go on with it: how many ``rows`` were computed now, and ``errors`` among them.
    Ray shows how far it is.

    Raises :class:`~sc2onnx.errors.RequestError` for rows without an ``id``, and where the folder
    has parts of another job; :class:`~sc2onnx.errors.OutputError` for a folder that cannot be made.
    """
    fields = Fields.of(job.task().fields, job.renamed)
    identity = fields.columns.get("id", "id")
    if identity not in (dataset.columns() or ()):
        raise RequestError(
            f"rows have no {identity}, by which they are known: add one, or name it (renamed)"
        )
    _begun(job)
    done = frozenset(_done(job.parts))
    if done:
        dataset = dataset.filter(lambda row: str(row[identity]) not in done)
    least, most = (job.engines, job.engines) if isinstance(job.engines, int) else job.engines
    told = dataset.map_batches(
        Engine,
        fn_constructor_args=(job,),
        batch_size=job.rows,
        batch_format="numpy",
        num_cpus=job.cores,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
    )
    sums = {"rows": 0, "errors": 0}
    for batch in told.iter_rows():
        sums = {name: total + int(batch[name]) for name, total in sums.items()}
    return sums


def results(parts: Path) -> Iterator[dict[str, Any]]:
    """Rows of the output, each once, in no order."""
    seen = set[str]()
    for part in sorted(parts.glob("part-*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["id"] not in seen:
                seen.add(row["id"])
                yield row


class Engine:
    """An actor of the pool: a bundle that is loaded once, for batch after batch."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._fields = Fields.of(job.task().fields, job.renamed)
        keywords = {"threads": max(1, int(job.cores)), **job.load}
        self._model = load(job.bundle, **keywords)
        job.task().check(self._model)
        self._model.start(bulk=True)

    def __call__(self, batch: Batch) -> Batch:
        """Compute rows, and write them as a part."""
        records = list(self._records(batch))
        found = list(answered(self._model, self._job.task(), iter(records)))
        _write(self._job.parts, found)
        return {"rows": [len(found)], "errors": [sum("error" in row for row in found)]}

    def _records(self, batch: Batch) -> Iterator[Record]:
        columns = {name: _plain(values) for name, values in batch.items()}
        count = len(next(iter(columns.values())))
        for place in range(count):
            row = {name: values[place] for name, values in columns.items()}
            row[self._fields.columns["id"]] = str(row[self._fields.columns["id"]])
            yield self._fields.record("", place + 1, row)


def _plain(values: Any) -> Sequence[Any]:
    found: Sequence[Any] = values.tolist() if hasattr(values, "tolist") else values
    return found


def _write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A part, whole or not at all."""
    digest = hashlib.blake2b(
        json.dumps([row["id"] for row in rows]).encode(), digest_size=16
    ).hexdigest()
    lines = [
        json.dumps({name: value for name, value in row.items() if name not in ("file", "row")})
        for row in rows
    ]
    replace_text(folder / f"part-{digest}.jsonl", "".join(f"{line}\n" for line in lines))


def _done(folder: Path) -> Iterator[str]:
    return (row["id"] for row in results(folder))


def _begun(job: Job) -> None:
    """See that the folder is this job's."""
    task = job.task()
    told = {
        "bundle": job.bundle,
        "task": type(task).__name__,
        "options": task.settings(),
        "load": dict(job.load),
    }
    text, path = json.dumps(told, sort_keys=True), job.parts / SETTINGS
    try:
        job.parts.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            replace_text(path, text)
        elif path.read_text(encoding="utf-8") != text:
            raise RequestError(
                f"{job.parts} has parts of another job: give its settings, or choose another"
            )
    except OSError as error:
        raise OutputError(
            f"{job.parts} cannot be made ({os.strerror(error.errno or 0)}): choose another folder"
        ) from error
