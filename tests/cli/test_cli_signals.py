"""What the command line makes of signals, and that it leaves them as it found them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sc2onnx.cli.process import terminated_is_exit

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")


@pytest.fixture(autouse=True)
def _handlers_as_they_were() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_both_unwind_the_stack(number: signal.Signals) -> None:
    before, cleared = signal.getsignal(number), list[bool]()

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not stop the clearing up
            os.kill(os.getpid(), signal.SIGHUP)
            cleared.append(True)

    with pytest.raises(SystemExit) as caught, terminated_is_exit():
        work()
    assert (cleared, caught.value.code, signal.getsignal(number)) == ([True], 128 + number, before)


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with terminated_is_exit():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert callable(signal.getsignal(signal.SIGTERM))
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_under_nohup_a_command_goes_on() -> None:
    code = "import os, signal; from sc2onnx.cli import inspecting, main as cli; "
    code += "inspecting.doctor = lambda args: os.kill(os.getpid(), signal.SIGHUP) or 5; "
    command = [sys.executable, "-c", f"{code}raise SystemExit(cli.main(['doctor']))"]
    assert (
        subprocess.run(
            command,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
            check=False,
            timeout=60,
        ).returncode
        == 5
    )
    assert subprocess.run(command, check=False, timeout=60).returncode == 128 + signal.SIGHUP
