"""Editors that ask a server for completions: what they type, and what they see."""
