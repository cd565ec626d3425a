"""Every client that is tried."""

from __future__ import annotations

from typing import Final

from tests.clients import (
    litellm_pip,
    llama_vim,
    llama_vscode,
    llm_pip,
    node,
    ollama_pip,
    openai_pip,
    tabby_agent,
)
from tests.clients.client import Client

CLIENTS: Final[tuple[Client, ...]] = (
    openai_pip.CLIENT,
    ollama_pip.CLIENT,
    litellm_pip.CLIENT,
    llm_pip.CLIENT,
    *node.CLIENTS,
    tabby_agent.CLIENT,
    llama_vim.CLIENT,
    llama_vscode.CLIENT,
)
