"""What the language server answers to which message."""

from __future__ import annotations

from lsprotocol import types

from sc2onnx.attribution.attribution import Attribution
from sc2onnx.serve.lsp.completer import Completer
from sc2onnx.serve.lsp.options import Options
from sc2onnx.serve.lsp.server import Server, failed
from sc2onnx.serve.refusal import RefusedError

Asked = types.InlineCompletionParams


def language_server(
    completer: Completer, options: Options, attribution: Attribution | None = None
) -> Server:
    """A language server that answers ``textDocument/inlineCompletion``. ``options``: those that an
    editor does not give. ``attribution``: its log is told which files completions repeat.
    """
    server = Server(completer, options, attribution)
    answers = types.InlineCompletionOptions()
    server.feature(types.INITIALIZED)(_initialized)
    server.feature(types.INITIALIZE)(_initialize)
    server.feature(types.TEXT_DOCUMENT_DID_OPEN)(_opened)
    server.feature(types.TEXT_DOCUMENT_DID_CHANGE)(_changed)
    server.feature(types.TEXT_DOCUMENT_DID_CLOSE)(_closed)
    server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, answers)(_completed)
    return server


def _initialize(ls: Server, params: types.InitializeParams) -> None:
    ls.options, ls.wrong = ls.options.merged(params.initialization_options)


def _initialized(ls: Server, params: types.InitializedParams) -> None:
    for wrong in ls.wrong:
        ls.tell(f"{wrong}; it is left as it was")
    ls.begin(ls.open())


def _opened(ls: Server, params: types.DidOpenTextDocumentParams) -> None:
    ls.documents.touched(params.text_document.uri)
    ls.warm_only(params.text_document.uri)


def _changed(ls: Server, params: types.DidChangeTextDocumentParams) -> None:
    ls.documents.touched(params.text_document.uri)


def _closed(ls: Server, params: types.DidCloseTextDocumentParams) -> None:
    """Nothing of a document stays once no other is open that it was a neighbour of."""
    ls.documents.closed(params.text_document.uri)
    ls.stop(params.text_document.uri)
    if ls.documents.latest is None:
        ls.begin(ls.completer.forget())


async def _completed(ls: Server, params: Asked) -> types.InlineCompletionList:
    if ls.completer.loading:
        ls.note("the model is loading: there are no completions yet")
        return types.InlineCompletionList([])
    try:
        cursor = ls.cursor(params.text_document.uri, params)
    except RefusedError as refusal:
        raise failed(refusal) from None
    text = "" if cursor is None else await ls.complete(cursor)
    if not text.strip():
        return types.InlineCompletionList([])
    if cursor is not None:
        await ls.attribute(text, cursor)
    return types.InlineCompletionList([_item(params, text)])


def _item(params: Asked, text: str) -> types.InlineCompletionItem:
    """A completion, in the place of what the editor has selected in its list, if it has."""
    selected = params.context.selected_completion_info
    if selected is not None:
        return types.InlineCompletionItem(selected.text + text, range=selected.range)
    return types.InlineCompletionItem(text, range=types.Range(params.position, params.position))
