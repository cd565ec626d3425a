"""What clients speak: JSON -> :class:`~sc2onnx.serve.ask.Ask`, results -> JSON.
No network, no model.
"""
