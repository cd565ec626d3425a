"""A program ends while its daemon threads compute: with its own status,
soon, and without a crash.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import atexit, os, sys, threading, time

import sc2onnx

bundle, what = sys.argv[1:3]
model = sc2onnx.load(bundle, threads=1)
ids = [7] * 1500

def sequence():
    with model.sequence() as sequence:
        sequence.append(ids, logits=None)

calls = {
    "stream": lambda: list(model.stream("def f(", max_new_tokens=500, stop_tokens=())),
    "tokens": lambda: list(model.generate_tokens(ids, max_new_tokens=9)),
    "generate": lambda: model.generate(["a", "b"], max_new_tokens=200, stop_tokens=()),
    "sequence": sequence,
    "load": lambda: sc2onnx.load(bundle, threads=1),
}

def repeat():
    while True:
        calls[what]()

@atexit.register
def last():
    print(len(model.generate("a", max_new_tokens=2, stop_tokens=()).tokens))

for _ in range(2):
    threading.Thread(target=repeat, daemon=True).start()
time.sleep(float(sys.argv[3]))
if what == "tokens" and hasattr(os, "fork"):  # whose exit waits for no thread of its parent's
    if (child := os.fork()) == 0:
        atexit.unregister(last)
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
sys.exit(7)
"""


@pytest.mark.parametrize("what", ["stream", "tokens", "generate", "sequence", "load"])
def test_a_program_ends_under_its_daemon_threads(bundle: Path, what: str) -> None:
    """Python ends such a thread where it comes back from C++, which took the whole
    process with it (status 134).
    """
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(bundle), what, "0.2"],
        capture_output=True,
        text=True,
        timeout=60,  # which it would reach if it waited for its threads: they never end
    )
    assert (done.returncode, done.stdout.strip()) == (7, "2"), done.stderr
