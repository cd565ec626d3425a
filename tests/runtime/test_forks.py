"""A model and forks: in the child everything refuses by name, and the child ends.
One process for each number of threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PROGRAM = r"""
import gc, multiprocessing, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
import sc2onnx
from sc2onnx.errors import ForkedError

bundle, threads = sys.argv[1], int(sys.argv[2])
model = sc2onnx.load(bundle, threads=threads)
text, before = "def f(", model.generate("def f(", max_new_tokens=3).text
stream, unbegun = model.stream(text, max_new_tokens=9), model.stream(text, max_new_tokens=9)
next(stream)
tokens = model.generate_tokens([1, 2, 3], max_new_tokens=9)
next(tokens)
sequence = model.sequence()
sequence.append([1, 2, 3])
busy = model.sequence()
busy.append([1])

def ends(name, child, wanted=0):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # ends the child, and so the test fails, where it would hang
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        child()
        sys.exit(0)  # the interpreter ends, and with it what it holds
    status = os.waitpid(pid, 0)[1]
    if status != wanted << 8:
        sys.exit(f"{name}: {status}")

def refuses():
    for call in (
        lambda: model.generate(text), lambda: model.generate([text, text]),
        lambda: model.stream(text), lambda: model.infill(text, text),
        lambda: model.stream_infill(text, text), lambda: next(model.generate_tokens([1])),
        lambda: next(stream), lambda: next(unbegun),
        lambda: next(tokens), lambda: sequence.append([1]), lambda: sequence.rewind(1),
        lambda: model.sequence(), lambda: model.codec,
        lambda: busy.append([1]), model.forget, model.memory_footprint,
    ):
        try:
            call()
        except ForkedError as error:
            assert "load it after the fork" in str(error) and str(os.getppid()) in str(error)
        else:
            os._exit(7)
    for opened in (stream, unbegun, tokens, sequence, busy):
        opened.close()  # never waits

def deletes():
    global model, stream, unbegun, tokens, sequence, busy
    del model, stream, unbegun, tokens, sequence, busy
    gc.collect()

def loads():
    assert sc2onnx.load(bundle, threads=threads).generate(text, max_new_tokens=3).text == before

ends("sys.exit", lambda: None)
ends("refuses", refuses)
ends("deletes", deletes)
ends("os._exit", lambda: os._exit(3), 3)
ends("an error", lambda: model.generate(text), 1)
ends("loads its own", loads)

held, done = threading.Event(), threading.Event()
def hold():  # the locks that another thread may hold at a fork, too shortly to meet otherwise
    with model.engine.exclusive(), model.engine.turn._guard, model.engine.store._lock, busy._busy:
        held.set()
        done.wait()
other = threading.Thread(target=hold)
other.start()
held.wait()
ends("refuses while another thread holds locks", refuses)
done.set()
other.join()

worker = multiprocessing.get_context("fork").Process(target=deletes)
worker.start()
worker.join(20)
assert worker.exitcode == 0, worker.exitcode
assert model.generate(text, max_new_tokens=3).text == before
assert len("".join(piece.text for piece in stream)) >= 0
print("all")
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_refuses_and_ends(bundle: Path, threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bundle), str(threads)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout == "all\n", done.stderr
