"""Complete and infill code with a bundle: python examples/complete.py BUNDLE"""

import sys

import sc2onnx

model = sc2onnx.load(sys.argv[1])

for piece in model.stream("import unittest\n\nclass Test", max_new_tokens=48):
    print(piece.text, end="", flush=True)
print()

done = model.infill(prefix="def area(width, height):\n    return ", suffix="\n\n\nprint(area(2, 3))\n", max_new_tokens=16)
print(repr(done.text), done.finish_reason)

assert "torch" not in sys.modules
