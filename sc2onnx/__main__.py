"""``python -m sc2onnx`` is the ``sc2onnx`` command."""

from sc2onnx.cli.main import entry

entry()
