"""Logits -> token: sampling, and healing of a prompt that ends inside a word."""
