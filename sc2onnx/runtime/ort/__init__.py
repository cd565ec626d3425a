"""ONNX Runtime, as this project lets it in: imported in one place, with nothing reported home."""
