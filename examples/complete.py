"""Complete and infill code with a bundle: python examples/complete.py BUNDLE"""

import sys

import sc2onnx

model = sc2onnx.load(sys.argv[1])

for piece in model.stream("import unittest\n\nclass Test", max_new_tokens=48):
    print(piece.text, end="", flush=True)
print()

prefix = (
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def "
    "push(self, item):\n        self."
)
suffix = "(item)\n\n    def pop(self):\n        return self.items.pop()\n"
done = model.infill(prefix, suffix, path="stack.py", max_new_tokens=32)
print(repr(done.text), done.finish_reason)

assert "torch" not in sys.modules
