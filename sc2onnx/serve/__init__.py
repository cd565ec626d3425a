"""A completion server for editors: several dialects on one port, over one engine.
The ``serve`` extra.
"""
