"""Clients as their users install them, driven against a server that runs as its users run it."""

import pytest

_CHECKS = "litellm_pip llama_vim llama_vscode llm_pip node ollama_pip openai_pip server tabby_agent"

pytest.register_assert_rewrite(*(f"tests.clients.{name}" for name in _CHECKS.split()))
