"""Asks one model after the other what belongs into the same holes, and scores them."""

from __future__ import annotations

from collections.abc import Sequence

from sc2onnx.errors import RequestError
from sc2onnx.evaluate.infill import edit_similarity
from sc2onnx.evaluate.progress import Progress, Tell
from sc2onnx.evaluate.source import LogitSource
from sc2onnx.evaluate.suite import cutting
from sc2onnx.evaluate.suite.answering import Answering, Prompting, SourceAnswers, filled, marked
from sc2onnx.evaluate.suite.contained import check_containment, passes
from sc2onnx.evaluate.suite.hole import CUT, TASKS, Hole, Task
from sc2onnx.evaluate.suite.programs import programs
from sc2onnx.evaluate.suite.scores import Answered, SuiteReport, scored
from sc2onnx.evaluate.suite.server import Server, answers_of
from sc2onnx.evaluate.text import Document


def chosen(
    tasks: Sequence[Task], documents: Sequence[Document], count: int, seed: int
) -> list[Hole]:
    """``count`` holes of each task. Raises :class:`RequestError` for a task that there is not, and
    where there are too few places.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise RequestError(f"suite is {unknown[0]!r}, expected some of {', '.join(TASKS)}")
    if "programs" in tasks:
        check_containment()
    if set(tasks) & set(CUT):
        cutting.check(documents)
    return [
        hole
        for task in TASKS
        if task in tasks
        for hole in (
            programs(count, seed)
            if task == "programs"
            else cutting.cut(documents, task, count, seed)
        )
    ]


class Suite:
    """The holes, and the answers of the models so far; a server is opened when it is made, so that
    one that is not there costs no work.
    """

    def __init__(
        self,
        holes: Sequence[Hole],
        prompting: Prompting,
        servers: Sequence[str],
        told: tuple[Tell, float],
    ) -> None:
        self._holes, self._prompting, self._told = holes, prompting, told
        self._servers = [Server.at(url) for url in servers]
        self._similar = edit_similarity()  # better missed now than after hours of work
        self._found = list[Answered]()

    def ask(self, source: LogitSource) -> None:
        """Have a bundle, or torch, fill the holes."""
        about = source.about
        model = SourceAnswers(source, self._prompting)
        self._add(model, about.name, about.precision, about.weight_bytes, "tokens")

    def ask_servers(self, sample: str) -> None:
        """Have the servers fill the holes. ``sample``: text that tokenizers are compared on."""
        for server in self._servers:
            model = answers_of(server, self._prompting, sample)
            self._add(model, server.name, "server", server.weight_bytes, model.asked)

    def report(self, seed: int) -> SuiteReport:
        """All scores; the first model that was asked is what the others are compared with."""
        return scored(self._holes, self._found, seed, self._prompting.length)

    def _add(
        self, model: Answering, name: str, precision: str, weight_bytes: int, asked: str
    ) -> None:
        progress = Progress(self._told[0], name, len(self._holes), "holes filled", self._told[1])
        answers = []
        for hole in self._holes:
            answers.append(marked(hole, filled(model, hole), self._similar, _passes))
            progress.advance(1)
        self._found.append(Answered(name, precision, weight_bytes, asked, tuple(answers)))


def _passes(hole: Hole, text: str) -> bool:
    return passes(hole.prefix + text + hole.suffix, hole.tests or "")
