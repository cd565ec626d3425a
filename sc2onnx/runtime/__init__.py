"""Bundle -> completed code. Needs numpy, onnxruntime and tokenizers; never
torch, never the exporter.
"""
