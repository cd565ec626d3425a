"""ONNX Runtime, which only this room imports: sessions, devices, our kernels
and their packed weights.
"""
