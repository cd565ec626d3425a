"""The one boundary of the command line: whatever a command raises becomes
a line and an exit status.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Final

from sc2onnx.errors import Sc2onnxError
from sc2onnx.messages import discard, tell

MISTAKE: Final = 2
BUG: Final = 3
INTERRUPTED: Final = 130

STATUSES: Final = """\
exit status:
  0    done
  1    the answer is no: verification failed, rows could not be computed (batch), bundles
       cannot run here (doctor), or a text repeats files (attribution check)
  2    a mistake in what was given, or a file or disk that cannot be used; one line says which
  3    a bug in sc2onnx; SC2ONNX_TRACEBACK=1 in the environment shows where
  128+n  ended by signal n (130: Ctrl-C)"""
"""What ``sc2onnx --help`` ends with."""

_SHOW: Final = "SC2ONNX_TRACEBACK"


def guarded(command: str, run: Callable[[], int]) -> int:
    """Run a command and return its exit status, see :data:`STATUSES`; a
    failure is told of in one line.

    Passes on :class:`SystemExit`, which signals raise. A reader of our output
    that has left is no failure.
    """
    name = f"sc2onnx {command}".strip()
    try:
        status = run()
        sys.stdout.flush()
        return status
    except (SystemExit, GeneratorExit):
        raise
    except BrokenPipeError:  # the reader of our output has gone: so may we
        discard(sys.stdout)
        return 0
    except BaseException as error:  # also the panics of Rust libraries, which are no Exception
        if os.environ.get(_SHOW):
            traceback.print_exc()
        status, message = _outcome(error)
        if isinstance(error, OSError) and not isinstance(error, Sc2onnxError):
            discard(sys.stdout)
        tell(f"{name}: {message}")
        return status


def _outcome(error: BaseException) -> tuple[int, str]:
    """Exit status and message."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    # warnings are raised where Python was told to treat them as errors
    if isinstance(error, (Sc2onnxError, Warning)):
        return MISTAKE, str(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("sc2onnx."):
        return MISTAKE, (
            "this is the runtime alone, which cannot do that: install sc2onnx, "
            "from its clone or wheel"
        )
    if isinstance(error, OSError):
        return MISTAKE, f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, MemoryError):
        return (
            BUG,
            (
                f"out of memory ({_first_line(error)}): close other programs, or use a smaller "
                f"precision; {_SHOW}=1 shows where"
            ),
        )
    return BUG, (
        f"this is a bug in sc2onnx ({_first_line(error)}): please report it with the traceback "
        f"that {_SHOW}=1 in the environment shows"
    )


def _first_line(error: BaseException) -> str:
    """Type and beginning of a message that was not written for users, and may be long."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
