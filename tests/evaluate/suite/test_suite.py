"""The suite: endings, marks, servers, and the whole of it."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.errors import RequestError
from sc2onnx.evaluate import Settings, evaluate
from sc2onnx.evaluate.suite.answering import Prompting, ending_of, marked
from sc2onnx.evaluate.suite.hole import Hole
from sc2onnx.evaluate.suite.server import Server, TextAnswers, TokenAnswers, answers_of
from sc2onnx.evaluate.suite.table import lines

pytest.importorskip("rapidfuzz")

SOURCE = Path(queue.__file__)
QUICK = {"length": 100, "max_tokens": 50}


@pytest.mark.parametrize(
    ("task", "truth", "written", "expected"),
    [
        ("expressions", "value", "value, other", "value"),
        ("expressions", " f(a, b)", " f(a, b))\n", " f(a, b)"),
        ("expressions", " x", ' {"a": 1}:\n', ' {"a": 1}'),
        ("expressions", " x", " '#,:' + a  # why", " '#,:' + a  "),
        ("expressions", " x", "\n    [1,\n     2]\n", "\n    [1,\n     2]"),
        ("lines", "\n    a = 1", "\n    a = f(1, 2)\n    b = 2\n", "\n    a = f(1, 2)"),
        ("lines", "import os", "import os\nimport sys\n", "import os"),
        (
            "blocks",
            "\n        a\n        b",
            "\n        a\n        c\n    d\n",
            "\n        a\n        c",
        ),
    ],
)
def test_an_answer_ends_where_its_task_does(
    task: Any, truth: str, written: str, expected: str
) -> None:
    before = {"blocks": "def f():\n    if x:", "lines": "" if truth[0] == "i" else "def f():"}
    hole = Hole(task, "f.py", before.get(task, "y = g("), truth, "\n")
    scanner = ending_of(hole).scanner()
    assert "".join(map(scanner.push, written)) + scanner.flush() == expected


def test_space_around_an_expression_does_not_count_and_indentation_of_a_line_does() -> None:
    def exact(task: Any, truth: str, text: str) -> bool:
        hole = Hole(task, "f.py", "", truth, "")
        return marked(hole, text, lambda a, b: 0.0, None).exact

    assert exact("expressions", " x", "x ")
    assert exact("lines", "\n    x", "\n    x  ")
    assert not exact("lines", "\n    x", "\n  x")


def test_a_bundle_is_scored_on_every_task_with_intervals(bundle: Path, int8_bundle: Path) -> None:
    asked = Settings(suite=("lines", "programs"), questions=4, order="spm", **QUICK)  # type: ignore[arg-type]
    report = evaluate(bundle, [SOURCE], also=[int8_bundle], settings=asked)
    assert report.suite is not None
    first, second = report.suite.models
    assert report.suite.base == first.name
    assert [(task.task, task.questions) for task in first.tasks] == [("lines", 4), ("programs", 4)]
    assert first.tasks[0].above == {}
    assert set(second.tasks[1].above) == {"exact", "edit", "passed"}
    assert "passed" not in second.tasks[0].means
    assert [answer.truth for answer in first.answers] == [a.truth for a in second.answers]
    assert len(lines(report.suite)) == 3 + 1 + 4
    assert "nll_above_first" in report.scores[1].estimates
    json.dumps(report.figures(), allow_nan=False)


class Llama(BaseHTTPRequestHandler):
    """A server that writes ``x + 1``, as llama.cpp's answers; ``paths``: those that it has."""

    paths: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    asked: list[tuple[str, Any]]

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "dir/model.gguf", "meta": {"size": 7}}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, body))
        if self.path not in self.paths:
            self.send_error(404)
            return
        texts = {"content": "x + 1", "choices": [{"text": "x + 1"}], "tokens": list(self.tokens)}
        self.answer(texts)

    def answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def llama() -> Iterator[tuple[type[Llama], str]]:
    kind = type("Kind", (Llama,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield kind, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def prompting(model: sc2onnx.Model) -> Prompting:
    return Prompting(model.codec, 200, 2048, "spm", model.codec.stop_ids())


HOLE = Hole("expressions", "f.py", "def f(x):\n    return", " x + 1", "\n")


def test_a_server_with_the_same_tokens_gets_tokens(
    llama: tuple[type[Llama], str], prompting: Prompting
) -> None:
    kind, url = llama
    kind.tokens = tuple(prompting.codec.encode("value = 1", special=False))
    kind.paths = ("/tokenize", "/completion")
    server = Server.at(f"{url}/v1")
    assert (server.name, server.weight_bytes) == ("model.gguf", 7)
    model = answers_of(server, prompting, "value = 1")
    assert isinstance(model, TokenAnswers)
    assert "".join(model.pieces(HOLE)) == "value = 1"
    path, body = kind.asked[-1]
    assert (path, body["prompt"], body["temperature"]) == ("/completion", prompting.tokens(HOLE), 0)


@pytest.mark.parametrize(
    ("paths", "name"), [(("/infill",), "input_suffix"), (("/v1/completions",), "suffix")]
)
def test_a_server_with_other_tokens_gets_text(
    llama: tuple[type[Llama], str], prompting: Prompting, paths: tuple[str, ...], name: str
) -> None:
    kind, url = llama
    kind.paths = paths
    model = answers_of(Server.at(url), prompting, "value = 1")
    assert isinstance(model, TextAnswers)
    assert [*model.pieces(HOLE)] == ["x + 1"]
    assert kind.asked[-1][0] == paths[0]
    assert kind.asked[-1][1][name] == HOLE.suffix


def test_servers_that_are_none_are_refused_before_any_work(
    bundle: Path, llama: tuple[type[Llama], str], prompting: Prompting
) -> None:
    with pytest.raises(RequestError, match="expected http://HOST:PORT"):
        Server.at("ftp://host")
    with pytest.raises(RequestError, match=r"a server gives no logits.*add --suite"):
        Settings(servers=("http://127.0.0.1:1",))
    asked = Settings(suite=("lines",), questions=2, servers=("http://127.0.0.1:1",))
    with pytest.raises(RequestError, match=r"gives no answer to /v1/models.*start it"):
        evaluate(bundle, [SOURCE], settings=asked)
    with pytest.raises(RequestError, match="refuses /v1/completions"):
        [*TextAnswers(Server.at(llama[1]), prompting).pieces(HOLE)]


def test_an_unknown_task_is_refused(bundle: Path) -> None:
    with pytest.raises(RequestError, match="suite is 'words', expected some of lines"):
        evaluate(bundle, [SOURCE], settings=Settings(suite=("words",)))  # type: ignore[arg-type]
