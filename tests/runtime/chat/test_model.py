"""``model.chat`` and its like."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import sc2onnx
from sc2onnx.runtime.chat.process import Bounds, Renderer
from tests.instruct import CHATML, instruct, said

pytest.importorskip("jinja2", reason="needs the chat extra")

HELLO = said("Write a function that adds.", system="You write code.")
PROMPT = (
    "<repo_name>system\nYou write code.<fim_pad>\n"
    "<repo_name>user\nWrite a function that adds.<fim_pad>\n<repo_name>assistant\n"
)


@pytest.fixture(scope="module")
def model(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sc2onnx.Model]:
    loaded = sc2onnx.load(instruct(bundle, tmp_path_factory.mktemp("instruct") / "bundle"))
    yield loaded
    loaded.chats.renderer.close()


def test_a_chat_continues_the_prompt_of_its_template(model: sc2onnx.Model) -> None:
    expected = model.generate(PROMPT, max_new_tokens=24)
    assert model.chat(HELLO, max_new_tokens=24) == expected
    with model.stream_chat(HELLO, max_new_tokens=24) as stream:
        assert "".join(piece.text for piece in stream) == expected.text
    assert model.submit_chat(HELLO, max_new_tokens=24).result() == expected

    async def waits() -> sc2onnx.Completion:
        return await model.submit_chat(HELLO, max_new_tokens=24)

    assert asyncio.run(waits()) == expected


def test_a_next_turn_reuses_the_turns_before(model: sc2onnx.Model) -> None:
    model.forget()
    messages = list(HELLO)
    before = 0
    for question in ("And one that subtracts?", "And multiplies?", "And divides?"):
        done = model.chat(messages, max_new_tokens=12)
        assert done.usage.reused >= before
        messages += said(question, done.text)[::-1]
        # a text may be other tokens than those that were drawn, and the last was not computed
        same = model.codec.encode(done.text) == list(done.tokens)
        before = done.usage.prompt + (len(done.tokens) - 1 if same else 0)
    assert before > 100


def test_an_answer_ends_with_its_turn(bundle: Path, tmp_path: Path) -> None:
    """In a template of plain text, before the line that begins the next question."""
    code = "import os\n\n\ndef exists(path):\n"
    free = sc2onnx.load(bundle).generate(code, max_new_tokens=120).text
    line = next(line for line in free.split("\n")[1:] if len(line) > 3)
    between = "{% if not loop.first and m.role == 'user' %}{{ '\n\n' + line + '\n' }}{% endif %}"
    template = (
        f"{{% set line = {line!r} %}}{{% for m in messages %}}{between}{{{{ m.content }}}}"
        "{% endfor %}"
    )
    model = sc2onnx.load(instruct(bundle, tmp_path / "bundle", template))
    done = model.chat(said(code), max_new_tokens=120)
    assert (done.text, done.stop_string) == (free.partition(f"\n{line}")[0], f"\n{line}")
    assert model.chat(said(code), max_new_tokens=120, stop_tokens=[0]).text == free


def test_a_last_message_is_continued(model: sc2onnx.Model) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "def add("}]
    done = model.chat(messages, continue_final_message=True, max_new_tokens=8)
    assert done == model.generate(f"{PROMPT}def add(", max_new_tokens=8)


def test_a_base_model_says_that_it_does_not_chat(bundle: Path) -> None:
    model = sc2onnx.load(bundle)
    with pytest.raises(sc2onnx.ChatTemplateError, match="does not chat, as a base model: use gen"):
        model.chat(HELLO)
    assert model.chats.renderer._process is None


def test_what_a_template_refuses_is_told(model: sc2onnx.Model) -> None:
    with pytest.raises(sc2onnx.RequestError, match="take these messages: Nobody may not speak"):
        model.chat([{"role": "nobody", "content": "x"}])
    with pytest.raises(sc2onnx.ContextLengthError):
        model.chat(said("x = 1\n" * 3000))
    with pytest.raises(TypeError, match="unexpected keyword argument 'tools'"):
        model.chat(HELLO, tools=[])  # type: ignore[call-arg]


def test_a_hostile_bundle_is_opened_and_completes(bundle: Path, tmp_path: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = sc2onnx.load(instruct(bundle, tmp_path / "bundle", endless))
    model.chats.renderer = Renderer(Bounds(seconds=0.3))
    with pytest.raises(sc2onnx.ChatTemplateError, match="do not trust this bundle"):
        model.chat(HELLO)
    assert model.generate("def f(", max_new_tokens=2).tokens


def test_a_template_that_was_changed_is_not_rendered(bundle: Path, tmp_path: Path) -> None:
    folder = instruct(bundle, tmp_path / "bundle")
    model = sc2onnx.load(folder)
    (folder / "chat_template.jinja").write_text(CHATML.replace("assistant", "xxxxxxxxx"))
    with pytest.raises(sc2onnx.BundleIntegrityError, match="changed after it was checked"):
        model.chat(HELLO)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_told(model: sc2onnx.Model) -> None:
    model.chat(HELLO, max_new_tokens=1)
    child = os.fork()
    if not child:
        try:
            model.chat(HELLO, max_new_tokens=1)
        except sc2onnx.ForkedError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
