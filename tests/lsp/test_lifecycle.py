"""How the language server loads, what it stops, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from tests.lsp.conftest import INVOKED, Editor, editor, until

pytestmark = pytest.mark.asyncio

SLOW = """
import time, sys
import sc2onnx.runtime.loading as loading
loaded = loading.load
def load(*given, **options):
    while not __import__("pathlib").Path(sys.argv[-1]).exists():
        time.sleep(0.01)
    return loaded(*given, **options)
loading.load = load
from sc2onnx.cli.main import main
raise SystemExit(main(sys.argv[1:-1]))
"""
"""The command, whose model is loaded once a file is there."""


async def test_it_answers_and_shows_progress_while_the_model_loads(
    bundle: Path, tmp_path: Path
) -> None:
    from pytest_lsp import make_test_lsp_client

    client, gate = make_test_lsp_client(), tmp_path / "gate"
    await client.start_io(
        sys.executable, "-c", SLOW, "lsp", str(bundle), str(gate), env=dict(os.environ)
    )
    one = Editor(client)
    try:
        await one.initialize()
        uri = one.open("a.py", "x = [")
        assert not await one.items(uri, 0, 5)
        assert any("the model is loading" in each.message for each in client.log_messages)
        await until(lambda: any(len(each) == 2 for each in client.progress_reports.values()))
        gate.touch()
        await one.ready()
        await until(lambda: any(len(each) == 4 for each in client.progress_reports.values()))
        [shown] = client.progress_reports.values()
        kinds = [
            type(each) if not isinstance(each, types.ProgressParams) else type(each.value)
            for each in shown
        ]
        assert kinds == [
            types.WorkDoneProgressBegin,
            types.WorkDoneProgressReport,
            types.WorkDoneProgressReport,
            types.WorkDoneProgressEnd,
        ]
        assert await one.items(uri, 0, 5)
        assert await one.end() == 0
    finally:
        gate.touch()
        await client.stop()


async def test_a_client_without_progress_is_not_asked_to_show_any(bundle: Path) -> None:
    async with editor(bundle) as one:
        await one.initialize(progress=False)
        await one.ready()
        assert one.client.progress_reports == {}


async def test_a_cancelled_request_is_answered_as_such(bundle: Path) -> None:
    async with editor(bundle, "--mode", "free", "--max-tokens", "1900") as one:
        await one.initialize()
        uri = one.open("a.py", "x = [")
        await one.ready()
        going = asyncio.create_task(one.items(uri, 0, 5, number="first"))
        await asyncio.sleep(0.1)
        one.client.cancel_request(types.CancelParams("first"))
        with pytest.raises(JsonRpcException) as cancelled:
            await asyncio.wait_for(going, 5)
        assert cancelled.value.code == types.LSPErrorCodes.RequestCancelled
        assert one.told == []


async def test_a_newer_request_takes_the_place_of_an_older_one(bundle: Path) -> None:
    async with editor(bundle, "--mode", "free", "--max-tokens", "1900") as one:
        await one.initialize()
        uri, other = one.open("a.py", "x = ["), one.open("b.py", "y = [")
        await one.ready()
        order = list[str]()

        async def asked(name: str, uri: str, character: int) -> int:
            found = await one.items(uri, 0, character, trigger=INVOKED)
            order.append(name)
            return len(found)

        going = [asyncio.create_task(asked("a", uri, 5)), asyncio.create_task(asked("b", other, 5))]
        await asyncio.sleep(0.05)
        going.append(asyncio.create_task(asked("newer", uri, 5)))
        assert await asyncio.gather(*going) == [0, 1, 1]
        assert order[0] == "a"


async def test_a_request_that_fails_is_a_line_and_ends_nothing(bundle: Path) -> None:
    async with editor(bundle) as one:
        await one.initialize()
        await one.ready()
        with pytest.raises(JsonRpcException) as failed:
            await one.items("file:///nowhere/a.py", 0, 0)
        assert (
            failed.value.message
            == "file:///nowhere/a.py is not open, expected didOpen before a completion"
        )
        assert failed.value.data is None
        uri = one.open("a.py", "x = [")
        assert await one.items(uri, 0, 5)


async def test_a_bundle_that_is_none_is_told_of_once(tmp_path: Path) -> None:
    async with editor(tmp_path / "absent") as one:
        await one.initialize()
        uri = one.open("a.py", "x = [")
        await until(lambda: bool(one.told), 30)
        assert not await one.items(uri, 0, 5)
        assert not await one.items(uri, 0, 5)
        assert len(one.told) == 1
        assert "absent" in one.told[0]
        assert await one.end() == 0


async def test_exit_without_shutdown_is_status_1(bundle: Path) -> None:
    async with editor(bundle) as one:
        await one.initialize()
        one.client.exit(None)
        assert await one.status() == 1


async def test_it_ends_with_its_input_and_with_a_signal(bundle: Path) -> None:
    for end, status in (("input", 0), ("signal", 128 + signal.SIGTERM)):
        async with editor(bundle, "--mode", "free", "--max-tokens", "1900") as one:
            await one.initialize()
            uri = one.open("a.py", "x = [")
            await one.ready()
            going = asyncio.create_task(one.items(uri, 0, 5))
            await asyncio.sleep(0.05)
            process = one.client._server
            assert process is not None
            assert process.stdin is not None
            process.stdin.close() if end == "input" else process.send_signal(signal.SIGTERM)
            assert await one.status() == status
            going.cancel()
