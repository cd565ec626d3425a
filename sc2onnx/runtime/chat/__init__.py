"""Conversations: a checkpoint's own chat template -> a prompt. The ``chat`` extra."""
