"""The completer over a model in the process, without an editor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import sc2onnx
from sc2onnx.runtime.text.fitting import Surroundings
from sc2onnx.serve.lsp.completer import Cursor
from sc2onnx.serve.lsp.local import Local
from sc2onnx.serve.refusal import RefusedError
from tests.lsp.conftest import until

pytestmark = pytest.mark.asyncio


def at(prefix: str, *, tokens: int = 1900, document: str = "file:///a.py") -> Cursor:
    return Cursor(document=document, code=Surroundings(prefix, ""), max_tokens=tokens, timeout=60)


@asynccontextmanager
async def opened(bundle: Path) -> AsyncIterator[tuple[Local, sc2onnx.Model]]:
    model, stages = sc2onnx.load(bundle), list[str]()
    local = Local(lambda: model)
    states = [local.loading]
    await local.open(stages.append)
    states.append(local.loading)
    assert states == [True, False]
    assert stages == ["loading the model", "opening its tokenizer"]
    yield local, model
    await local.close()
    assert not model.engine.threaded


async def test_cancelling_leaves_nothing_active(bundle: Path) -> None:
    async with opened(bundle) as (local, model):
        going = asyncio.create_task(local.complete(at("x = [")))
        await until(lambda: any(row.produced for row in model.engine.lobby.active))
        [row] = model.engine.lobby.active
        going.cancel()
        await until(lambda: not model.engine.lobby.rows, 2)
        assert row.finish_reason == "cancelled"
        with pytest.raises(asyncio.CancelledError):
            await going


async def test_a_newer_request_for_the_same_document_ends_the_older_one(bundle: Path) -> None:
    async with opened(bundle) as (local, model):
        older = asyncio.create_task(local.complete(at("x = [")))
        other = asyncio.create_task(
            local.complete(at("y = [", document="file:///b.py", tokens=300))
        )
        await until(lambda: len(model.engine.lobby.active) == 2)
        newer = asyncio.create_task(local.complete(at("x = [", tokens=8)))
        assert await older == ""
        assert await newer
        assert await other


async def test_what_is_warmed_is_not_computed_again_until_it_is_forgotten(bundle: Path) -> None:
    code = "".join(f"value_{number} = {number}\n" for number in range(40))
    async with opened(bundle) as (local, model):
        await local.warm(at(code))
        [kept] = model.engine.store.sequences
        assert kept.asked > 200
        used = (await model.submit_infill(code, "", order="spm", max_new_tokens=2)).usage
        assert used.reused == used.prompt - 1
        going = asyncio.create_task(local.complete(at("x = [")))
        await until(lambda: bool(model.engine.lobby.active))
        going.cancel()
        await local.forget()
        assert not model.engine.store.sequences
        assert not model.engine.lobby.rows


async def test_what_cannot_be_loaded_is_said_at_each_request(
    token_bundle: Path, tmp_path: Path
) -> None:
    for bundle, told in ((tmp_path / "absent", "absent"), (token_bundle, "tokenizer")):
        local = Local(lambda bundle=bundle: sc2onnx.load(bundle))  # type: ignore[misc]
        with pytest.raises(RefusedError, match=told):
            await local.open(lambda stage: None)
        assert not local.loading
        with pytest.raises(RefusedError, match=told):
            await local.complete(at("x = ["))
        await local.close()
