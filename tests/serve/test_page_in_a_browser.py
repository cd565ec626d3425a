"""The page as its visitor uses it: headless Chromium, and a server of the mini checkpoint."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.runtime.engine.row import Row
from sc2onnx.serve.settings import Settings
from tests.serve.conftest import Served, serving

REASON = "drives a browser: install the browser extra"
pytest.importorskip("playwright.sync_api", reason=REASON)

from playwright.sync_api import (  # noqa: E402
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

KEY = "a-key-of-some-length"
CODE = "def add(a, b):\n    "
LINES = """lines => lines.map(line => [...line.childNodes]
  .filter(each => !each.classList?.contains("cm-ghost"))
  .map(each => each.textContent).join(""))"""
"""What of each line belongs to the file, in JavaScript."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("Chromium is missing: install it")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # which it refuses to have as root
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=found, args=flags)
        yield running
        running.close()


@dataclass
class Visit:
    """A page that is open, what it sent and what it complained of."""

    page: Page
    served: Served
    bodies: list[dict[str, object]] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(10_000)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._sent)
        self.page.goto(self.served.url)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _sent(self, request: Request) -> None:
        self.addresses.append(request.url)
        if (body := request.post_data_json) is not None:
            self.bodies.append(body)

    def choose(self, mode: str, tokens: int) -> None:
        """A mode, and how many tokens."""
        self.page.get_by_label("At most").fill(str(tokens))
        self.page.get_by_role("radio", name=mode).check()

    def write(self, text: str) -> None:
        """Put a text in place of the file's."""
        self.page.get_by_role("textbox", name="Code").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text)

    def settled(self) -> None:
        """Wait until the last request has its answer."""
        self.page.wait_for_timeout(150)
        expect(self.status).to_have_text("Ready", timeout=20_000)

    @property
    def status(self) -> Locator:
        """What the page says of the server."""
        return self.page.locator("#status")

    @property
    def ghost(self) -> str:
        """The completion that is shown."""
        first = "".join(self.page.locator("span.cm-ghost").all_text_contents())
        return "\n".join([first, *self.page.locator("div.cm-ghost").all_text_contents()])

    @property
    def text(self) -> str:
        """The file's, without the completion."""
        return "\n".join(self.page.locator(".cm-line").evaluate_all(LINES))

    def figure(self, name: str) -> float:
        """A number of the panel."""
        return float(self.page.locator(f"#{name}").inner_text())


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Visit]:
    """An open page of the server that all share."""
    with visiting(browser, served) as opened:
        yield opened


@contextmanager
def visiting(browser: Browser, served: Served) -> Iterator[Visit]:
    """An open page, which complains of nothing and asks nobody else."""
    context = browser.new_context()
    opened = Visit(context.new_page(), served)
    opened.settled()
    yield opened
    assert not opened.complaints
    assert all(url.startswith(served.url + "/") for url in opened.addresses)
    context.close()


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.005)
    return holds()


@pytest.mark.parametrize("mode", ["Line", "Block", "Free"])
def test_it_shows_what_the_server_says_and_tab_inserts_it(visit: Visit, mode: str) -> None:
    visit.choose(mode, 24)
    visit.write(CODE)
    visit.settled()
    asked = visit.bodies[-1]
    said = visit.served.post("/infill", {**asked, "stream": False}).json()["content"]
    assert asked["input_prefix"] == "def add(a, b):\n    "
    assert asked["ends"] == {"Free": None}.get(mode, mode.lower())
    assert said
    assert visit.ghost == said
    visit.page.keyboard.press("Tab")
    assert visit.text == CODE + said


def test_a_word_is_accepted_and_escape_dismisses(visit: Visit) -> None:
    visit.choose("Line", 16)
    visit.write(CODE + "ret")
    visit.settled()
    ghost = visit.ghost
    visit.page.keyboard.press("Control+ArrowRight")
    taken = visit.text.removeprefix(CODE + "ret")
    assert taken
    assert ghost.startswith(taken)
    assert taken != ghost
    visit.settled()
    assert visit.ghost
    visit.page.keyboard.press("Escape")
    assert visit.ghost == ""
    assert visit.text == CODE + "ret" + taken


def test_a_touch_accepts(visit: Visit) -> None:
    visit.choose("Line", 16)
    visit.write(CODE)
    visit.settled()
    ghost = visit.ghost
    visit.page.locator("span.cm-ghost").click()
    assert visit.text == CODE + ghost


def test_the_figures_and_that_the_second_key_reuses(visit: Visit) -> None:
    visit.choose("Line", 8)
    visit.write("# a text that nobody has written before\n" * 8 + "value")
    visit.settled()
    bars = visit.page.locator("#spark rect").count()
    visit.page.keyboard.type("s")
    visit.settled()
    assert visit.figure("first") > 0
    assert visit.figure("each") > 0
    assert 0 < visit.figure("generated") <= 8
    assert visit.figure("reused") > visit.figure("computed") > 0
    assert visit.page.locator("#spark rect").count() == bars + 1
    assert visit.page.locator("#range").inner_text().endswith("ms")


def test_a_key_ends_the_request_before_it(
    browser: Browser, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a pace at which a thousand tokens are not there before the key is."""
    advance = Row.advance

    def slowly(row: Row, *given: Any) -> Any:
        time.sleep(0.01)
        return advance(row, *given)

    monkeypatch.setattr(Row, "advance", slowly)
    with (
        serving(sc2onnx.load(bundle, speculate=False)) as running,
        visiting(browser, running) as visit,
    ):
        visit.choose("Free", 1000)
        under_way = running.service.under_way
        visit.page.get_by_role("textbox", name="Code").press("Escape")  # what the choice asked for
        assert within(5, lambda: not under_way)
        visit.write("numbers = [1, 2, 3, ")
        assert within(10, lambda: bool(under_way))
        (first,) = under_way
        visit.page.keyboard.type("4")
        assert within(5, lambda: first not in under_way)
        assert first.usage.generated < 1000
        visit.page.keyboard.press("Escape")
        assert within(5, lambda: not under_way)
        visit.settled()


def test_other_files_are_context(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab").nth(0).focus()
    page.keyboard.press("ArrowRight")
    other = visit.text
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="New file").click()
    page.get_by_label("Name").fill("new.rs")
    page.get_by_label("Name").press("Enter")
    expect(page.get_by_role("tab", selected=True)).to_have_text("new.rs")
    visit.write("fn main() {}")
    visit.settled()
    extra = visit.bodies[-1]["input_extra"]
    assert isinstance(extra, list)
    assert [each["filename"] for each in extra] == ["main.py", "shapes.py"]
    assert extra[1]["text"].splitlines() == other.splitlines()
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page.get_by_role("tab")).to_have_count(2)


def test_the_keyboard_leaves_the_editor(visit: Visit) -> None:
    code = visit.page.get_by_role("textbox", name="Code")
    expect(code).to_be_focused()
    visit.page.keyboard.press("Escape")
    visit.page.keyboard.press("Tab")
    expect(code).not_to_be_focused()


def test_another_name_keeps_the_text_and_is_another_language(visit: Visit) -> None:
    visit.choose("Line", 1)
    visit.write("let x = 1")
    visit.settled()
    before = visit.page.locator(".cm-line span:not(.cm-ghost)").all_text_contents()
    visit.page.get_by_label("Name").fill("main.js")
    visit.page.get_by_label("Name").press("Enter")
    expect(visit.page.locator(".cm-line span:not(.cm-ghost)").first).to_have_text("let")
    assert "let" not in before
    assert visit.text == "let x = 1"
    visit.page.get_by_label("Name").fill("shapes.py")  # which another file has
    visit.page.get_by_label("Name").press("Enter")
    expect(visit.page.get_by_label("Name")).to_have_value("main.js")


def test_a_text_that_is_typed_as_shown_stays(visit: Visit) -> None:
    visit.choose("Line", 16)
    visit.write(CODE)
    visit.settled()
    ghost = visit.ghost
    visit.page.keyboard.type(ghost[0])
    assert visit.ghost == ghost[1:]
    visit.settled()


def test_a_key_that_is_missing_wrong_and_right(browser: Browser, bundle: Path) -> None:
    with serving(sc2onnx.load(bundle), Settings(port=0, keys=(KEY,))) as running:
        context = browser.new_context()
        visit = Visit(context.new_page(), running)
        field = visit.page.get_by_label("Key", exact=True)
        expect(visit.status).to_contain_text("The key is missing or wrong")
        field.fill("another-key-of-some-length")
        field.press("Enter")
        expect(visit.status).to_contain_text("The key is missing or wrong")
        field.fill(KEY)
        field.press("Enter")
        expect(visit.status).to_have_text("Ready")
        visit.page.reload()
        expect(visit.status).to_have_text("Ready")
        visit.write(CODE)
        visit.settled()
        assert visit.ghost
        others = [each for each in visit.complaints if "401" not in each]  # the browser's own words
        assert others == []
        context.close()


def test_a_server_that_is_gone(browser: Browser, bundle: Path) -> None:
    context = browser.new_context()
    with serving(sc2onnx.load(bundle)) as running:
        visit = Visit(context.new_page(), running)
        visit.settled()
    visit.write(CODE)
    expect(visit.status).to_contain_text("The server cannot be reached")
    assert visit.ghost == ""
    context.close()
