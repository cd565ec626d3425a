"""Templates of strangers are bounded in time, memory and length, and reach nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from sc2onnx.errors import BusyError, ChatTemplateError, RequestError, Sc2onnxError
from sc2onnx.runtime.chat.process import Bounds, Renderer

pytest.importorskip("jinja2", reason="needs the chat extra")

BOUNDS: Final = Bounds(seconds=0.5, memory=128 << 20, characters=1 << 20)
GIVEN: Final[dict[str, Any]] = {"messages": [{"role": "user", "content": "x"}]}

LONG: Final = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"

TOO_MUCH: Final = {
    "loops": LONG.replace("BODY", ""),
    "a long range": "{% for a in range(10**9) %}{% endfor %}",
    "a long text": "{{ 'a' * 10**9 }}",
    "a wide number": "{{ '%1000000000d' % 1 }}",
    "a wide number, formatted": "{{ '{:1000000000d}'.format(1) }}",
    "padding": "{{ 'x'.ljust(10**10) }}",
    "centred": "{{ 'x'|center(10**9) }}",
    "a power": "{{ 7 ** (7 ** 12) }}",
    "replacing": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "joining": "{{ range(99999)|map('string')|join('y' * 99999) }}",
    "slices": "{{ messages|slice(10**9)|list }}",
    "a macro that calls itself": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "macros that double": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "nested": "{{ " + "[" * 20000 + "]" * 20000 + " }}",
    "much text": LONG.replace("BODY", "{{ 'x' * 99 }}"),
}

ESCAPES: Final = {
    "a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "a module": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "a constructor": "{{ cycler.__init__.__globals__ }}",
    "an attribute by filter": "{{ ''|attr('__class__') }}",
    "a format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "a format by mapping": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "the template": "{{ self.__init__.__globals__ }}",
    "a file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}{{ os.getcwd() }}",
    "a namespace": "{% set ns = namespace(__class__=1) %}{{ ns.__class__ }}",
    "messages": "{{ messages.append(1) }}",
    "a message": "{{ messages[0].update({'content': 1}) }}",
}


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    made = Renderer(BOUNDS)
    yield made
    made.close()


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_ended(renderer: Renderer, name: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ChatTemplateError, match=r"takes more than 0\.5 seconds, 128 MiB or"):
        renderer.render(TOO_MUCH[name], GIVEN)
    assert time.perf_counter() - began < 10  # on a busy machine
    assert renderer.render("{{ messages[0].content }}", GIVEN) == "x"  # others are not hurt


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_is_reached(renderer: Renderer, name: str) -> None:
    try:
        text = renderer.render(ESCAPES[name], GIVEN)
    except Sc2onnxError:
        return
    assert text == ""  # undefined


def test_a_template_leaves_nothing_for_the_next(renderer: Renderer) -> None:
    renderer.render("{% set dict = 'mine' %}{% set messages = 1 %}{{ messages }}", GIVEN)
    assert renderer.render("{{ dict(a=1).a }}{{ messages|length }}", GIVEN) == "11"


def test_the_process_opens_no_file(renderer: Renderer) -> None:
    renderer.render("", GIVEN)
    process = renderer._process
    assert process is not None
    if not os.path.exists(f"/proc/{process.pid}/limits"):
        pytest.skip("this system does not show limits")
    with open(f"/proc/{process.pid}/limits") as file:
        limits = {line[:25].strip(): line[26:].split()[:2] for line in file}
    assert limits["Max open files"] == ["3", "3"]
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max address space"] == [str(BOUNDS.memory)] * 2
    assert os.listdir(f"/proc/{process.pid}/fd") == ["0", "1", "2"]
    with open(f"/proc/{process.pid}/environ", "rb") as file:
        names = {each.partition(b"=")[0].decode() for each in file.read().split(b"\0") if each}
    assert names <= {"TZ", "LD_LIBRARY_PATH", "LC_CTYPE"}  # no secrets


@pytest.mark.parametrize(
    ("template", "error", "told"),
    [
        ("{{ raise_exception('No \x1b[2J system') }}", RequestError, "does not take these"),
        ("{{ messages[0].content.a.b }}", RequestError, "fails on these messages"),
        ("{% if %}", ChatTemplateError, "none that jinja2 can read"),
        ("{{ '\\ud800' }}", RequestError, "halves of surrogate pairs"),
    ],
)
def test_other_failures_say_what_is_wrong(
    renderer: Renderer, template: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        renderer.render(template, GIVEN)


def test_a_process_that_was_killed_is_begun_again(renderer: Renderer) -> None:
    renderer.render("", GIVEN)
    process = renderer._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert renderer.render("{{ messages[0].role }}", GIVEN) == "user"


def test_who_waits_for_a_slow_template_is_told_to_come_later(renderer: Renderer) -> None:
    errors = list[Exception]()

    def slow() -> None:
        try:
            renderer.render(TOO_MUCH["loops"], GIVEN)
        except Sc2onnxError as error:
            errors.append(error)

    threads = [threading.Thread(target=slow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(isinstance(error, BusyError) for error in errors)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timers")
def test_what_was_interrupted_is_not_the_next_answer(renderer: Renderer) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    renderer.render("", GIVEN)  # it has begun
    slow = "{% for a in range(99999) %}{% for b in range(20) %}{% endfor %}{% endfor %}slow"
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            renderer.render(slow, GIVEN)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert renderer.render("{{ messages[0].content }}", GIVEN) == "x"


def test_it_ends_with_its_program() -> None:
    code = (
        "from sc2onnx.runtime.chat.process import Renderer\n"
        "renderer = Renderer()\n"
        "renderer.render('', {})\n"
        "print(renderer._process.pid, flush=True)\n"
        "import os; os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the process of the templates goes on")
